"""A real S3 server on this machine, for tests of atlases at URLs."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class S3(NamedTuple):
    """A running server."""

    endpoint: str

    def bucket(self) -> str:
        """Make a bucket; return its URL."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def client(self) -> Any:
        """Return boto3's own client: it shares nothing with what is tested."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint)

    def objects(self, url: str) -> dict[str, int]:
        """Return the bytes of all objects below a URL, by their name from there."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        found = {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}
        return {
            name.removeprefix(prefix).lstrip("/"): size
            for name, size in found.items()
            if name.startswith(prefix)
        }


def running_server() -> Iterator[S3]:
    """Yield a server that this process and all it starts find in their environment."""
    from moto.server import ThreadedMotoServer

    # It prints every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield S3(endpoint)
    server.stop()

"""Dask's dashboard of a scheduler in this process: where it listens, and how it ends."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.deploy import Cluster

__all__ = ["end_dashboard", "listening_at"]

_PORT = 8787


def listening_at(address: str | None, *, host: str = "127.0.0.1") -> str | None:
    """Return where a dashboard shall listen.

    Parameters
    ----------
    address
        As a user gives it: `HOST:PORT` or `:PORT`; `"none"` or None for no dashboard; `"auto"` takes
        Dask's usual port, or any free one if that is taken.
    host
        For `"auto"`: the interface it can be reached at.

    Returns
    -------
    str, or None for no dashboard.
    """
    if address is None or address == "none":
        return None
    if address != "auto":
        return address
    with closing(socket.socket()) as probe:
        # A port that was in use a moment ago is free; one that is listened at is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, _PORT))
        except OSError:
            return f"{host}:0"
    return f"{host}:{_PORT}"


def end_dashboard(cluster: Cluster) -> None:
    """End the dashboard of a cluster whose scheduler is in this process, before the cluster is closed.

    Bokeh 3.10 cannot be stopped in the way that distributed 2026.7 does, from inside the loop, and the
    error keeps the scheduler from closing its connections. Goes when distributed awaits Bokeh's end.
    """
    cluster.sync(_end_applications, cluster)


async def _end_applications(cluster: Cluster) -> None:
    """Stop what serves pages, and make Dask's own attempt at it do nothing."""
    http = getattr(cluster.scheduler, "http_application", None)
    for application in getattr(http, "applications", ()):
        if hasattr(application, "stop_async"):
            await application.stop_async()
            application.stop = _nothing


def _nothing() -> None:
    """Take the place of a stop that has been made."""

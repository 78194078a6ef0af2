"""What every test may use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.s3 import S3, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that lies beside the project, where there is one."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data sets are not beside this checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server."""
    yield from running_server()

"""Small and read-only disks for tests of what happens when writing fails."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, n_bytes: int) -> Iterator[Path]:
    """Yield a folder on a disk of `n_bytes`; skip the test where mounting one is not allowed."""
    mount = folder / "small-disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "none", str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small disk with")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def fill(disk: Path, *, leave_bytes: int) -> None:
    """Fill a small disk but for `leave_bytes`."""
    (disk / "filling").unlink(missing_ok=True)
    free = os.statvfs(disk)
    with (disk / "filling").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave_bytes)

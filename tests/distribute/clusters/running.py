"""Schedulers and workers as a site starts them: processes of Dask's own commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from distributed import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def process(
    *command: object, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Iterator[object]:
    """Run a command of Python's, and end it with the block."""
    started = subprocess.Popen(
        [*prefix, sys.executable, "-m", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(20)


@contextmanager
def cluster(folder: Path, **worker_options) -> Iterator[Path]:
    """Run a scheduler and one worker with Dask's own settings; yield the scheduler's file."""
    file = folder / "scheduler.json"
    with ExitStack() as stack:
        listens = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        command = ("distributed.cli.dask_scheduler", "--scheduler-file", file, *listens)
        stack.enter_context(process(*command))
        wait_until(file.exists)
        stack.enter_context(worker(file, **worker_options))
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=30)
        yield file


@contextmanager
def worker(file: Path, *options: object, **more) -> Iterator[object]:
    """Run a worker of a scheduler."""
    with process(
        "distributed.cli.dask_worker", "--scheduler-file", file, "--nthreads", 1, "--no-dashboard",
        *options, **more,
    ) as started:  # fmt: skip
        yield started


def wait_until(holds, within_s: float = 30.0) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends, f"still not after {within_s:.0f} s"
        time.sleep(0.05)

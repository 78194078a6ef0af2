"""Ctrl-C and the processes we start: it reaches the parent, which ends them; never them."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["interrupts_deferred"]


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold back Ctrl-C while the block runs, and from all processes its threads will start.

    A terminal sends SIGINT to every process in the foreground. A worker that dies of it while it
    starts leaves Dask waiting for a minute. Threads and processes inherit the signal mask of the
    thread that starts them, so blocking SIGINT here keeps it from workers for good.
    """
    held: list[Any] = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Starting it later would unblock SIGINT in the thread that starts workers.
    resource_tracker.ensure_running()
    # The mask alone will not do: the system may give the signal to a thread that does not block it,
    # and Python then interrupts the main thread all the same.
    handler = signal.signal(signal.SIGINT, lambda *_: held.append(1)) if in_main_thread else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if held:
        raise KeyboardInterrupt

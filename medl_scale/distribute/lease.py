"""Whether a Dask worker is still wanted to do what it does, seen from the worker.

Dask forgets a task when its client releases it, cancels it or goes away, but it cannot end a running
function: that is done here.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.allocation import keep_freed_memory
from medl_scale.distribute.tasks import Lost, attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Worker

    from medl_scale.distribute.tasks import Outcome, Task
    from medl_scale.distribute.watch import Place

__all__ = ["attempt_here", "is_held", "wrong_place"]

_EVERY_S = 0.5
# States in which somebody wants a task: it runs, or its result is kept for them.
_HELD = frozenset({"executing", "long-running", "memory"})
_ENDING = frozenset({"closing", "closed", "failed"})


class _NotWantedError(BaseException):
    """Raised inside a function that nobody waits for any more."""


def attempt_here(function: Callable[[Any], Any], task: Task, place: Place) -> Outcome | Lost:
    """Run a task in this worker process, and end it when its client drops it.

    Ending takes until the function next runs Python code, as with Ctrl-C.

    Parameters
    ----------
    place
        Where the driver believes to be; a worker that was started again is another one.
    """
    from distributed import get_worker

    worker = get_worker()
    mistaken = wrong_place(worker, place)
    if mistaken is not None:
        return mistaken
    keep_freed_memory()
    key = worker.get_current_task()
    thread = threading.get_ident()
    ended = threading.Event()
    # Held while the exception is sent, so that it cannot come after the function's end.
    lock = threading.Lock()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            if not is_held(worker, key):
                with lock:
                    if not ended.is_set():
                        _raise_in(thread)
                return

    watcher = threading.Thread(target=watch, name=f"lease of {key}", daemon=True)
    try:
        watcher.start()
        outcome = attempt(function, task)
        with lock:
            ended.set()
    except _NotWantedError:
        ended.set()
        return Lost("its client dropped it")
    return outcome


def is_held(worker: Worker, key: Any) -> bool:
    """Say whether somebody still wants a task of this worker, or its result.

    A worker that has lost its scheduler closes, and would wait for its running functions first.
    """
    task = worker.state.tasks.get(key)
    return task is not None and task.state in _HELD and worker.status.name not in _ENDING


def wrong_place(worker: Worker, place: Place) -> Lost | None:
    """Return a loss if this worker is not the one that the driver meant."""
    if worker.id == place.id:
        return None
    return Lost("its worker process ended before the task reached it")


def _raise_in(thread: int) -> None:
    """Raise in another thread, when it next runs Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(_NotWantedError)
    )

"""The process of one rank: it waits for calls, runs them one after another, and beats meanwhile.

Started by `medl_scale.distribute.member_task` as `python -m medl_scale.distribute.member FD`, FD being
its end of a socket pair. It never outlives its parent, and it ends itself after any failure: a process
whose collective calls have failed cannot make others.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.allocation import keep_freed_memory
from medl_scale.distribute.messages import Beat, Ended, Reported
from medl_scale.distribute.tasks import Lost, Outcome, failure
from medl_scale.errors import RankLostError

if TYPE_CHECKING:
    from medl_scale.distribute.messages import Call

__all__ = ["main"]

_BEAT_S = 1.0
_PR_SET_PDEATHSIG = 1


class _Link:
    """The way back to the parent; its threads take turns."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lock = threading.Lock()

    def send(self, message: Beat | Reported | Ended) -> None:
        """Send a message; without a parent, end."""
        try:
            with self.lock:
                self.connection.send(message)
        except OSError:
            os._exit(1)


def main() -> None:
    """Serve calls until the parent goes, or one fails."""
    _die_with_parent()
    keep_freed_memory()
    connection: Connection = Connection(int(sys.argv[1]))
    # What the parent can import, this process can.
    sys.path[:] = connection.recv()
    link = _Link(connection)
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()
    threading.Thread(target=_beat, args=(link,), daemon=True).start()
    while True:
        _serve(calls.get(), link)


def _die_with_parent() -> None:
    """Have the system end this process with the thread that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive(connection: Connection, calls: queue.SimpleQueue[Call]) -> None:
    """Take calls from the parent; when it closes its end, or dies, so does this process."""
    try:
        while True:
            calls.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)


def _beat(link: _Link) -> None:
    """Say once a second that this process lives."""
    while True:
        link.send(Beat(time.process_time()))
        time.sleep(_BEAT_S)


def _serve(call: Call, link: _Link) -> None:
    """Run one call and send how it ended."""
    outcome = _run(call, link)
    is_last = isinstance(outcome, Lost) or outcome.error is not None
    try:
        content = _dumps(outcome)
    except Exception as error:  # noqa: BLE001 - whatever a foreign value raises
        content, is_last = _dumps(failure(call.name, error)), True
    sys.stdout.flush()
    sys.stderr.flush()
    link.send(Ended(content))
    if is_last:
        # Libraries of collectives are known to block or abort at a regular exit after a failure.
        os._exit(0)


def _run(call: Call, link: _Link) -> Outcome | Lost:
    """Return how one call ended."""
    try:
        function, payload = pickle.loads(call.function), pickle.loads(call.payload)
        value = function(payload, _reporter(link), call.ranks)
    except RankLostError as error:
        return Lost(str(error), is_echo=True)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is told to the driver
        return failure(call.name, error)
    # All ranks return the same: one of them is enough.
    return Outcome(call.name, value=value if call.ranks.is_first else None)


def _reporter(link: _Link) -> Any:
    """Return what the function calls when it has got on."""
    last_s = 0.0

    def report(*_: Any) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _BEAT_S:
            last_s = time.monotonic()
            link.send(Reported())

    return report


def _dumps(value: Any) -> bytes:
    """Pickle a value, also of a class that was made on the fly."""
    import cloudpickle

    content: bytes = cloudpickle.dumps(value)
    return content


if __name__ == "__main__":
    main()

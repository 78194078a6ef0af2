"""Starting and ending a member's process, and what comes out of it: messages and print."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.tasks import Lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medl_scale.distribute.messages import Call

__all__ = ["MemberProcess"]

_TAIL_LINES = 40
_END_S = 1.0
# A process stopped in the middle of a message would otherwise hold its reader, or writer, for ever.
_MESSAGE_S = 10
_PACKAGES = str(Path(__file__).resolve().parents[2])


class MemberProcess:
    """A running `medl_scale.distribute.member`.

    The thread that makes it must live as long as it: with that thread the system ends the process.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _MESSAGE_S, 0))
        paths = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "medl_scale.distribute.member", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # What libraries print must not be lost, nor be taken for an answer.
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A group of its own can be ended with all that the process may have started.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._connection: Connection = Connection(ours.detach())
        self._output: Any = self._process.stdout
        self._sources: list[Any] = [self._connection, self._output]
        self._lines: deque[bytes] = deque(maxlen=_TAIL_LINES)
        with suppress(OSError):
            self._connection.send(sys.path)

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    def send(self, call: Call) -> None:
        """Send a call.

        Raises
        ------
        OSError
            If the process does not take it.
        """
        self._connection.send(call)

    def messages(self, timeout_s: float) -> Iterator[Any]:
        """Yield the messages that have come, after waiting at most `timeout_s` for the first."""
        for source in wait(self._sources, timeout_s):
            try:
                if source is self._output:
                    self._take_output()
                else:
                    yield self._connection.recv()
            except (EOFError, OSError):
                self._sources.remove(source)

    @property
    def is_connected(self) -> bool:
        """Whether messages can still come."""
        return self._connection in self._sources

    def how_ended(self) -> Lost:
        """Return how the process ended after it closed its connection."""
        try:
            status = self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            return Lost("its process does not answer")
        if status >= 0:
            return Lost(f"its process ended with exit status {status}")
        return Lost(f"its process was killed by {signal.Signals(-status).name}")

    def end(self) -> str:
        """Kill the process and all it started; return the last lines that it printed."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        os.set_blocking(self._output.fileno(), False)
        with suppress(EOFError, OSError):
            while True:
                self._take_output()
        self._output.close()
        self._connection.close()
        return b"\n".join(self._lines).decode(errors="replace").strip()

    def _take_output(self) -> None:
        """Keep the last lines that the process printed."""
        content = os.read(self._output.fileno(), 1 << 16)
        if not content:
            raise EOFError
        first, *others = content.split(b"\n")
        if self._lines:
            first = self._lines.pop() + first
        self._lines.extend([first, *others])

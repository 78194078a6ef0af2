"""Ranks find each other before TensorFlow does: its first rank would wait for the others without end.

Every rank tells the first that it is there; when all have, the first tells them so and its port is
free again, for TensorFlow to listen at.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from medl_scale.errors import RankLostError

if TYPE_CHECKING:
    from medl_scale.ranks import Ranks

__all__ = ["await_all"]

RETRY_S = 0.1
_NUMBER = struct.Struct("!I")


def await_all(ranks: Ranks, timeout_s: float) -> None:
    """Return when all ranks are there.

    Raises
    ------
    RankLostError
        If they are not within `timeout_s`, or the first rank's port is taken.
    """
    end = time.monotonic() + timeout_s
    try:
        if ranks.is_first:
            _host(ranks, end)
        else:
            _report(ranks, end)
    except OSError as error:
        if isinstance(error, RankLostError):
            raise
        whom = "others" if ranks.is_first else "first"
        raise RankLostError(
            f"Rank {ranks.rank} of {ranks.world_size} did not meet the {whom} within "
            f"{timeout_s:.0f} s, the first being at {ranks.addresses[0]}: {error}. Look why they did "
            "not start, and start all ranks again in fresh processes, at free ports."
        ) from error


def _host(ranks: Ranks, end: float) -> None:
    """Wait for the others, as the first rank."""
    missing = set(range(1, ranks.world_size))
    _, port = _place(ranks.addresses[0])
    with ExitStack() as held:
        # At all interfaces, as TensorFlow listens.
        server = held.enter_context(socket.create_server(("", port), backlog=ranks.world_size))
        came = []
        while missing:
            server.settimeout(_left(end))
            try:
                connection, _ = server.accept()
            except TimeoutError as error:
                names = ", ".join(str(rank) for rank in sorted(missing))
                raise TimeoutError(f"rank {names} did not come") from error
            held.enter_context(connection)
            connection.settimeout(_left(end))
            told = connection.recv(_NUMBER.size, socket.MSG_WAITALL)
            if len(told) == _NUMBER.size:
                missing.discard(_NUMBER.unpack(told)[0])
                came.append(connection)
        for connection in came:
            connection.sendall(b"1")
        for connection in came:
            # Whoever closes first leaves a trace at its port, which is not to be this one.
            connection.recv(1)


def _report(ranks: Ranks, end: float) -> None:
    """Tell the first rank that this one is there, and wait for its word."""
    while True:
        try:
            connection = socket.create_connection(_place(ranks.addresses[0]), timeout=_left(end))
            with connection:
                connection.sendall(_NUMBER.pack(ranks.rank))
                connection.settimeout(_left(end))
                if connection.recv(1) == b"1":
                    return
        except ConnectionError:
            # It does not listen yet.
            _left(end)
        time.sleep(RETRY_S)


def _left(end: float) -> float:
    """Return the seconds that are left; raise if there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer")
    return left


def _place(address: str) -> tuple[str, int]:
    """Return host and port of an address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)

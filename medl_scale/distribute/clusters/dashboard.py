"""Where Dask's dashboard of a scheduler in this process listens."""

from __future__ import annotations

import socket
from contextlib import closing

__all__ = ["listening_at"]

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

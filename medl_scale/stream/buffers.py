"""Arrays for minibatches, used again as soon as nobody refers to them.

A fresh array of a minibatch's size costs more in page faults than filling it. But TensorFlow and
JAX may use an array's memory without copying it, at a time of their choosing, so an array must not
be written to while anybody holds it: the count of its references tells.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Buffers"]


class Buffers:
    """A few arrays of equal shape, handed out again when they are free.

    Parameters
    ----------
    n_rows, n_vars
        Shape of the largest array that will be asked for.
    most
        Arrays to keep; while all of them are held, more are made and not kept.
    """

    def __init__(self, n_rows: int, n_vars: int, *, most: int = 8) -> None:
        self._shape = (n_rows, n_vars)
        self._most = most
        self._arrays: list[NDArray[np.float32]] = []
        self._free = _references([np.empty(0, np.float32)], 0)

    def take(self, n_rows: int) -> NDArray[np.float32]:
        """Return an array (n_rows, n_vars) of float32 with any content.

        It is a view of an array kept here, so that whoever holds it, or a view of it, holds that.
        """
        # The array freed last is likeliest to be still in the processor's cache.
        for place in reversed(range(len(self._arrays))):
            if _references(self._arrays, place) == self._free:
                self._arrays.append(self._arrays.pop(place))
                return self._arrays[-1][:n_rows]
        fresh = np.empty(self._shape, np.float32)
        if len(self._arrays) < self._most:
            self._arrays.append(fresh)
        return fresh[:n_rows]


def _references(arrays: list[NDArray[np.float32]], place: int) -> int:
    """Count the references to an array of a list; how many a free one has depends on Python."""
    return sys.getrefcount(arrays[place])

"""Latents of all cells put in the order of their groups, in a scratch file rather than in memory."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from medl_scale.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    type Floats = NDArray[np.float32]

__all__ = ["GroupedLatents", "count_groups", "grouped_latents"]

_COUNTED_ROWS = 2**18
"""Codes counted at once: numpy makes wide copies of them."""


class GroupedLatents:
    """Latents that lie group after group in an open file."""

    def __init__(self, file: BinaryIO, counts: NDArray[np.int64], n_latent: int) -> None:
        self.counts = counts
        """(n_groups,) cells of each group."""
        self.n_latent = n_latent
        self._file = file
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def chunks(self, group: int, most_rows: int) -> Iterator[Floats]:
        """Yield the latents of one group, at most so many cells at a time, in the atlas' order."""
        start, stop = int(self._starts[group]), int(self._starts[group + 1])
        for first in range(start, stop, most_rows):
            n = min(most_rows, stop - first)
            row_bytes = self.n_latent * 4
            # Reads at a place of their own, so that threads need not take turns.
            found = os.pread(self._file.fileno(), n * row_bytes, first * row_bytes)
            yield np.frombuffer(found, np.float32).reshape(n, self.n_latent)


def count_groups(groups: NDArray[np.integer[Any]], n_groups: int) -> NDArray[np.int64]:
    """Return (n_groups,) how many rows each group has; rows of group -1 count nowhere."""
    counts = np.zeros(n_groups, np.int64)
    for start in range(0, groups.size, _COUNTED_ROWS):
        part = groups[start : start + _COUNTED_ROWS]
        counts += np.bincount(part[part >= 0], minlength=n_groups)
    return counts


@contextmanager
def grouped_latents(
    blocks: Iterable[tuple[slice, Floats]],
    groups: NDArray[np.integer[Any]],
    n_groups: int,
    n_latent: int,
    folder: Path,
) -> Iterator[GroupedLatents]:
    """Sort latents by group into a file that is gone when the block ends.

    Parameters
    ----------
    blocks
        Rows and their latents, (m, n_latent) float32; every row of the atlas once.
    groups
        (n_obs,) group of each row, 0 to n_groups - 1; rows of group -1 are left out.
    folder
        Where the file lies; 4 * n_latent bytes a cell.

    Raises
    ------
    DataError
        If the blocks do not hold every row once.
    """
    counts = count_groups(groups, n_groups)
    free = np.concatenate([[0], np.cumsum(counts)])[:-1]
    n_seen = 0
    with tempfile.TemporaryFile(dir=folder) as file:
        # Plain writes: a full disk would end a process that writes to a memory map.
        for rows, latent in blocks:
            own = groups[rows]
            n_seen += own.size
            order = np.argsort(own, kind="stable")[np.count_nonzero(own < 0) :]
            ordered = np.ascontiguousarray(latent[order], np.float32)
            found, starts = np.unique(own[order], return_index=True)
            for group, (start, stop) in zip(found, pairwise([*starts, order.size]), strict=True):
                file.seek(int(free[group]) * n_latent * 4)
                file.write(ordered[start:stop].data)
                free[group] += stop - start
        if n_seen != groups.size:
            raise DataError(
                f"Latents of all {groups.size:,} cells are needed; {n_seen:,} came. "
                "Finish the run with --resume."
            )
        file.flush()
        yield GroupedLatents(file, counts, n_latent)

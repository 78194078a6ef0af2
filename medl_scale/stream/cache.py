"""Decoded rows kept in host memory, up to a stated number of bytes."""

from __future__ import annotations

from itertools import accumulate, pairwise
from threading import Lock
from typing import TYPE_CHECKING, override

import numpy as np

from medl_scale.stream.contract import CsrRows, Source
from medl_scale.stream.runs import Stretches

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CachedSource"]


class CachedSource(Source):
    """A source that remembers the blocks it read first.

    Every epoch reads every row once, in an order that changes: the row read longest ago is as
    likely to come next as any other, so nothing is gained by evicting, and blocks once kept stay.
    Blocks are aligned in the store; a wanted run may begin and end anywhere.

    Parameters
    ----------
    source
        Where rows are read.
    budget_bytes
        Most bytes of decoded rows to keep.
    run_size
        Rows of a block; best the rows of a chunk of the store.
    """

    def __init__(self, source: Source, budget_bytes: int, run_size: int = 256) -> None:
        self.n_obs, self.n_vars = source.n_obs, source.n_vars
        self.cached_bytes = 0
        """Bytes kept so far."""
        self.hits = 0
        """Pieces of runs that were served from memory."""
        self.misses = 0
        """Pieces of runs that had to be read."""
        self._source = source
        self._budget_bytes = budget_bytes
        self._run_size = run_size
        self._blocks: dict[int, CsrRows] = {}
        self._has_room = budget_bytes > 0
        # A training stream may still be reading ahead while validation reads.
        self._lock = Lock()

    @override
    def _read(self, runs: list[slice]) -> CsrRows:
        pieces = Stretches.aligned(runs, self._run_size).runs
        if not pieces:
            return self._source.fetch(runs)
        with self._lock:
            missing = [rows for rows in pieces if rows.start // self._run_size not in self._blocks]
            self.hits += len(pieces) - len(missing)
            self.misses += len(missing)
            read = self._read_missing(missing)
            return _joined([self._piece(rows, read) for rows in pieces])

    @override
    def close(self) -> None:
        with self._lock:
            self._blocks.clear()
            self._has_room = False
        self._source.close()

    def _read_missing(self, missing: list[slice]) -> dict[slice, CsrRows]:
        """Read pieces that are not kept, in one request, and keep them while there is room."""
        if not missing:
            return {}
        wanted = list(dict.fromkeys(self._request(rows) for rows in missing))
        found = self._source.fetch(wanted)
        borders = accumulate((rows.stop - rows.start for rows in wanted), initial=0)
        read = {
            rows: _cut(found, begin, end)
            for rows, (begin, end) in zip(wanted, pairwise(borders), strict=True)
        }
        for rows, part in read.items():
            if self._has_room:
                self._keep(rows.start // self._run_size, part)
        return read

    def _piece(self, rows: slice, read: dict[slice, CsrRows]) -> CsrRows:
        """Return the rows of one piece, from what is kept or from what was just read."""
        if rows in read:
            return read[rows]
        block = self._block(rows)
        kept = self._blocks.get(rows.start // self._run_size)
        held = read[block] if kept is None else kept
        return _cut(held, rows.start - block.start, rows.stop - block.start)

    def _request(self, rows: slice) -> slice:
        """Return what to read for a piece: its whole block as long as that may be kept."""
        return self._block(rows) if self._has_room else rows

    def _block(self, rows: slice) -> slice:
        """Return the rows of the block that holds a piece."""
        start = rows.start - rows.start % self._run_size
        return slice(start, min(start + self._run_size, self.n_obs))

    def _keep(self, block: int, rows: CsrRows) -> None:
        """Keep a compact copy of a block, or close the cache when it does not fit."""
        n_bytes = sum(array.nbytes for array in rows)
        if self.cached_bytes + n_bytes > self._budget_bytes:
            self._has_room = False
            return
        self._blocks[block] = CsrRows(*(array.copy() for array in rows))
        self.cached_bytes += n_bytes


def _cut(rows: CsrRows, start: int, stop: int) -> CsrRows:
    """Return the rows [start, stop), as views but for where they begin."""
    indptr = rows.indptr[start : stop + 1]
    values = slice(int(indptr[0]), int(indptr[-1]))
    return CsrRows(rows.data[values], rows.indices[values], indptr - indptr[0])


def _joined(parts: Sequence[CsrRows]) -> CsrRows:
    """Put rows one after another."""
    if len(parts) == 1:
        return parts[0]
    begins = accumulate((part.data.size for part in parts), initial=0)
    ends = [part.indptr[1:] + begin for part, begin in zip(parts, begins, strict=False)]
    return CsrRows(
        np.concatenate([part.data for part in parts]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([[0], *ends]),
    )

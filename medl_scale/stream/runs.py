"""Stretches of rows that lie together in the store: cutting, numbering, reading in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Places", "Stretches", "row_numbers", "sequential_runs"]


class Stretches(NamedTuple):
    """A sequence of rows made of stretches that lie together in the store."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def cut(self, start: int, stop: int) -> Stretches:
        """Return the stretches that hold the rows [start, stop) of the sequence."""
        ends = np.cumsum(self.lengths)
        skipped = np.maximum(start - (ends - self.lengths), 0)
        lengths = np.minimum(stop - (ends - self.lengths), self.lengths) - skipped
        kept = lengths > 0
        return Stretches((self.starts + skipped)[kept], lengths[kept])

    @classmethod
    def aligned(cls, slices: Sequence[slice], run_size: int) -> Stretches:
        """Cut `slices` where `run_size` divides the row number."""
        starts, lengths = [], []
        for rows in slices:
            inner = np.arange(rows.start // run_size + 1, -(-rows.stop // run_size)) * run_size
            borders = np.concatenate([[rows.start], inner, [rows.stop]]).astype(np.int64)
            starts.append(borders[:-1])
            lengths.append(np.diff(borders))
        return cls(np.concatenate(starts), np.concatenate(lengths))

    def take(self, order: NDArray[np.int64]) -> Stretches:
        """Return the stretches in another order."""
        return Stretches(self.starts[order], self.lengths[order])

    @property
    def n_rows(self) -> int:
        """Rows of all stretches."""
        return int(self.lengths.sum())

    @property
    def runs(self) -> list[slice]:
        """The stretches as slices."""
        ends = self.starts + self.lengths
        return [slice(a, b) for a, b in zip(self.starts.tolist(), ends.tolist(), strict=True)]


class Places:
    """Where rows of the store come when slices of them are put one after another."""

    def __init__(self, slices: Sequence[slice]) -> None:
        starts = np.array([rows.start for rows in slices], np.int64)
        lengths = np.array([rows.stop - rows.start for rows in slices], np.int64)
        order = np.argsort(starts)
        self._starts = starts[order]
        self._offsets = (np.cumsum(lengths) - lengths)[order]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the (m,) places of rows that lie in the slices."""
        within = np.searchsorted(self._starts, rows, side="right") - 1
        return rows - self._starts[within] + self._offsets[within]


def row_numbers(runs: Sequence[slice]) -> NDArray[np.int64]:
    """Return the rows of `runs` one after another, int64."""
    if not runs:
        return np.empty(0, np.int64)
    return np.concatenate([np.arange(rows.start, rows.stop, dtype=np.int64) for rows in runs])


def sequential_runs(slices: Sequence[slice], block_rows: int) -> Iterator[tuple[slice, ...]]:
    """Yield the rows of `slices` in order, `block_rows` at a time; only the last may be shorter.

    Raises
    ------
    ConfigError
        If `block_rows` is not positive.
    """
    if block_rows < 1:
        raise ConfigError(f"block_rows must be at least 1; got {block_rows!r}.")
    block: list[slice] = []
    wanted = block_rows
    for rows in slices:
        start = int(rows.start)
        while start < rows.stop:
            taken = slice(start, min(start + wanted, int(rows.stop)))
            block.append(taken)
            start = taken.stop
            wanted -= taken.stop - taken.start
            if wanted == 0:
                yield tuple(block)
                block, wanted = [], block_rows
    if block:
        yield tuple(block)

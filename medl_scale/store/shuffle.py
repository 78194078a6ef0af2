"""Putting rows into another order on disk, with sequential reads and writes only.

Rows are scattered to files by the range of rows they go to; each range is then put in order in
memory. What is held at a time does not grow with the number of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.store.kernels import fill_chosen, place_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    import scipy.sparse as sp
    from numpy.typing import DTypeLike, NDArray

__all__ = ["RowShuffle", "Rows"]

_RANGE_BYTES = 2**24
_MAX_RANGES = 256


class Rows(NamedTuple):
    """Consecutive rows of the shuffled matrix."""

    values: NDArray[Any]
    indices: NDArray[Any]
    lengths: NDArray[np.int32]
    """Entries of each row."""


class RowShuffle:
    """Takes rows in any order, gives them back in that of their destinations.

    Parameters
    ----------
    folder
        An empty folder of its own; whoever owns it removes it.
    n_rows, n_entries
        Size of the shuffled matrix.
    dtype
        Type of the values.
    index_dtype
        Type of the column indices.
    """

    def __init__(
        self, folder: Path, n_rows: int, n_entries: int, dtype: DTypeLike, index_dtype: DTypeLike
    ) -> None:
        self.n_rows = n_rows
        self.dtype, self.index_dtype = np.dtype(dtype), np.dtype(index_dtype)
        n_bytes = n_entries * (self.dtype.itemsize + self.index_dtype.itemsize)
        n_ranges = min(_MAX_RANGES, max(1, -(-n_bytes // _RANGE_BYTES)))
        self.range_rows = max(1, -(-n_rows // n_ranges))
        folder.mkdir(parents=True)
        n_ranges = -(-n_rows // self.range_rows)
        self._paths = [folder / f"range_{number}" for number in range(n_ranges)]
        self._files = [path.open("wb") for path in self._paths]

    def __enter__(self) -> RowShuffle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()

    def add(
        self,
        block: sp.csr_matrix,
        destinations: NDArray[np.int64],
        positions: NDArray[np.int32],
    ) -> None:
        """Take a block of rows.

        Parameters
        ----------
        block
            (n, n_all_vars) compressed rows.
        destinations
            (n,) rows of the shuffled matrix, -1 for rows to leave out.
        positions
            (n_all_vars,) columns of the shuffled matrix, -1 for those to leave out.
        """
        rows = np.flatnonzero(destinations >= 0)
        owners = destinations[rows] // self.range_rows
        order = np.argsort(owners, kind="stable")
        rows, owners = rows[order], owners[order]
        values = np.empty(block.nnz, self.dtype)
        indices = np.empty(block.nnz, self.index_dtype)
        lengths = np.empty(len(rows), np.int32)
        fill_chosen(
            block.data, block.indices, block.indptr, rows, positions, values, indices, lengths
        )
        ends = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        for owner in np.unique(owners):
            first, last = np.searchsorted(owners, (owner, owner + 1))
            entries = slice(ends[first], ends[last])
            sizes = np.array([last - first, ends[last] - ends[first]], np.int64)
            for part in (
                sizes,
                destinations[rows[first:last]],
                lengths[first:last],
                indices[entries],
                values[entries],
            ):
                self._files[owner].write(part.data)

    def ranges(self) -> Iterator[Rows]:
        """Yield all rows in the order of their destinations; each file goes once it is read."""
        for file in self._files:
            file.close()
        for number, path in enumerate(self._paths):
            start = number * self.range_rows
            yield self._ordered(path, start, min(self.range_rows, self.n_rows - start))
            path.unlink()

    def _ordered(self, path: Path, start: int, n_rows: int) -> Rows:
        """Return the rows of one range in order."""
        pieces = list(self._pieces(path))
        lengths = np.empty(n_rows, np.int32)
        for rows, piece in pieces:
            lengths[rows - start] = piece.lengths
        begins = np.cumsum(lengths, dtype=np.int64) - lengths
        n_entries = int(lengths.sum())
        ordered = Rows(
            np.empty(n_entries, self.dtype), np.empty(n_entries, self.index_dtype), lengths
        )
        for rows, piece in pieces:
            places = begins[rows - start]
            place_rows(piece.values, piece.lengths, places, ordered.values)
            place_rows(piece.indices, piece.lengths, places, ordered.indices)
        return ordered

    def _pieces(self, path: Path) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """Yield what each block added to a range: destinations, and the rows that go there."""
        with path.open("rb") as file:
            while (sizes := np.fromfile(file, np.int64, 2)).size:
                n_rows, n_entries = sizes
                rows = np.fromfile(file, np.int64, n_rows)
                lengths = np.fromfile(file, np.int32, n_rows)
                indices = np.fromfile(file, self.index_dtype, n_entries)
                yield rows, Rows(np.fromfile(file, self.dtype, n_entries), indices, lengths)

"""Turning a matrix that comes by columns, or in any order, into rows on disk.

Entries are scattered to files by ranges of rows, then each range is sorted: two sequential passes,
in a memory that does not grow with the matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from medl_scale.store.readers import CsrMatrix

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Entries", "csr_on_disk"]

_RANGE_ENTRIES = 2**23


class Entries(NamedTuple):
    """Some entries of a matrix, in any order."""

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: NDArray[Any]


def csr_on_disk(
    entries: Iterable[Entries],
    shape: tuple[int, int],
    n_entries: int,
    dtype: np.dtype[Any],
    folder: Path,
) -> CsrMatrix:
    """Write entries as compressed rows below `folder` and return the matrix over these files.

    Parameters
    ----------
    entries
        Pieces that together hold every entry once, in any order.
    shape
        (n_obs, n_vars).
    n_entries
        How many entries to expect; they decide the number of ranges.
    dtype
        Type of the values.
    folder
        An empty folder of its own; whoever owns it removes it.
    """
    folder.mkdir(parents=True)
    n_ranges = max(1, min(256, -(-n_entries // _RANGE_ENTRIES)))
    range_rows = max(1, -(-shape[0] // n_ranges))
    record = np.dtype([("row", np.int32), ("column", np.int32), ("value", dtype)])
    paths = [folder / f"range_{number}" for number in range(-(-shape[0] // range_rows))]
    files = [path.open("wb") for path in paths]
    try:
        for piece in entries:
            records = np.empty(len(piece.rows), record)
            records["row"], records["column"], records["value"] = piece
            owner = piece.rows // range_rows
            order = np.argsort(owner, kind="stable")
            bounds = np.searchsorted(owner[order], np.arange(len(files) + 1))
            for number in np.unique(owner):
                files[number].write(records[order[bounds[number] : bounds[number + 1]]])
    finally:
        for file in files:
            file.close()
    lengths = np.zeros(shape[0] + 1, np.int64)
    with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
        for number, path in enumerate(paths):
            start = number * range_rows
            n_rows = min(range_rows, shape[0] - start)
            records = np.fromfile(path, record)
            path.unlink()
            block = sp.coo_matrix(
                (records["value"], (records["row"] - start, records["column"])),
                shape=(n_rows, shape[1]),
            ).tocsr()
            data.write(block.data.astype(dtype, copy=False))
            indices.write(block.indices.astype(np.int32, copy=False))
            lengths[start + 1 : start + n_rows + 1] = np.diff(block.indptr)
    return CsrMatrix(
        _mapped(folder / "data", dtype),
        _mapped(folder / "indices", np.dtype(np.int32)),
        np.cumsum(lengths),
        shape,
    )


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a file as an array; an empty one cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")

"""Rows of a count matrix, block by block, whatever its layout: one small class a layout.

`h5py` and Zarr arrays slice alike, so a layout is read the same way from either. Which file holds
which layout is the matter of `store.formats`.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, override

import numpy as np
import scipy.sparse as sp

from medl_scale.errors import DataError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pandas as pd
    from numpy.typing import NDArray

__all__ = [
    "CsrMatrix",
    "DenseMatrix",
    "Input",
    "Matrix",
    "SlicedMatrix",
    "check_chunks",
    "reading",
]

_BLOCK_VALUES = 2**22
"""Stored values read at a time: 32 MiB as float32 with int32 indices."""


class Matrix(ABC):
    """A matrix of counts whose rows (cells) are read by contiguous slices."""

    shape: tuple[int, int]
    """(n_obs, n_vars) of what is stored."""
    dtype: np.dtype[Any]
    block_rows: int
    """How many rows to read at a time for a bounded memory."""

    @abstractmethod
    def read(self, rows: slice) -> sp.csr_matrix:
        """Return a block of rows; its indices may be unsorted or repeated."""


class CsrMatrix(Matrix):
    """Compressed rows in three arrays that can be sliced: HDF5, Zarr, or memory-mapped files."""

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.data, self.indices = data, indices
        self.indptr = np.asarray(indptr[:], dtype=np.int64)
        self.shape = shape
        self.dtype = np.dtype(data.dtype)
        steps = np.diff(self.indptr)
        stored = int(self.indptr[-1]) if len(self.indptr) else 0
        if len(self.indptr) != shape[0] + 1 or (steps < 0).any():
            raise StoreError(
                f"its row pointer has {len(self.indptr):,} entries, not {shape[0] + 1:,} rising"
            )
        n_values, n_indices = int(data.shape[0]), int(indices.shape[0])
        if n_values < stored or n_indices < stored:
            raise StoreError(
                f"its row pointer asks for {stored:,} values; {n_values:,} values and "
                f"{n_indices:,} indices are there"
            )
        for array in (data, indices):
            check_chunks(array)
        self.block_rows = _block_rows(shape[0], stored)

    @override
    def read(self, rows: slice) -> sp.csr_matrix:
        bounds = self.indptr[rows.start : rows.stop + 1]
        stored = slice(int(bounds[0]), int(bounds[-1]))
        indices = np.asarray(self.indices[stored])
        if indices.size and (indices.min() < 0 or indices.max() >= self.shape[1]):
            raise StoreError(f"it has column indices outside 0 to {self.shape[1] - 1:,}")
        indices = indices.astype(np.int32, copy=False)
        pointer = (bounds - bounds[0]).astype(np.int32)
        return sp.csr_matrix(
            (np.asarray(self.data[stored]), indices, pointer),
            shape=(len(bounds) - 1, self.shape[1]),
        )


class DenseMatrix(Matrix):
    """A dense array on disk, (n_obs, n_vars)."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)
        wanted = max(1, 4 * _BLOCK_VALUES // max(1, self.shape[1]))
        chunk = int((getattr(array, "chunks", None) or (1,))[0])
        # Whole chunks, so that none is decoded twice.
        self.block_rows = wanted if chunk > wanted else wanted // chunk * chunk

    @override
    def read(self, rows: slice) -> sp.csr_matrix:
        return sp.csr_matrix(np.asarray(self.array[rows.start : rows.stop]))


class SlicedMatrix(Matrix):
    """A matrix in memory, or a lazy one that knows how to slice its rows."""

    def __init__(self, matrix: Any) -> None:
        # Rows of compressed columns are slow to get at; it is in memory already.
        self.matrix = matrix.tocsr() if sp.issparse(matrix) else matrix
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        self.dtype = np.dtype(matrix.dtype)
        stored = matrix.nnz if sp.issparse(matrix) else self.shape[0] * self.shape[1]
        self.block_rows = _block_rows(self.shape[0], int(stored))

    @override
    def read(self, rows: slice) -> sp.csr_matrix:
        block = self.matrix[rows.start : rows.stop]
        if hasattr(block, "compute"):
            block = block.compute()
        return sp.csr_matrix(block)


@dataclass
class Input:
    """One input: its cells, its genes, and the matrix of counts between them."""

    place: str
    """How errors call it."""
    stem: str
    """Short name, for cells that share a name with another input's, and for the file as batch."""
    obs: pd.DataFrame
    var: pd.DataFrame
    matrix: Matrix
    columns: NDArray[np.int64] | None = None
    """Columns of the matrix that are genes, one for each row of `var`; None for all."""
    obsm: Mapping[str, Any] = field(default_factory=dict)
    """Embeddings of the cells, (n_obs, d) each, not yet read."""
    notes: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        n_columns = self.matrix.shape[1] if self.columns is None else len(self.columns)
        if (len(self.obs), len(self.var)) != (self.matrix.shape[0], n_columns):
            raise StoreError(
                f"its matrix is {self.matrix.shape[0]:,} x {n_columns:,}, but it names "
                f"{len(self.obs):,} cells and {len(self.var):,} genes"
            )

        self.n_obs, self.n_vars = len(self.obs), len(self.var)

    def forget_tables(self) -> None:
        """Let go of `obs` and `var` once they are joined with others': names weigh."""
        del self.obs, self.var

    def blocks(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Yield all rows in order, a block at a time, over all columns of the matrix."""
        for start in range(0, self.matrix.shape[0], self.matrix.block_rows):
            rows = slice(start, min(start + self.matrix.block_rows, self.matrix.shape[0]))
            with reading(self.place):
                block = self.matrix.read(rows)
            # Repeated entries of a row count once, and rows are sorted, from here on.
            if not block.has_canonical_format:
                block.sum_duplicates()
            yield rows, block


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn what a damaged or truncated file raises into a `StoreError` that names it.

    Below it a `StoreError` says only what is wrong; this adds where, and what to do.
    """
    try:
        yield
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, TypeError, IndexError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise StoreError(
            f"{place} cannot be read: {error}. It is truncated, damaged or of another kind than "
            "its name says; fetch it again."
        ) from error


def check_chunks(array: Any) -> None:
    """Raise if a Zarr array has lost chunks, which would read as zeros."""
    there = getattr(array, "nchunks_initialized", None)
    if there is not None and there < array.nchunks:
        raise StoreError(
            f"only {there:,} of the {array.nchunks:,} chunks of {array.name} are there"
        )


def _block_rows(n_obs: int, stored: int) -> int:
    """Return how many rows hold about `_BLOCK_VALUES` values."""
    return max(1, min(2**16, _BLOCK_VALUES * n_obs // max(1, stored)))

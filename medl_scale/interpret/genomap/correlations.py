"""Correlations between genes within batches, from sums that cells are added to as they stream by.

A correlation over all cells would also hold what batches differ in, and the map would show batches.
Here every batch is centred at its own mean, so that genes lie together which vary together in cells
of one batch. Owns the sums, and how they merge; where cells come from is left to `stream`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numba
import numpy as np

from medl_scale.errors import DataError
from medl_scale.stream.passes import transformed_pass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Columns
    from medl_scale.stream import CsrRows, Source, Transform

__all__ = ["GeneSums", "correlations_of", "stream_gene_sums"]

# So many rows of some hundred values stay in the second-level cache while genes pass over them.
_BLOCK_ROWS = 1024
# A variance below this share of the mean square is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class GeneSums:
    """What correlations within batches are made of; adds up over cells, files and machines.

    Notes
    -----
    Everything is float64: (G, G) + (B, G) numbers, 68 MB for 2,916 genes, 800 MB for 10,000.
    """

    batch_n: NDArray[np.int64]
    """(n_batches,), cells."""
    batch_sums: NDArray[np.float64]
    """(n_batches, n_vars)."""
    products: NDArray[np.float64]
    """(n_vars, n_vars), sums over cells of products of two genes; only the upper triangle counts."""

    @classmethod
    def empty(cls, n_batches: int, n_vars: int) -> Self:
        """Return the sums over no cells."""
        return cls(
            np.zeros(n_batches, np.int64),
            np.zeros((n_batches, n_vars)),
            np.zeros((n_vars, n_vars)),
        )

    @property
    def n_cells(self) -> int:
        """Cells added so far."""
        return int(self.batch_n.sum())

    def add(
        self, values: NDArray[np.float32], stored: CsrRows, batch_codes: NDArray[np.int32]
    ) -> None:
        """Add cells, in place.

        Parameters
        ----------
        values
            (nnz,) transformed values of `stored`.
        stored
            The cells' rows; whatever its `data`, its columns and row pointers count.
        batch_codes
            (m,), each from 0 to n_batches - 1.
        """
        n_batches, n_vars = self.batch_sums.shape
        codes = batch_codes.astype(np.int64)
        if codes.size and not 0 <= codes.min() <= codes.max() < n_batches:
            raise DataError(
                f"Batch codes must be 0 to {n_batches - 1}; found {codes.min()} to {codes.max()}. "
                "Prepare the atlas again."
            )
        self.batch_n[:] += np.bincount(codes, minlength=n_batches)
        for start in range(0, codes.size, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, codes.size)
            begin, end = int(stored.indptr[start]), int(stored.indptr[stop])
            indptr = stored.indptr[start : stop + 1] - begin
            block = _sorted_rows(values[begin:end], stored.indices[begin:end], indptr)
            _add_block(*block, indptr, codes[start:stop], self.batch_sums, self.products, n_vars)

    def merged(self, other: GeneSums) -> GeneSums:
        """Return the sums over the cells of both."""
        if self.batch_sums.shape != other.batch_sums.shape:
            raise DataError(
                f"Sums merge where they have the same batches and genes; got {self.batch_sums.shape} "
                f"and {other.batch_sums.shape}. Add cells of one atlas."
            )
        return GeneSums(
            self.batch_n + other.batch_n,
            self.batch_sums + other.batch_sums,
            self.products + other.products,
        )

    def correlations(self) -> NDArray[np.float64]:
        """Return the pooled correlations within batches.

        Returns
        -------
        (n_vars, n_vars) float64, symmetric, 1 on the diagonal. A gene that is constant in every
        batch has the correlation 0 with others, and 0 with itself: it is told by that.

        Raises
        ------
        DataError
            If there are fewer than two cells.
        """
        if self.n_cells < 2:
            raise DataError(
                f"Correlations need at least 2 cells; got {self.n_cells}. Choose more cells."
            )
        upper = np.triu(self.products)
        squares = np.diagonal(upper).copy()
        weights = 1.0 / np.maximum(self.batch_n, 1)
        within = upper + np.triu(upper, 1).T
        within -= (self.batch_sums * weights[:, None]).T @ self.batch_sums
        variances = np.diagonal(within).copy()
        is_constant = variances <= _ROUNDING * squares
        scales = 1.0 / np.sqrt(np.where(is_constant, np.inf, variances))
        within *= scales[:, None]
        within *= scales
        np.clip(within, -1.0, 1.0, out=within)
        np.fill_diagonal(within, (~is_constant).astype(np.float64))
        return within


def stream_gene_sums(
    source: Source,
    columns: Columns,
    slices: Sequence[slice],
    transform: Transform,
    n_batches: int,
    *,
    progress: Progress | None = None,
) -> GeneSums:
    """Sum over the rows of `slices`, read once and in order; memory does not grow with the cells.

    Parameters
    ----------
    source
        Where rows are read.
    columns
        Batch codes and size factors of all rows.
    slices
        Rows to use, such as those of a fold's train split.
    transform
        What is done to the values.
    n_batches
        Number of batches.
    progress
        Where the pass is reported to.

    Raises
    ------
    DataError
        If a value is not a finite number, or a batch code is out of range.
    StoreError
        If the store is damaged.
    """
    sums = GeneSums.empty(n_batches, source.n_vars)
    read = transformed_pass(
        source,
        columns,
        slices,
        transform,
        _BLOCK_ROWS * 8,
        name="Gene correlations",
        progress=progress,
    )
    for rows in read:
        sums.add(*rows)
    return sums


def correlations_of(
    values: NDArray[np.floating[Any]], batch_codes: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.float64]:
    """Return the pooled correlations within batches of a dense matrix in memory.

    Parameters
    ----------
    values
        (n_obs, n_vars), finite.
    batch_codes
        (n_obs,), from 0; one batch without them.

    Returns
    -------
    As `GeneSums.correlations`.

    Raises
    ------
    DataError
        If a value is not a finite number, or there are fewer than two rows.
    """
    dense = np.array(values, np.float64)
    codes = np.zeros(len(dense), np.int64) if batch_codes is None else np.asarray(batch_codes)
    if dense.ndim != 2 or len(dense) < 2 or codes.shape != (len(dense),):
        raise DataError(
            f"Correlations need a matrix of at least 2 cells and a batch code for each; got shapes "
            f"{dense.shape} and {codes.shape}. Pass (n_obs, n_vars) and (n_obs,)."
        )
    if not np.isfinite(dense).all():
        raise DataError(
            f"Values must be finite; found {int((~np.isfinite(dense)).sum()):,} that are not. "
            "Leave out cells or genes without values."
        )
    squares = np.einsum("ij,ij->j", dense, dense)
    for code in np.unique(codes):
        dense[codes == code] -= dense[codes == code].mean(axis=0)
    variances = np.einsum("ij,ij->j", dense, dense)
    is_constant = variances <= _ROUNDING * squares
    dense /= np.sqrt(np.where(is_constant, np.inf, variances))
    found = np.clip(dense.T @ dense, -1.0, 1.0)
    np.fill_diagonal(found, (~is_constant).astype(np.float64))
    return found


def _sorted_rows(
    values: NDArray[np.float32], indices: NDArray[Any], indptr: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return values and columns, ascending within each row, as they are in a prepared atlas."""
    columns = indices.astype(np.int64)
    is_later = np.diff(columns) > 0
    is_later[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < columns.size)] - 1] = True
    if not is_later.all():
        order = np.lexsort((columns, np.repeat(np.arange(indptr.size - 1), np.diff(indptr))))
        values, columns = values[order], columns[order]
    return values, columns


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_block(
    values: Any,
    columns: Any,
    indptr: Any,
    codes: Any,
    batch_sums: Any,
    products: Any,
    n_vars: Any,
) -> None:
    """Add a block of rows; each must hold its columns in ascending order."""
    # Gene by gene, so that the row of products written to (23 kB for 2,916 genes) stays in the
    # first-level cache: cell by cell, every addition would miss it.
    starts = np.zeros(n_vars + 1, np.int64)
    for j in range(columns.size):
        starts[columns[j] + 1] += 1
    for gene in range(n_vars):
        starts[gene + 1] += starts[gene]
    places = np.empty(columns.size, np.int64)
    ends = np.empty(columns.size, np.int64)
    free = starts[:-1].copy()
    for i in range(codes.size):
        of_batch = batch_sums[codes[i]]
        for j in range(indptr[i], indptr[i + 1]):
            gene = columns[j]
            of_batch[gene] += values[j]
            places[free[gene]] = j
            ends[free[gene]] = indptr[i + 1]
            free[gene] += 1
    for gene in range(n_vars):
        row = products[gene]
        for place in range(starts[gene], starts[gene + 1]):
            first = places[place]
            value = np.float64(values[first])
            for j in range(first, ends[place]):
                row[np.uintp(columns[j])] += value * values[j]

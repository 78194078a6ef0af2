"""What training must know of the expression values beforehand, from one pass over the train rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from medl_scale.errors import DataError
from medl_scale.stream.minibatches import READ_ROWS
from medl_scale.stream.passes import transformed_pass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Columns
    from medl_scale.stream.contract import Source
    from medl_scale.stream.densify import Transform

__all__ = ["TrainStatistics", "train_statistics"]


class TrainStatistics(NamedTuple):
    """Moments of the transformed values over the train rows."""

    n: int
    """Rows."""
    mean: NDArray[np.float32]
    """(n_vars,)."""
    sd: NDArray[np.float32]
    """(n_vars,), of the population: divided by n, not by n - 1."""
    maximum: float
    """Largest value."""
    batch_n: NDArray[np.int64]
    """(n_batches,), rows of each batch."""
    batch_mean: NDArray[np.float32]
    """(n_batches, n_vars), 0 for a batch without rows."""


def train_statistics(
    source: Source,
    columns: Columns,
    slices: Sequence[slice],
    transform: Transform,
    n_batches: int,
    *,
    progress: Progress | None = None,
) -> TrainStatistics:
    """Compute the moments of genes over the rows of `slices`, read once and in order.

    Parameters
    ----------
    source
        Where rows are read; a cache fills meanwhile.
    columns
        Batch codes and size factors of all rows.
    slices
        Rows of the train split.
    transform
        What is done to the values; a scale of 1 gives the statistics of log-normalised values.
    n_batches
        Number of batches.
    progress
        Where the pass is reported to.

    Raises
    ------
    DataError
        If `slices` are empty, or a value is not a finite number.
    StoreError
        If the store is damaged.

    Notes
    -----
    Sums are in float64. Squared deviations are taken from the mean of a few thousand rows, and
    these pieces are merged by the formula of Chan et al., so that a large mean costs no digits.

    References
    ----------
    Chan, Golub, LeVeque (1983), The American Statistician 37, 242-247.
    doi:10.1080/00031305.1983.10483115
    """
    _check_codes(columns.batch_codes, n_batches)
    mean, deviations = np.zeros(source.n_vars), np.zeros(source.n_vars)
    batch_sum, batch_n = np.zeros((n_batches, source.n_vars)), np.zeros(n_batches, np.int64)
    n, maximum = 0, -math.inf
    read = transformed_pass(
        source, columns, slices, transform, READ_ROWS, name="Statistics", progress=progress
    )
    for values, stored, codes in read:
        sums, found = _sums(values, stored.indices, stored.indptr, codes, batch_sum)
        here = sums / codes.size
        squares = _squared_deviations(values, stored.indices, here)
        squares += (codes.size - found) * here**2
        shift, merged = here - mean, n + codes.size
        mean += shift * (codes.size / merged)
        deviations += squares + shift**2 * (n * codes.size / merged)
        n = merged
        batch_n += np.bincount(codes, minlength=n_batches)
        has_zeros = values.size < codes.size * source.n_vars
        maximum = max(maximum, float(values.max(initial=0.0 if has_zeros else -math.inf)))
    if n == 0:
        raise DataError("Statistics need at least one row; the train split is empty.")
    batch_mean = batch_sum / np.maximum(batch_n, 1)[:, None]
    return TrainStatistics(
        n=n,
        mean=mean.astype(np.float32),
        sd=np.sqrt(deviations / n).astype(np.float32),
        maximum=float(maximum),
        batch_n=batch_n,
        batch_mean=batch_mean.astype(np.float32),
    )


def _check_codes(batch_codes: NDArray[np.int32], n_batches: int) -> None:
    """Raise unless every code is that of a batch; the kernels do not look."""
    if batch_codes.size and not 0 <= batch_codes.min() <= batch_codes.max() < n_batches:
        raise DataError(
            f"Batch codes must be 0 to {n_batches - 1}; found {batch_codes.min()} to "
            f"{batch_codes.max()}. Prepare the atlas again."
        )


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sums(values: Any, indices: Any, indptr: Any, codes: Any, batch_sum: Any) -> Any:
    """Return sums and numbers of stored values by gene, and add to the sums by batch."""
    sums = np.zeros(batch_sum.shape[1])
    found = np.zeros(batch_sum.shape[1], np.int64)
    for i in range(codes.size):
        of_batch = batch_sum[codes[i]]
        for j in range(indptr[i], indptr[i + 1]):
            sums[indices[j]] += values[j]
            found[indices[j]] += 1
            of_batch[indices[j]] += values[j]
    return sums, found


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _squared_deviations(values: Any, indices: Any, mean: Any) -> Any:
    """Return sums over the stored values of their squared distances from the mean, by gene."""
    squares = np.zeros(mean.size)
    for j in range(values.size):
        deviation = values[j] - mean[indices[j]]
        squares[indices[j]] += deviation * deviation
    return squares

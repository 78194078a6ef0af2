"""kBET: in how many neighbourhoods the batches stand as they do among all cells.

Buettner et al. (2019), doi:10.1038/s41592-018-0254-1, as scib-metrics has it: Pearson's chi-squared
test of the batches of a cell and its neighbours, for every cell, at a fixed number of neighbours.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.evaluate.inputs import Labels, check_n_labels, encode_labels
from medl_scale.evaluate.neighbours.sampled_error import CONFIDENCE, share_error
from medl_scale.evaluate.score import Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from medl_scale.evaluate.neighbours.neighbours import Neighbours

__all__ = ["check_alpha", "kbet", "p_values"]


def kbet(neighbours: Neighbours, batches: ArrayLike, *, alpha: float = 0.05) -> Score:
    """Return the share of cells whose neighbourhood is not found unmixed: higher is better.

    Parameters
    ----------
    neighbours
        Of every cell; the cell itself is counted as one more.
    batches
        (n,) batch of each.
    alpha
        Level of the test, above 0 and below 1.

    Returns
    -------
    Score
        With the p-value of each cell. Equal to scib-metrics given the same neighbours. If these
        are approximate, its kind is `confidence`: the error bounds how far the share is from that
        of exact ones.

    Raises
    ------
    DataError
        If there is not one batch a cell.
    ScoreUndefinedError
        If there is one batch, or as many as cells.
    """
    started = time.perf_counter()
    check_alpha(alpha)
    encoded = encode_labels(batches, neighbours.n, name="batches")
    check_n_labels(encoded, name="batches")
    found = p_values(np.arange(neighbours.n), neighbours.indices, encoded)
    error, sample = 0.0, neighbours.sample
    if sample is not None:
        exactly = p_values(sample.rows, sample.indices, encoded)
        error = share_error(found[sample.rows] >= alpha, exactly >= alpha)
    return Score(
        value=float(np.mean(found >= alpha)),
        kind="exact" if sample is None else "confidence",
        error=error,
        method=f"{neighbours.k} neighbours ({neighbours.method}), alpha {alpha:g}",
        n=neighbours.n,
        seconds=time.perf_counter() - started,
        confidence=None if sample is None else CONFIDENCE,
        per_cell=found,
    )


def check_alpha(alpha: float) -> None:
    """Raise unless `alpha` is a level of a test."""
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha must be above 0 and below 1; got {alpha!r}.")


def p_values(
    rows: NDArray[np.int64], indices: NDArray[Any], batches: Labels
) -> NDArray[np.float64]:
    """Return the p-values of some cells, (m,), from their neighbours, (m, k)."""
    from scipy.special import gammaincc

    expected = batches.counts / batches.counts.sum() * (indices.shape[1] + 1)
    statistics = np.empty(len(rows))
    _chi_squared(rows, indices, batches.codes, expected, statistics)
    return np.asarray(gammaincc((len(expected) - 1) / 2.0, statistics / 2.0))


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _chi_squared(rows: Any, indices: Any, codes: Any, expected: Any, statistics: Any) -> None:
    """Write the chi-squared statistic of each neighbourhood."""
    k = indices.shape[1]
    counts = np.zeros(expected.size)
    for i in range(rows.size):
        counts[codes[rows[i]]] = 1.0
        for j in range(k):
            counts[codes[indices[i, j]]] += 1.0
        total = 0.0
        for batch in range(expected.size):
            gap = counts[batch] - expected[batch]
            total += gap * gap / expected[batch]
            counts[batch] = 0.0
        statistics[i] = total

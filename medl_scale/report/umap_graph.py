"""UMAP's graph: how surely two cells belong together, from the nearest neighbours of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.neighbours.neighbours import Neighbours

__all__ = ["membership_graph"]

_HALVINGS = 40
_LEAST_WIDTH = 1e-3
"""Widths are at least this share of a cell's mean distance, so that many duplicates do no harm."""


def membership_graph(neighbours: Neighbours) -> Any:
    """Return the weights of UMAP's graph.

    Parameters
    ----------
    neighbours
        Of every cell, itself not among them; UMAP counts it as one more.

    Returns
    -------
    (n, n) symmetric CSR array, float32, weights above 0 and at most 1.

    Notes
    -----
    The weight that cell i gives a neighbour at distance d is exp(-(d - rho) / sigma), rho being the
    distance of its nearest neighbour that is no duplicate, and sigma such that its weights sum to
    log2(k + 1). Weights p of i to j and q of j to i make p + q - p q.

    References
    ----------
    McInnes, Healy and Melville (2018), arXiv:1802.03426, section 3.1.
    """
    from scipy.sparse import csr_array

    n, k = neighbours.n, neighbours.k
    weights = _own_weights(neighbours.distances)
    starts = np.arange(0, n * k + 1, k)
    one_way = csr_array((weights.ravel(), neighbours.indices.ravel(), starts), shape=(n, n))
    other_way = one_way.T.tocsr()
    both = (one_way + other_way - one_way * other_way).tocsr().astype(np.float32)
    both.sort_indices()
    both.eliminate_zeros()
    return both


def _own_weights(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, k) weights that cells give their neighbours."""
    k = distances.shape[1]
    target = np.log2(k + 1)
    apart = np.where(distances > 0, distances, np.inf)
    nearest = apart.min(axis=1, keepdims=True)
    # A cell whose neighbours are all duplicates of it has no nearest one apart.
    excess = np.maximum(distances - np.where(np.isfinite(nearest), nearest, 0.0), 0.0)
    low = np.zeros((len(distances), 1))
    # At this width no weight is below target / k.
    high = excess.max(axis=1, keepdims=True) / max(np.log(k / target), 1e-9)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            sums = np.nansum(np.exp(-excess / middle), axis=1, keepdims=True)
        low, high = np.where(sums > target, low, middle), np.where(sums > target, middle, high)
    mean = distances.mean(axis=1, keepdims=True)
    width = np.maximum(high, _LEAST_WIDTH * np.where(mean > 0, mean, 1.0))
    found: NDArray[np.float64] = np.exp(-excess / width)
    return found

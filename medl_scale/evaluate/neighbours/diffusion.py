"""Diffusion space of a graph of neighbours, in which kBET per label looks for a label's neighbours.

Edges are weighted as UMAP does (McInnes et al. 2018, doi:10.21105/joss.00861, sections 3.1 and 3.2),
and transitions normalised for density (Coifman et al. 2005, doi:10.1073/pnas.0500334102).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from medl_scale.evaluate.neighbours.neighbours import Neighbours

__all__ = ["connectivities", "diffusion_space"]

_BISECTIONS = 64
_TOLERANCE = 1e-5
_LEAST_WIDTH = 1e-3


def connectivities(neighbours: Neighbours) -> csr_array:
    """Return the symmetric weights of the graph, (n, n), from 0 to 1.

    The weight of a neighbour is exp(-(distance - nearest) / width), nearest being the smallest
    distance above 0 and the width such that the weights of a cell sum to log2(k + 1). Both
    directions are united as probabilities: a + b - a b.
    """
    from scipy.sparse import csr_array

    n, k = neighbours.n, neighbours.k
    weights = np.empty((n, k))
    distances = np.ascontiguousarray(neighbours.distances)
    # The cell itself counts among the neighbours whose distances are averaged.
    typical = float(distances.mean()) * k / (k + 1)
    _weigh_neighbours(distances, np.log2(k + 1), typical, weights)
    starts = np.arange(0, n * k + 1, k)
    there = csr_array((weights.ravel(), neighbours.indices.ravel(), starts), shape=(n, n))
    back = there.T.tocsr()
    both = there + back - there.multiply(back)
    both = csr_array(both)
    both.eliminate_zeros()
    both.sort_indices()
    return both


def diffusion_space(graph: csr_array, n_axes: int) -> NDArray[np.float64]:
    """Return coordinates whose Euclidean distance is the diffusion distance over all times.

    Parameters
    ----------
    graph
        (n, n) symmetric weights, connected.
    n_axes
        Eigenvectors to take, at most n - 1.

    Returns
    -------
    NDArray
        (n, n_axes) eigenvectors of the transitions times e / (1 - e), e their eigenvalues; the
        constant one, e = 1, has weight 1.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import eigsh
    from threadpoolctl import threadpool_limits

    density = diags_array(1.0 / np.asarray(graph.sum(axis=0)))
    kernel = density @ graph @ density
    root = diags_array(1.0 / np.sqrt(np.asarray(kernel.sum(axis=0))))
    transitions = root @ kernel @ root
    start = generator(0, Purpose.NEIGHBOURS, 1).uniform(0.5, 1.0, graph.shape[0])
    # The order of sums depends on the number of threads.
    with threadpool_limits(1, user_api="blas"):
        values, vectors = eigsh(transitions, k=n_axes, which="LM", v0=start)
    order = np.argsort(-values, kind="stable")
    values, vectors = values[order], vectors[:, order]
    weights = np.ones(n_axes)
    weights[1:] = values[1:] / (1.0 - values[1:])
    return np.asarray(vectors * weights)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _weigh_neighbours(distances: Any, wanted: Any, typical: Any, weights: Any) -> None:
    """Write the weight of each neighbour."""
    k = distances.shape[1]
    for i in range(distances.shape[0]):
        nearest, mean = 0.0, 0.0
        for j in range(k):
            if nearest == 0.0 and distances[i, j] > 0.0:
                nearest = distances[i, j]
            mean += distances[i, j] / (k + 1)
        low, high, width = 0.0, np.inf, 1.0
        for _ in range(_BISECTIONS):
            total = 0.0
            for j in range(k):
                gap = distances[i, j] - nearest
                total += np.exp(-gap / width) if gap > 0.0 else 1.0
            if abs(total - wanted) < _TOLERANCE:
                break
            if total > wanted:
                high = width
                width = (low + high) / 2.0
            else:
                low = width
                width = width * 2.0 if high == np.inf else (low + high) / 2.0
        width = max(width, _LEAST_WIDTH * (mean if nearest > 0.0 else typical))
        for j in range(k):
            gap = distances[i, j] - nearest
            weights[i, j] = np.exp(-gap / width) if gap > 0.0 and width > 0.0 else 1.0

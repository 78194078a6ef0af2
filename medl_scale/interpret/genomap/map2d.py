"""The default layout: neighbouring pixels are genes that go together.

Genes are points by how they load on the leading components of their correlations; t-SNE brings these
points to the plane, halving after halving deals them out to the pixels, and swaps between near pixels
mend what that tore.

Two choices make maps of different cells agree. Loadings keep their length, so that genes which little
is known of gather in the middle; brought to unit length, their noise would send them anywhere. And
genes are swapped with near ones alone: swaps across the map gain a little likeness of neighbours, and
lose where things are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.interpret.genomap.swaps import improve_by_swaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "gene_loadings",
    "halve",
    "neighbour_costs",
    "neighbour_likeness",
    "place_on_map",
    "plane_of",
]

_KERNEL_SD = 1.5
_KERNEL_RADIUS = 3
_SWAP_REACH = 2
_PERPLEXITY = 30.0
# Twice as many change neither the likeness of neighbours nor how maps of different cells agree.
_ITERATIONS = 500
# t-SNE is started small, at the deviation it is commonly started at.
_START_SD = 1e-4
# Swaps hold three matrices of genes x genes in float32: 0.4 GB here.
_MOST_GENES_TO_SWAP = 6000


def gene_loadings(correlations: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Return how genes load on the leading components of their correlations, (n, rank).

    Each component is scaled by the root of its eigenvalue and signed so that its largest entry is
    positive; the rank is less where there are fewer components with positive eigenvalues.
    """
    n = len(correlations)
    rank = min(rank, n)
    if rank < n // 2:
        from scipy.sparse.linalg import eigsh

        # The start makes the result the same every time; it must not favour a direction.
        start = np.cos(np.arange(n, dtype=np.float64) ** 2)
        values, vectors = eigsh(correlations, k=rank, which="LA", v0=start)
    else:
        values, vectors = np.linalg.eigh(correlations)
    order = np.argsort(-values, kind="stable")[:rank]
    order = order[values[order] > 1e-9 * n]
    vectors = vectors[:, order]
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(len(order))])
    return np.asarray(vectors * signs * np.sqrt(values[order]), np.float64)


def plane_of(loadings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the genes in the plane, (n, 2), by t-SNE of their loadings.

    It starts from the first two components and runs on one thread, which makes it deterministic.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    n = len(loadings)
    start = np.zeros((n, 2))
    start[:, : min(2, loadings.shape[1])] = loadings[:, :2]
    spread = start.std(axis=0).max()
    if n < 5 or not spread > 0:
        return start
    start *= _START_SD / spread
    perplexity = min(_PERPLEXITY, (n - 1) / 3)
    with threadpool_limits(1):
        found = TSNE(
            init=start.astype(np.float32),
            perplexity=perplexity,
            max_iter=_ITERATIONS,
            random_state=0,
            n_jobs=1,
        ).fit_transform(loadings.astype(np.float32))
    return np.asarray(found, np.float64)


def halve(
    points: NDArray[np.float64], pixels: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Deal points out to pixels: both are cut in two along the longer side, over and over.

    Parameters
    ----------
    points
        (n, 2), horizontal and vertical.
    pixels
        (n,) flat.
    shape
        (rows, columns) of the grid.

    Returns
    -------
    (n,) pixel of each point. O(n log^2 n).
    """
    rows, columns = np.divmod(pixels, shape[1])
    found = np.empty(len(points), np.int64)
    open_parts = [(np.arange(len(points)), np.arange(len(pixels)))]
    while open_parts:
        inside, places = open_parts.pop()
        if len(inside) == 1:
            found[inside[0]] = pixels[places[0]]
            continue
        height = np.ptp(rows[places])
        width = np.ptp(columns[places])
        along, across, axis = (rows, columns, 1) if height > width else (columns, rows, 0)
        places = places[np.lexsort((across[places], along[places]))]
        inside = inside[np.argsort(points[inside, axis], kind="stable")]
        middle = len(inside) // 2
        # Whole lines where there are some: a cut along a line keeps the parts compact.
        lines = np.flatnonzero(np.diff(along[places])) + 1
        if len(lines):
            middle = int(lines[np.abs(lines - middle).argmin()])
        open_parts += [(inside[:middle], places[:middle]), (inside[middle:], places[middle:])]
    return found


def neighbour_likeness(
    correlations: NDArray[Any], shape: tuple[int, int], pixels: NDArray[np.int64]
) -> float:
    """Return the mean correlation of genes side by side or one above the other; higher is better.

    Parameters
    ----------
    correlations
        (n, n).
    shape
        (rows, columns) of the grid.
    pixels
        (n,) flat pixel of each gene.
    """
    gene = np.full(shape[0] * shape[1], -1, np.int64)
    gene[pixels] = np.arange(len(pixels))
    image = gene.reshape(shape)
    pairs = np.concatenate(
        [
            np.stack([image[:, :-1].ravel(), image[:, 1:].ravel()]),
            np.stack([image[:-1].ravel(), image[1:].ravel()]),
        ],
        axis=1,
    )
    first, second = pairs[:, (pairs >= 0).all(axis=0)]
    return float(np.mean(correlations[first, second], dtype=np.float64)) if len(first) else 0.0


def neighbour_costs(pixels: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return minus the closeness of two pixels, (n, n) float32, 0 beyond a few pixels.

    Closeness falls as a Gaussian of 1.5 pixels; that of a pixel to all others sums to 1 in the open.
    """
    reach = np.arange(-_KERNEL_RADIUS, _KERNEL_RADIUS + 1)
    total = _closeness(reach[:, None] ** 2 + reach**2).sum()
    place = np.full(shape[0] * shape[1], -1, np.int64)
    place[pixels] = np.arange(len(pixels))
    rows, columns = np.divmod(pixels, shape[1])
    costs = np.zeros((len(pixels), len(pixels)), np.float32)
    for down in reach:
        for right in reach:
            other_rows, other_columns = rows + down, columns + right
            inside = (other_rows >= 0) & (other_rows < shape[0])
            inside &= (other_columns >= 0) & (other_columns < shape[1])
            others = np.where(inside, place[(other_rows * shape[1] + other_columns) * inside], -1)
            here = np.flatnonzero(others >= 0)
            costs[here, others[here]] = -_closeness(np.array(down**2 + right**2)) / total
    return costs


def place_on_map(
    correlations: NDArray[Any],
    loadings: NDArray[np.float64],
    shape: tuple[int, int],
    pixels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the pixel of each gene, (n,) flat, out of `pixels`.

    Notes
    -----
    The swaps take memory and time of genes x genes; beyond 6,000 genes they are left out, which
    costs a few per cent of the likeness of neighbours.
    """
    found = halve(plane_of(loadings), pixels, shape)
    if len(pixels) > _MOST_GENES_TO_SWAP:
        return found
    rows, columns = np.divmod(pixels, shape[1])
    squares = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    places = improve_by_swaps(
        correlations,
        neighbour_costs(pixels, shape),
        np.searchsorted(pixels, found),
        squares <= _SWAP_REACH**2,
    )
    return pixels[places]


def _closeness(squared_distance: NDArray[Any]) -> NDArray[np.float64]:
    """Return how close pixels are, 0 for a pixel itself and beyond the radius."""
    near = (squared_distance > 0) & (squared_distance <= _KERNEL_RADIUS**2)
    return np.where(near, np.exp(-squared_distance / (2 * _KERNEL_SD**2)), 0.0)

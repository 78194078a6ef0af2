"""The published layout: genes on rings about the centre, the more unlike the further apart in radius.

The objective looks at a gene's distance from the centre alone. So genes are dealt out to rings, which
is a far smaller problem than the published one over all pixels, and where on its ring a gene lies is
free: there, genes that go together are put side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.interpret.genomap.grid import pixels_from_centre, squared_radii
from medl_scale.interpret.genomap.map2d import neighbour_costs
from medl_scale.interpret.genomap.swaps import improve_by_swaps, pair_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Rings", "assign_rings", "place_on_rings", "ring_costs", "ring_objective", "rings_of"]

# What the package adds to a distance before the logarithm.
_FLOOR = 1e-15


class Rings(NamedTuple):
    """Pixels in use, by their distance from the centre."""

    pixels: NDArray[np.int64]
    """(n,) flat, ascending."""
    of_pixel: NDArray[np.int64]
    """(n,), ring of each, from the innermost."""
    radii: NDArray[np.float64]
    """(m,) pixels."""


def rings_of(shape: tuple[int, int], n: int) -> Rings:
    """Return the rings of the n pixels nearest the centre of a grid."""
    pixels = np.sort(pixels_from_centre(shape)[:n])
    squares, of_pixel = np.unique(squared_radii(shape)[pixels], return_inverse=True)
    return Rings(pixels, of_pixel, np.sqrt(squares))


def ring_costs(rings: Rings) -> NDArray[np.float64]:
    """Return log of the distances in radius, (m, m); about -34.5 within a ring."""
    return np.log(np.abs(rings.radii[:, None] - rings.radii) + _FLOOR)


def ring_objective(
    correlations: NDArray[Any], rings: Rings, ring_of_gene: NDArray[np.int64]
) -> float:
    """Return the published objective, without the terms that do not depend on the layout.

    E = -(1 / n^2) sum over i != k of (1 - R[i, k]) log(|r_i - r_k| + 1e-15); lower is better.
    """
    n = len(ring_of_gene)
    return -pair_sum(1.0 - correlations, ring_costs(rings), ring_of_gene) / n**2


def assign_rings(correlations: NDArray[Any], rings: Rings) -> NDArray[np.int64]:
    """Return the ring of each gene, (n,), by one sort and then by swaps.

    Notes
    -----
    As every ring keeps its number of genes, sum (1 - R) K is least where sum R K is largest, up to a
    constant. The published iteration starts from a plan in which all pixels are alike to all genes;
    its first step then is to sort genes by their mean dissimilarity, and rings by their mean cost.
    The swaps that follow end below what the iteration reaches (see `benchmarks.bench_genomap`).
    """
    costs = ring_costs(rings)
    capacities = np.bincount(rings.of_pixel, minlength=len(rings.radii))
    mean_costs = costs @ capacities / capacities.sum()
    from_low = np.argsort(mean_costs, kind="stable")
    by_dissimilarity = np.argsort(-np.asarray(correlations).mean(axis=1), kind="stable")
    first = np.empty(len(correlations), np.int64)
    first[by_dissimilarity] = np.repeat(from_low, capacities[from_low])
    return improve_by_swaps(correlations, costs, first)


def place_on_rings(
    correlations: NDArray[Any],
    loadings: NDArray[np.float64],
    shape: tuple[int, int],
    rings: Rings,
    ring_of_gene: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return a pixel of its ring for each gene, (n,) flat; genes that go together side by side.

    Parameters
    ----------
    correlations
        (n, n).
    loadings
        (n, d >= 2) of the genes; the direction of the first two is that of the gene at first.
    shape, rings, ring_of_gene
        The grid, and what `assign_rings` found.
    """
    rows, columns = np.divmod(rings.pixels, shape[1])
    angle_of_pixel = np.arctan2(rows - shape[0] // 2, columns - shape[1] // 2)
    angle_of_gene = np.arctan2(loadings[:, 1], loadings[:, 0])
    # Ring by ring the genes in the order of their angles take the pixels in the order of theirs.
    places = np.empty(len(ring_of_gene), np.int64)
    genes = np.lexsort((angle_of_gene, ring_of_gene))
    places[genes] = np.lexsort((angle_of_pixel, rings.of_pixel))
    costs = neighbour_costs(rings.pixels, shape)
    of_one_ring = rings.of_pixel[:, None] == rings.of_pixel
    return rings.pixels[improve_by_swaps(correlations, costs, places, of_one_ring)]

"""Better layouts by swaps: genes trade places as long as the sum over pairs falls.

Serves both layouts: places are rings in the one and pixels in the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["improve_by_swaps", "pair_sum"]

_MOST_PASSES = 20
# A pass in which fewer than one gene in so many moved is the last.
_STILL = 1000
# Below this share of the largest change that one gene could make, a gain is rounding in float32.
_ROUNDING = 1e-6


def improve_by_swaps(
    correlations: NDArray[Any],
    costs: NDArray[Any],
    places: NDArray[np.int64],
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Swap genes until U = sum over i != k of correlations[i, k] costs[places[i], places[k]] rests.

    Gene by gene, in their order, the swap with the best partner is made; the result is a local
    minimum, or nearly one, and the same every time.

    Parameters
    ----------
    correlations
        (n, n), symmetric; its diagonal is of no matter.
    costs
        (m, m), symmetric, of two genes at two places; many may be 0.
    places
        (n,) from 0 to m - 1; several genes may share one.
    allowed
        (m, m), symmetric: between which places genes may be swapped. All by default.

    Returns
    -------
    (n,) places, a permutation of those given.

    Notes
    -----
    With F[c, i] = sum over l != i of R[i, l] K[c, place l], a swap of i at a with k at b changes U by
    2 (F[b, i] - F[a, i] + F[a, k] - F[b, k] - R[i, k] (K[a, a] + K[b, b] - 2 K[a, b])): looking at a
    pair takes constant time, and a swap is an update of rank one. Float32 throughout: n^2 + 2 m n
    numbers at most.
    """
    related = np.array(correlations, np.float32)
    np.fill_diagonal(related, 0.0)
    between = np.ascontiguousarray(costs, np.float32)
    found = np.array(places, np.int64)
    if allowed is None:
        allowed = np.ones(between.shape, np.bool_)
    field = _field(related, between, found)
    least = _ROUNDING * float(np.abs(field).max(initial=0.0))
    _swap(related, between, found, allowed, field, np.float32(least), _MOST_PASSES)
    return found


def pair_sum(correlations: NDArray[Any], costs: NDArray[Any], places: NDArray[np.int64]) -> float:
    """Return the sum over i != k of correlations[i, k] costs[places[i], places[k]], in float64."""
    total = 0.0
    for gene, place in enumerate(places):
        terms = correlations[gene] * costs[place, places]
        total += float(terms.sum(dtype=np.float64) - terms[gene])
    return total


def _field(
    related: NDArray[np.float32], between: NDArray[np.float32], places: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return F, (m, n): what each gene would meet at each place."""
    order = np.argsort(places, kind="stable")
    used, starts = np.unique(places[order], return_index=True)
    # (used, n): correlations of each gene with all genes of a place
    with_place = np.add.reduceat(related[order], starts, axis=0)
    return between[:, used] @ with_place


@numba.njit(nogil=True, cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _swap(
    related: Any, between: Any, places: Any, allowed: Any, field: Any, least: Any, most_passes: Any
) -> None:
    """Swap genes in place, best partner first; `field` is kept up to date."""
    n_places, n = field.shape
    own = np.empty(n, np.float32)
    for k in range(n):
        own[k] = field[places[k], k]
    diagonal = np.empty(n_places, np.float32)
    for c in range(n_places):
        diagonal[c] = between[c, c]
    elsewhere = np.empty(n_places, np.float32)
    for _ in range(most_passes):
        n_swaps = 0
        for i in range(n):
            a = places[i]
            for c in range(n_places):
                elsewhere[c] = field[c, i]
            here, of_pair, from_a, open_to_a = field[a], related[i], between[a], allowed[a]
            best, partner = -least, -1
            for k in range(n):
                b = places[k]
                if b == a or not open_to_a[b]:
                    continue
                change = elsewhere[b] - own[i] + here[k] - own[k]
                change -= of_pair[k] * (diagonal[a] + diagonal[b] - 2 * from_a[b])
                if change < best:
                    best, partner = change, k
            if partner < 0:
                continue
            b = places[partner]
            places[i], places[partner] = b, a
            n_swaps += 1
            for c in range(n_places):
                weight = between[b, c] - between[a, c]
                if weight != 0:
                    row = field[c]
                    for k in range(n):
                        row[k] += weight * (related[i, k] - related[partner, k])
            for k in range(n):
                own[k] = field[places[k], k]
        if n_swaps * _STILL <= n:
            break

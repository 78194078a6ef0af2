"""Gaussian weights of a wanted perplexity, and the inverse Simpson index of the labels they weigh.

LISI takes the width of each cell's kernel from a bisection on beta that begins at 1 and stops at the
first value whose entropy is within 1e-5 of the wanted one. Which value that is decides the sixth
digit, so equal figures need the same one. It is found without walking: Newton's method gives the
root, the entropy's slope there tells which steps of the bisection would stop, and only a step too
close to call is computed. That is some 5 sums over the neighbours where bisection takes 17.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.config import check_at_least
from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["wanted_entropy", "weigh", "write_inverse_simpson"]

TOLERANCE = 1e-5
"""Entropies (nats) this close are equal, as Korsunsky et al. (2019) have it."""
MOST_STEPS = 50
_CELLS_OF_THREAD = 4096
_NEWTON_STEPS = 80
_ROOT_TOLERANCE = 1e-8
_FLAT = 0.05
"""Above this slope, the betas that would stop lie within 0.02 % of the root."""
_ANY_ORDER = {"reassoc", "contract", "nsz"}
_LOG2_E = 1.4426950408889634
# ln 2 in two parts, the first with so few bits that its products with exponents are exact.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


def write_inverse_simpson(
    indices: NDArray[Any],
    distances: NDArray[np.float64],
    codes: NDArray[np.int32],
    most: int,
    wanted: float,
    values: NDArray[np.float64],
) -> None:
    """Write the inverse Simpson index of cells for several labellings, in parts that threads take.

    Parameters
    ----------
    indices, distances
        (m, k) neighbours of the cells, nearest first.
    codes
        (n_labellings, n) labels of all cells, from 0 and below `most`.
    wanted
        Entropy of the weights in nats.
    values
        (n_labellings, m), written to.
    """

    def write(part: slice) -> None:
        near = np.ascontiguousarray(distances[part], np.float64)
        rows = np.ascontiguousarray(indices[part], np.int64)
        _inverse_simpson(near, rows, codes, most, wanted, values[:, part])

    in_threads(write, row_blocks(len(indices), _CELLS_OF_THREAD))


def wanted_entropy(n_neighbours: int, perplexity: float | None) -> float:
    """Return the entropy of a perplexity in nats; by default of a third of k + 1."""
    if perplexity is None:
        perplexity = max((n_neighbours + 1) // 3, 1)
    check_at_least("perplexity", perplexity, 1.0)
    return math.log(perplexity)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _exponentials(gaps: Any, beta: Any, weights: Any) -> None:
    """Write exp(-beta * gap), without branches so that the loop vectorises."""
    for j in range(gaps.size):
        x = max(-beta * gaps[j], -700.0)
        n = np.floor(x * _LOG2_E + 0.5)
        r = (x - n * _LN2_HIGH) - n * _LN2_LOW
        # Taylor's series; |r| <= ln(2) / 2, so the first term left out is below 2e-16.
        p = 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        bits = np.int64((np.int64(n) + 1023) << 52)
        weights[j] = p * bits.view(np.float64)


# Gaps and weights are finite, and sums of them may be taken in any order.
@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")  # type: ignore[untyped-decorator]
def _means(gaps: Any, weights: Any) -> Any:
    """Return the sum of the weights, and the means of gap and gap^2 that they weigh."""
    total = first = second = 0.0
    for j in range(gaps.size):
        total += weights[j]
        first += weights[j] * gaps[j]
        second += weights[j] * gaps[j] * gaps[j]
    return total, first / total, second / total


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _entropy(gaps: Any, beta: Any, weights: Any) -> Any:
    """Return the entropy of the weights, and by how much it falls per relative change of beta."""
    _exponentials(gaps, beta, weights)
    total, mean, square = _means(gaps, weights)
    spread = max(square - mean * mean, 0.0)
    return math.log(total) + beta * mean, beta * beta * spread


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _root(gaps: Any, wanted: Any, weights: Any) -> Any:
    """Return the beta of a wanted entropy and the slope there; (0, 0) where there is none in reach."""
    mean = gaps.mean()
    if mean == 0.0:
        return 0.0, 0.0
    position = math.log(2.0 / mean)
    low, high = -np.inf, np.inf
    for _ in range(_NEWTON_STEPS):
        beta = math.exp(position)
        entropy, slope = _entropy(gaps, beta, weights)
        excess = entropy - wanted
        if abs(excess) < _ROOT_TOLERANCE and slope > 0.0:
            # One more step lands on the root as nearly as numbers allow.
            return beta * (1.0 + excess / slope), slope
        if excess > 0.0:
            low = position
        else:
            high = position
        step = excess / slope if slope > 0.0 else np.inf * excess
        position += min(max(step, -2.0), 2.0)
        if not low < position < high:
            position = (low + high) / 2.0
            if not np.isfinite(position):
                return 0.0, 0.0
        if abs(position) > 700.0:
            return 0.0, 0.0
    return 0.0, 0.0


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def weigh(gaps: Any, wanted: Any, weights: Any) -> None:
    """Write weights that sum to 1 and have a wanted entropy in nats.

    `gaps` are the distances beyond the nearest neighbour's; they are overwritten. Where 50 steps do
    not arrive, beta is the root itself. Where there is none, the weights are those of the limit:
    equal for all neighbours, or for those tied as the nearest.
    """
    # In units in which the gaps are near 1; a power of two rounds nothing.
    _fraction, exponent = math.frexp(gaps.mean())
    unit = math.ldexp(1.0, min(max(exponent, -900), 900))
    for j in range(gaps.size):
        gaps[j] /= unit
    root, slope = _root(gaps, wanted, weights)
    beta, low, high = unit, 0.0, np.inf
    excess = 0.0
    has_stopped = False
    for _ in range(MOST_STEPS + 1):
        # Near the root the slope tells the entropy, elsewhere only on which side it is. A flat
        # entropy, or a step that nearly stops, is computed.
        excess = slope * (1.0 - beta / root) if slope > _FLAT else 0.0
        if slope <= _FLAT or 0.98 * TOLERANCE < abs(excess) < 1.02 * TOLERANCE:
            entropy, _unused = _entropy(gaps, beta, weights)
            excess = entropy - wanted
        if abs(excess) < TOLERANCE:
            has_stopped = True
            break
        if excess > 0.0:
            low = beta
            beta = beta * 2.0 if high == np.inf else (beta + high) / 2.0
        else:
            high = beta
            beta = beta / 2.0 if low == 0.0 else (beta + low) / 2.0
    if not has_stopped:
        beta = root
    if beta > 0.0:
        _exponentials(gaps, beta, weights)
        total, _mean, _square = _means(gaps, weights)
    elif excess > 0.0:
        total = 0.0
        for j in range(gaps.size):
            weights[j] = 1.0 if gaps[j] == 0.0 else 0.0
            total += weights[j]
    else:
        weights[:] = 1.0
        total = float(gaps.size)
    for j in range(gaps.size):
        weights[j] /= total


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _inverse_simpson(
    distances: Any, indices: Any, codes: Any, most: Any, wanted: Any, out: Any
) -> None:
    """Write the inverse Simpson index of every cell for several labellings.

    Shapes: distances and indices (m, k), sorted; codes (n_labellings, n) below `most`; out
    (n_labellings, m).
    """
    k = distances.shape[1]
    gaps, weights, shares = np.empty(k), np.empty(k), np.zeros(most)
    for i in range(distances.shape[0]):
        for j in range(k):
            gaps[j] = distances[i, j] - distances[i, 0]
        weigh(gaps, wanted, weights)
        for labelling in range(codes.shape[0]):
            total = 0.0
            for j in range(k):
                shares[codes[labelling, indices[i, j]]] += weights[j]
            # Each label's share is taken once, and leaves zero behind for the next cell.
            for j in range(k):
                code = codes[labelling, indices[i, j]]
                total += shares[code] * shares[code]
                shares[code] = 0.0
            out[labelling, i] = 1.0 / total

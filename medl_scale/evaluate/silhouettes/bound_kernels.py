"""The compiled loops that bound mean distances and silhouettes; the mathematics is in `subclusters`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["LANES", "bound_labels", "bound_silhouettes"]

LANES = 128
"""Queries side by side in the innermost loops."""
_TINY = np.float32(1e-37)
# Sums may be reordered into vector lanes, whose number the target alone decides.
_FASTMATH = {"contract", "reassoc", "nsz"}


# No other order of factors here: the square of `inverse` would be infinite.
@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_bounds(squares: Any, n: Any, moments: Any, lower: Any, upper: Any, guess: Any) -> None:
    """Add one sub-cluster's share of bounds and estimate, given squared distances to its mean."""
    weight, trace, spread, root, weighted = moments
    two_root, four_weighted = np.float32(2) * root, np.float32(4) * weighted
    for i in range(n):
        square = squares[i]
        m = max(square + trace, _TINY)
        mean_root, distance = np.sqrt(m), np.sqrt(square)
        # Divisions are dear: one for m, one for both quotients below. Ratios come before squares,
        # which would leave the range of float32.
        inverse = np.float32(1) / m
        ratio = spread * inverse
        deviation = two_root * distance * inverse + ratio
        k = four_weighted * inverse * (square * inverse) + ratio * ratio
        widening = np.sqrt(np.float32(1) + deviation * deviation)
        damping = np.float32(8) + np.float32(3.2) * k
        both = mean_root / (widening * damping)
        lower[i] += weight * max(both * damping, distance)
        upper[i] += weight * mean_root
        guess[i] += weight * (mean_root - both * widening * k)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # type: ignore[untyped-decorator]
def _squares_to(shifted: Any, n: Any, mean: Any, squares: Any) -> None:
    """Fill squared distances of n queries, (d, n), to a mean."""
    d = len(mean)
    for i in range(n):
        squares[i] = np.float32(0)
    # Four coordinates at a time: the sums are read and written a quarter as often.
    for j in range(0, d - d % 4, 4):
        a, b, c, e = mean[j], mean[j + 1], mean[j + 2], mean[j + 3]
        for i in range(n):
            p, q = shifted[j, i] - a, shifted[j + 1, i] - b
            r, s = shifted[j + 2, i] - c, shifted[j + 3, i] - e
            squares[i] += (p * p + q * q) + (r * r + s * s)
    for j in range(d - d % 4, d):
        a = mean[j]
        for i in range(n):
            p = shifted[j, i] - a
            squares[i] += p * p


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # type: ignore[untyped-decorator]
def _squares_to_centre(points: Any, n: Any, centre: Any, squares: Any) -> None:
    """Fill squared distances of n float64 queries, (d, n), to the centre of a label."""
    for i in range(n):
        squares[i] = np.float32(0)
    for j in range(len(centre)):
        a = centre[j]
        for i in range(n):
            p = np.float32(points[j, i] - a)
            squares[i] += p * p


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _bound_coarsely(
    points: Any, own: Any, tables: Any, slack: Any, lower: Any, upper: Any, guess: Any
) -> Any:
    """Fill bounds and estimates from the moments of whole labels; return the least upper ones.

    The own label is no contender for the least.
    """
    centres, label_moments = tables[0], tables[1]
    relative, absolute = slack
    n = len(own)
    squares = np.empty(LANES, np.float32)
    least = np.full(LANES, np.float32(np.inf))
    for label in range(len(centres)):
        low, high = lower[label], upper[label]
        low[:] = np.float32(0)
        high[:] = np.float32(0)
        guess[label, :] = np.float32(0)
        _squares_to_centre(points, n, centres[label], squares)
        _add_bounds(squares, n, label_moments[label], low, high, guess[label])
        for i in range(n):
            low[i] = max(low[i] - relative * high[i] - absolute, np.float32(0))
            high[i] += relative * high[i] + absolute
            if own[i] != label:
                least[i] = min(least[i], high[i])
    return least


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _refine(
    points: Any, own: Any, least: Any, tables: Any, slack: Any, lower: Any, upper: Any, guess: Any
) -> None:
    """Tighten by sub-clusters what is the own label or may be the nearest other."""
    centres, _, means, moments, starts = tables
    relative, absolute = slack
    n, d = len(own), len(points)
    shifted = np.empty((d, LANES), np.float32)
    lanes = np.empty(LANES, np.int64)
    squares = np.empty(LANES, np.float32)
    low, high, near = (
        np.empty(LANES, np.float32),
        np.empty(LANES, np.float32),
        np.empty(LANES, np.float32),
    )
    for label in range(len(centres)):
        n_kept = 0
        if starts[label + 1] > starts[label] + 1:
            for i in range(n):
                if own[i] < 0 or own[i] == label or lower[label, i] <= least[i]:
                    lanes[n_kept] = i
                    n_kept += 1
        if n_kept == 0:
            continue
        for j in range(d):
            a = centres[label, j]
            if n_kept == n:
                for i in range(n):
                    shifted[j, i] = points[j, i] - a
            else:
                for i in range(n_kept):
                    shifted[j, i] = points[j, lanes[i]] - a
        low[:] = np.float32(0)
        high[:] = np.float32(0)
        near[:] = np.float32(0)
        for t in range(starts[label], starts[label + 1]):
            _squares_to(shifted, n_kept, means[t], squares)
            _add_bounds(squares, n_kept, moments[t], low, high, near)
        for i in range(n_kept):
            lane = lanes[i]
            lowest = low[i] - relative * high[i] - absolute
            highest = high[i] + relative * high[i] + absolute
            lower[label, lane] = max(lower[label, lane], lowest)
            upper[label, lane] = min(upper[label, lane], highest)
            guess[label, lane] = near[i]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _lanes_of(queries: Any) -> Any:
    """Return queries with their coordinates in rows, (d, LANES)."""
    points = np.empty((queries.shape[1], LANES))
    for i in range(len(queries)):
        for j in range(queries.shape[1]):
            points[j, i] = queries[i, j]
    return points


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def bound_labels(
    queries: Any, own: Any, tables: Any, slack: Any, lower: Any, upper: Any, guess: Any
) -> None:
    """Fill bounds and estimates of mean distances, (m, n_labels); see `subclusters.intervals`."""
    n_labels = lower.shape[1]
    low = np.empty((n_labels, LANES), np.float32)
    high = np.empty((n_labels, LANES), np.float32)
    near = np.empty((n_labels, LANES), np.float32)
    for first in range(0, len(queries), LANES):
        last = min(first + LANES, len(queries))
        points = _lanes_of(queries[first:last])
        least = _bound_coarsely(points, own[first:last], tables, slack, low, high, near)
        _refine(points, own[first:last], least, tables, slack, low, high, near)
        for i in range(first, last):
            for label in range(n_labels):
                lower[i, label] = low[label, i - first]
                upper[i, label] = high[label, i - first]
                guess[i, label] = near[label, i - first]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _silhouette(a: Any, b: Any) -> Any:
    """Return (b - a) / max(a, b), 0 where both are 0."""
    larger = max(a, b)
    return (b - a) / larger if larger > 0 else 0.0


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _own_and_nearest(distances: Any, lane: Any, own: Any, size: Any) -> Any:
    """Return the mean distance to the other cells of the own label, and the least to another."""
    nearest = np.inf
    for label in range(len(distances)):
        if label != own:
            nearest = min(nearest, np.float64(distances[label, lane]))
    return distances[own, lane] * (size / (size - 1.0)), nearest


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def bound_silhouettes(
    queries: Any, own: Any, sizes: Any, tables: Any, slack: Any, found: Any
) -> None:
    """Fill two estimates and two bounds of each silhouette, (m, 4): coarse, fine, lower, upper.

    `sizes` are the cells of each label; those of one cell have silhouettes of 0.
    """
    n_labels = len(sizes)
    low = np.empty((n_labels, LANES), np.float32)
    high = np.empty((n_labels, LANES), np.float32)
    near = np.empty((n_labels, LANES), np.float32)
    for first in range(0, len(queries), LANES):
        last = min(first + LANES, len(queries))
        points, mine = _lanes_of(queries[first:last]), own[first:last]
        least = _bound_coarsely(points, mine, tables, slack, low, high, near)
        for i in range(last - first):
            if sizes[mine[i]] > 1:
                a, b = _own_and_nearest(near, i, mine[i], sizes[mine[i]])
                found[first + i, 0] = _silhouette(a, b)
        _refine(points, mine, least, tables, slack, low, high, near)
        for i in range(last - first):
            size = sizes[mine[i]]
            if size > 1:
                a, b = _own_and_nearest(near, i, mine[i], size)
                found[first + i, 1] = _silhouette(a, b)
                a_low, b_low = _own_and_nearest(low, i, mine[i], size)
                a_high, b_high = _own_and_nearest(high, i, mine[i], size)
                found[first + i, 2] = _silhouette(a_high, b_low)
                found[first + i, 3] = _silhouette(a_low, b_high)
            else:
                found[first + i, :] = 0.0

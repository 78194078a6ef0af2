"""The compiled loops that make sub-clusters: Lloyd's algorithm, assignment, moments."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["lloyd", "nearest_centroids", "nearest_regions", "take_moments"]

# Sums may be reordered into vector lanes, whose number the target alone decides.
_FASTMATH = {"contract", "reassoc", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # type: ignore[untyped-decorator]
def _squared_distance(a: Any, b: Any) -> Any:
    """Return the squared distance of two float32 vectors."""
    total = np.float32(0)
    for j in range(a.size):
        difference = a[j] - b[j]
        total += difference * difference
    return total


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _nearest(point: Any, centroids: Any) -> Any:
    """Return the row of the nearest centroid, the first of several."""
    best, found = np.float32(np.inf), 0
    for t in range(len(centroids)):
        distance = _squared_distance(point, centroids[t])
        if distance < best:
            best, found = distance, t
    return found


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def lloyd(cells: Any, draws: Any, n_rounds: Any, centroids: Any) -> None:
    """Fill centroids of some cells: k-means++ by the draws, then rounds of Lloyd's algorithm."""
    k, d = centroids.shape
    gap = np.full(len(cells), np.float32(np.inf))
    picked = min(int(draws[0] * len(cells)), len(cells) - 1)
    for t in range(k):
        centroids[t] = cells[picked]
        total = 0.0
        for i in range(len(cells)):
            gap[i] = min(gap[i], _squared_distance(cells[i], centroids[t]))
            total += gap[i]
        if t + 1 < k:
            left = draws[t + 1] * total
            picked = 0
            for i in range(len(cells)):
                left -= gap[i]
                if left < 0:
                    picked = i
                    break
    sums = np.empty((k, d))
    members = np.empty(k, np.int64)
    for _ in range(n_rounds):
        sums[:] = 0.0
        members[:] = 0
        for i in range(len(cells)):
            t = _nearest(cells[i], centroids)
            members[t] += 1
            for j in range(d):
                sums[t, j] += cells[i, j]
        for t in range(k):
            if members[t] > 0:
                for j in range(d):
                    centroids[t, j] = sums[t, j] / members[t]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def nearest_centroids(offsets: Any, codes: Any, centroids: Any, starts: Any, assigned: Any) -> None:
    """Fill the nearest centroid, of its own label, of every cell."""
    for i in range(len(offsets)):
        first, last = starts[codes[i]], starts[codes[i] + 1]
        assigned[i] = (
            first if last == first + 1 else first + _nearest(offsets[i], centroids[first:last])
        )


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def nearest_regions(offsets: Any, codes: Any, centres: Any, centroids: Any, regions: Any) -> None:
    """Fill the nearest of the centroids that all labels share, for every cell."""
    point = np.empty(offsets.shape[1], np.float32)
    for i in range(len(offsets)):
        centre = centres[codes[i]]
        for j in range(len(point)):
            point[j] = offsets[i, j] + centre[j]
        regions[i] = _nearest(point, centroids)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _moments_of(offsets: Any, cells: Any, mean: Any, moments: Any, covariance: Any) -> None:
    """Fill the mean of some cells, the 2nd and 3rd of their moments, and their covariance."""
    n, d = len(cells), offsets.shape[1]
    mean[:] = 0.0
    for i in range(n):
        for j in range(d):
            mean[j] += offsets[cells[i], j]
    mean /= n
    centred = np.empty(d)
    square_sum = 0.0
    for i in range(n):
        for j in range(d):
            centred[j] = offsets[cells[i], j] - mean[j]
        for j in range(d):
            square_sum += centred[j] * centred[j]
        for j in range(len(covariance)):
            value, row = centred[j], covariance[j]
            for k in range(d):
                row[k] += value * centred[k]
    trace = square_sum / n
    covariance /= n
    # A second pass: the variance of squares would cancel in a single one.
    spread = 0.0
    for i in range(n):
        square = 0.0
        for j in range(d):
            difference = offsets[cells[i], j] - mean[j]
            square += difference * difference
        spread += (square - trace) ** 2
    moments[1] = trace
    moments[2] = np.sqrt(spread / n)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def take_moments(
    offsets: Any, cells: Any, ends: Any, means: Any, moments: Any, covariances: Any
) -> None:
    """Fill mean, E|z|^2, sd|z|^2 and covariance of stretches of cells; covariances may be empty."""
    for t in range(len(means)):
        _moments_of(
            offsets,
            cells[ends[t] : ends[t + 1]],
            means[t],
            moments[t],
            covariances[t] if len(covariances) > 0 else np.empty((0, 0)),
        )

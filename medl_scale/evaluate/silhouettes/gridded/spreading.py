"""The compiled loops that bring cells onto grids.

A grid is a row (x of node 0, y of node 0, nodes per unit of length) and its size; only positions from
node 1 to node size - 2 are inside, so that all 4 x 4 nodes around them exist. Grids of one stack are
nested: who is inside one is inside all before it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = [
    "corners",
    "count_by_level",
    "cubic_weights_at",
    "deepest_level",
    "deepest_levels",
    "sort_by_cell",
    "spread_cells",
]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def cubic_weights_at(t: Any) -> Any:
    """Return cubic Lagrange weights of the nodes -1, 0, 1, 2 at t in [0, 1]."""
    p, q, r = t + 1.0, t - 1.0, t - 2.0
    return -t * q * r / 6.0, p * q * r / 2.0, -p * t * r / 2.0, p * t * q / 6.0


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def deepest_level(x: Any, y: Any, grids: Any, size: Any) -> Any:
    """Return the last grid of a stack that a position is inside; -1 if none."""
    level = -1
    for j in range(grids.shape[0]):
        u = (x - grids[j, 0]) * grids[j, 2]
        v = (y - grids[j, 1]) * grids[j, 2]
        if not (1.0 <= u < size - 2.0 and 1.0 <= v < size - 2.0):
            break
        level = j
    return level


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def deepest_levels(points: Any, grids: Any, size: Any) -> Any:
    """Return the last grid of a stack that each position is inside, (m,) int8; -1 if none."""
    levels = np.empty(points.shape[0], np.int8)
    for i in range(points.shape[0]):
        levels[i] = deepest_level(points[i, 0], points[i, 1], grids, size)
    return levels


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def corners(offsets: Any, centres: Any, codes: Any) -> Any:
    """Return the least and the largest coordinates of all cells, (2,) float64 each."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for i in range(codes.size):
        for k in range(2):
            x = offsets[i, k] + centres[codes[i], k]
            low[k], high[k] = min(low[k], x), max(high[k], x)
    return low, high


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_by_level(offsets: Any, centres: Any, codes: Any, grids: Any, size: Any) -> Any:
    """Return, for each grid of a stack, of how many cells it is the deepest; (n_levels,) int64."""
    counts = np.zeros(grids.shape[0], np.int64)
    for i in range(codes.size):
        x = offsets[i, 0] + centres[codes[i], 0]
        y = offsets[i, 1] + centres[codes[i], 1]
        counts[deepest_level(x, y, grids, size)] += 1
    return counts


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def sort_by_cell(offsets: Any, centres: Any, codes: Any, grid: Any, size: Any) -> Any:
    """Return the order, (n,) int32, in which cells that share nodes of a grid lie beside each other."""
    n = codes.size
    keys = np.empty(n, np.int32)
    starts = np.zeros(size * size + 1, np.int64)
    for i in range(n):
        x = offsets[i, 0] + centres[codes[i], 0]
        y = offsets[i, 1] + centres[codes[i], 1]
        # Whoever is outside counts as at the edge.
        u = min(max((x - grid[0]) * grid[2], 0.0), size - 1.0)
        v = min(max((y - grid[1]) * grid[2], 0.0), size - 1.0)
        keys[i] = np.int32(u) * size + np.int32(v)
        starts[keys[i] + 1] += 1
    for key in range(size * size):
        starts[key + 1] += starts[key]
    order = np.empty(n, np.int32)
    for i in range(n):
        order[starts[keys[i]]] = i
        starts[keys[i]] += 1
    return order


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def spread_cells(
    offsets: Any,
    starts: Any,
    centres: Any,
    labels: Any,
    grids: Any,
    size: Any,
    level: Any,
    with_deeper: Any,
    density: Any,
    occupancy: Any,
) -> Any:
    """Add the cells of some labels to the nodes around them, and count them in grid cells.

    Only cells whose deepest level is `level` take part, or that and all deeper ones. Each label's
    share of `density` and `occupancy`, both (n_selected, size, size), is filled by one thread in the
    order of its cells. Returns how many cells of each label took part.
    """
    spread = np.zeros(labels.size, np.int64)
    x0, y0, per_length = grids[level, 0], grids[level, 1], grids[level, 2]
    for item in range(labels.size):
        label = labels[item]
        nodes, cells = density[item], occupancy[item]
        n = 0
        for i in range(starts[label], starts[label + 1]):
            x = offsets[i, 0] + centres[label, 0]
            y = offsets[i, 1] + centres[label, 1]
            found = deepest_level(x, y, grids, size)
            if found < level or (found > level and not with_deeper):
                continue
            u, v = (x - x0) * per_length, (y - y0) * per_length
            a, b = int(u), int(v)
            across, along = cubic_weights_at(u - a), cubic_weights_at(v - b)
            for k in range(4):
                for m in range(4):
                    nodes[a - 1 + k, b - 1 + m] += across[k] * along[m]
            cells[a, b] += 1
            n += 1
        spread[item] = n
    return spread

"""The compiled loops of gridded silhouettes: cells onto grids, fields off them, intervals of each cell.

A grid is a row (x of node 0, y of node 0, nodes per unit of length) and its size; only positions from
node 1 to node size - 2 are inside, so that all 4 x 4 nodes around them exist. Grids of one stack are
nested: who is inside one is inside all before it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = [
    "bound_silhouettes",
    "corners",
    "count_by_level",
    "deepest_levels",
    "gather_fields",
    "gather_stack",
    "leave_out_self",
    "list_doubts",
    "sort_by_cell",
    "spread_cells",
]

# Rounding of offsets to float32, relative to mean distances (see `evaluate.layout`), and of the ends
# of intervals; that of positions in float64, in units of the scale.
_DATA_ROUNDING = 6.0 * 2.0**-24
_POSITION_ROUNDING = 4e-15


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _weights(t: Any) -> Any:
    """Return cubic Lagrange weights of the nodes -1, 0, 1, 2 at t in [0, 1]."""
    p, q, r = t + 1.0, t - 1.0, t - 2.0
    return -t * q * r / 6.0, p * q * r / 2.0, -p * t * r / 2.0, p * t * q / 6.0


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _deepest_level(x: Any, y: Any, grids: Any, size: Any) -> Any:
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
        levels[i] = _deepest_level(points[i, 0], points[i, 1], grids, size)
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
        counts[_deepest_level(x, y, grids, size)] += 1
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
            found = _deepest_level(x, y, grids, size)
            if found < level or (found > level and not with_deeper):
                continue
            u, v = (x - x0) * per_length, (y - y0) * per_length
            a, b = int(u), int(v)
            across, along = _weights(u - a), _weights(v - b)
            for k in range(4):
                for m in range(4):
                    nodes[a - 1 + k, b - 1 + m] += across[k] * along[m]
            cells[a, b] += 1
            n += 1
        spread[item] = n
    return spread


@numba.njit(nogil=True, cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def gather_fields(
    points: Any,
    at: Any,
    grid: Any,
    values: Any,
    bounds: Any,
    size: Any,
    n_fields: Any,
    mean: Any,
    width: Any,
) -> None:
    """Add fields at some positions to `mean`, and their error bounds to `width`.

    Parameters
    ----------
    points
        (m, 2) float64.
    at
        Which of them; all are inside the grid.
    values, bounds
        (size * size * n_fields,) float32: those of one node beside each other.
    mean, width
        (m, at least n_fields) float32.
    """
    # Unsigned, or every index would be asked whether it counts from the end.
    one, two, three = np.uint64(n_fields), np.uint64(2 * n_fields), np.uint64(3 * n_fields)
    stretch = 4 * n_fields
    for i in at:
        u, v = (points[i, 0] - grid[0]) * grid[2], (points[i, 1] - grid[1]) * grid[2]
        a, b = int(u), int(v)
        across, along = _weights(u - a), _weights(v - b)
        x0, x1 = np.float32(across[0]), np.float32(across[1])
        x2, x3 = np.float32(across[2]), np.float32(across[3])
        y0, y1 = np.float32(along[0]), np.float32(along[1])
        y2, y3 = np.float32(along[2]), np.float32(along[3])
        first, step = ((a - 1) * size + b - 1) * n_fields, size * n_fields
        p = values[first : first + stretch]
        q = values[first + step : first + step + stretch]
        r = values[first + 2 * step : first + 2 * step + stretch]
        s = values[first + 3 * step : first + 3 * step + stretch]
        row = mean[i, :n_fields]
        for j in range(n_fields):
            m = np.uint64(j)
            row[m] += (
                x0 * (y0 * p[m] + y1 * p[m + one] + y2 * p[m + two] + y3 * p[m + three])
                + x1 * (y0 * q[m] + y1 * q[m + one] + y2 * q[m + two] + y3 * q[m + three])
                + x2 * (y0 * r[m] + y1 * r[m + one] + y2 * r[m + two] + y3 * r[m + three])
                + x3 * (y0 * s[m] + y1 * s[m + one] + y2 * s[m + two] + y3 * s[m + three])
            )
        base = (a * size + b) * n_fields
        spare, more = width[i, :n_fields], bounds[base : base + n_fields]
        for j in range(n_fields):
            spare[j] += more[j]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _interpolate(u: Any, v: Any, field: Any) -> Any:
    """Return one field at a position in units of its grid."""
    a, b = int(u), int(v)
    across, along = _weights(u - a), _weights(v - b)
    total = 0.0
    for k in range(4):
        for m in range(4):
            total += across[k] * along[m] * field[a - 1 + k, b - 1 + m]
    return total


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _self_distance(u: Any, v: Any) -> Any:
    """Return the distance of a position to itself as a grid interpolates it, in units of a cell."""
    across, along = _weights(u - int(u)), _weights(v - int(v))
    total = 0.0
    for k in range(-3, 4):
        c = 0.0
        for m in range(max(0, -k), min(4, 4 - k)):
            c += across[m] * across[m + k]
        for j in range(-3, 4):
            s = 0.0
            for m in range(max(0, -j), min(4, 4 - j)):
                s += along[m] * along[m + j]
            total += c * s * np.sqrt(float(k * k + j * j))
    return total


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def leave_out_self(
    points: Any,
    at: Any,
    grid: Any,
    own: Any,
    counts: Any,
    largest: Any,
    mean: Any,
    width: Any,
    a: Any,
    a_width: Any,
) -> None:
    """Set mean distances to the other cells of the own label, where the label is a field.

    The distance to itself that the field holds for a cell is known, and so is what the field's
    bound allows for it.

    Parameters
    ----------
    points
        (m, 2) float64.
    at
        Which of them.
    grid
        The grid that the cells were spread on.
    own, counts
        (m,) column of the own label; (n_columns,) its cells.
    largest
        Bound on the interpolation error of the distance to oneself, in units of a grid cell.
    mean, width
        (m, n_labels) with oneself.
    a, a_width
        (m,) to be set.
    """
    for i in at:
        u, v = (points[i, 0] - grid[0]) * grid[2], (points[i, 1] - grid[1]) * grid[2]
        n = counts[own[i]]
        # Float32 has 2^-24 of the whole mean, which the field's bound has room for.
        total = np.float64(mean[i, own[i]]) * n - _self_distance(u, v) / grid[2]
        spare = np.float64(width[i, own[i]]) * n - largest / grid[2]
        a[i] = max(total, 0.0) / max(n - 1, 1)
        a_width[i] = max(spare, 0.0) / max(n - 1, 1)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def gather_stack(
    points: Any, grids: Any, inner: Any, inner_bounds: Any, ring: Any, ring_bounds: Any
) -> Any:
    """Return one label's field at some positions from a stack of nested grids.

    Parameters
    ----------
    points
        (m, 2) float64.
    grids
        (n_levels, 3).
    inner, ring
        (n_levels, size, size) float32 fields of the label's cells inside each grid, and of those that
        are in no deeper one. A position takes the rings of all grids above its deepest, and the inner
        field of that.
    inner_bounds, ring_bounds
        Bounds of their errors by grid cell.

    Returns
    -------
    (m,) float64 values and bounds, and int8 deepest grids. Outside the first grid, which is -1, the
    bound is infinite.
    """
    m, size = points.shape[0], inner.shape[1]
    value, width, levels = np.zeros(m), np.zeros(m), np.empty(m, np.int8)
    for i in range(m):
        x, y = points[i, 0], points[i, 1]
        level = _deepest_level(x, y, grids, size)
        levels[i] = level
        if level < 0:
            width[i] = np.inf
            continue
        for j in range(level):
            u, v = (x - grids[j, 0]) * grids[j, 2], (y - grids[j, 1]) * grids[j, 2]
            value[i] += _interpolate(u, v, ring[j])
            width[i] += ring_bounds[j, int(u), int(v)]
        u, v = (x - grids[level, 0]) * grids[level, 2], (y - grids[level, 1]) * grids[level, 2]
        value[i] += _interpolate(u, v, inner[level])
        width[i] += inner_bounds[level, int(u), int(v)]
    return value, width, levels


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _silhouette(a: Any, b: Any) -> Any:
    """Return (b - a) / max(a, b); 0 where both are 0."""
    largest = max(a, b)
    return (b - a) / largest if largest > 0.0 else 0.0


# No value is NaN: without that promise a minimum is taken one by one.
@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})  # type: ignore[untyped-decorator]
def _least_ends(mean: Any, width: Any) -> Any:
    """Return the least of some means, and of the lower and the upper ends of their intervals."""
    best = lower = upper = np.float32(np.inf)
    for j in range(mean.size):
        best = min(best, mean[j])
        lower = min(lower, mean[j] - width[j])
        upper = min(upper, mean[j] + width[j])
    return best, lower, upper


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def bound_silhouettes(
    mean: Any,
    width: Any,
    a: Any,
    a_width: Any,
    own: Any,
    is_final: Any,
    tol: Any,
    share: Any,
    flags: Any,
) -> Any:
    """Return silhouettes and proven bounds of their errors, and mark what keeps bounds above `tol`.

    Parameters
    ----------
    mean, width
        (m, n_labels) float32 mean distances to each label and bounds of their errors; the own label's
        are not read.
    a, a_width
        (m,) float64 mean distance to the other cells of the own label, and its bound.
    own
        (m,) column of the own label.
    is_final
        (m, n_labels) true where nothing better can be had.
    share
        An error matters where it exceeds `share * tol` of the silhouette's denominator, or anyhow if
        none does.
    flags
        (m, n_labels) boolean; overwritten. Labels that might be the nearest, or are the own, and whose
        error matters, for cells whose bound is above `tol`.

    Returns
    -------
    (m,) float64 silhouettes and bounds.

    Notes
    -----
    The least of several means lies between the least lower and the least upper end of their
    intervals, whichever label is the nearest. A silhouette grows with b and falls with a, so that the
    ends of both intervals give the ends of its own.
    """
    m, n_labels = mean.shape
    value, bound = np.empty(m), np.empty(m)
    for i in range(m):
        o = own[i]
        flags[i] = False
        before = _least_ends(mean[i, :o], width[i, :o])
        after = _least_ends(mean[i, o + 1 :], width[i, o + 1 :])
        best = max(np.float64(min(before[0], after[0])), 0.0)
        lower = np.float64(min(before[1], after[1]))
        upper = np.float64(min(before[2], after[2]))
        slack = _DATA_ROUNDING * (best + upper + a[i] + a_width[i]) + _POSITION_ROUNDING
        lower, upper = max(lower - slack, 0.0), upper + slack
        low, high = max(a[i] - a_width[i] - slack, 0.0), a[i] + a_width[i] + slack
        # Where a cell coincides with all of two labels, its silhouette is 0, and rounding not asked.
        is_nowhere = a[i] + best <= 4.0 * _POSITION_ROUNDING
        value[i] = 0.0 if is_nowhere else _silhouette(a[i], best)
        bound[i] = (
            max(_silhouette(low, upper) - value[i], value[i] - _silhouette(high, lower)) + 1e-15
        )
        if bound[i] <= tol:
            continue
        least = share * tol * max(a[i], best)
        while True:
            flags[i, o] = a_width[i] > least and not is_final[i, o]
            found = flags[i, o]
            for j in range(n_labels):
                if j != o and not is_final[i, j]:
                    flags[i, j] = width[i, j] > least and mean[i, j] - width[i, j] <= upper
                    found |= flags[i, j]
            if found or least == 0.0:
                break
            # Many small errors that together matter.
            least = 0.0
    return value, bound


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def list_doubts(flags: Any) -> Any:
    """Return the columns that have a true value, where the rows of each begin, and all of these rows."""
    m, n_columns = flags.shape
    ends = np.zeros(n_columns + 1, np.int64)
    for i in range(m):
        for j in range(n_columns):
            ends[j + 1] += flags[i, j]
    columns = np.flatnonzero(ends[1:])
    for j in range(n_columns):
        ends[j + 1] += ends[j]
    starts = np.append(ends[columns], ends[-1])
    rows = np.empty(ends[-1], np.int64)
    for i in range(m):
        for j in range(n_columns):
            if flags[i, j]:
                rows[ends[j]] = i
                ends[j] += 1
    return columns, starts, rows

"""The compiled loops that read fields off grids; see `spreading` for what a grid is."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from medl_scale.evaluate.silhouettes.gridded.spreading import cubic_weights_at, deepest_level

__all__ = ["gather_fields", "gather_stack", "leave_out_self"]


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
        across, along = cubic_weights_at(u - a), cubic_weights_at(v - b)
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
    across, along = cubic_weights_at(u - a), cubic_weights_at(v - b)
    total = 0.0
    for k in range(4):
        for m in range(4):
            total += across[k] * along[m] * field[a - 1 + k, b - 1 + m]
    return total


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _self_distance(u: Any, v: Any) -> Any:
    """Return the distance of a position to itself as a grid interpolates it, in units of a cell."""
    across, along = cubic_weights_at(u - int(u)), cubic_weights_at(v - int(v))
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
        level = deepest_level(x, y, grids, size)
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

"""How far an interpolated distance can be from the distance itself, for every pair of grid cells.

Cells of the grid are unit squares here. A target at `cell + u` and a source at `cell' + v`, u and v in
[0, 1]^2, see each other through the 4 x 4 nodes around each, by cubic Lagrange weights w:

    e(u, v, offset) = sum_kl w_k(u) w_l(v) |offset + k - l|  -  |offset + u - v|,   offset = cell - cell'.

This module owns upper bounds on |e| over all u and v: a table for near offsets, a formula beyond. The
table is not sampled: `largest_error` proves each entry, and the tests run it again.

The proof evaluates e on a lattice of spacing s in all four variables. With P the double sum, which is
cubic in each variable, and r the distance, which is convex in all together:

- The multilinear interpolant L[f] of the corners of a lattice box differs from f by at most
  sum_i s^2/8 sup|d_i^2 f|. The second derivative of P in one variable is linear in it and equals the
  second difference of r at the nodes, interpolated in the three others, and absolute Lagrange weights
  sum to at most 1.25. So |P - L[P]| <= c = 4 s^2/8 1.25^3 max|second difference|.
- A convex function lies below its multilinear interpolant (Jensen): L[r] >= r. So e >= L[e] - c, at
  least the least corner less c. And r >= L[r] - 4 s^2/8 / r_min, or r >= r_min where the box comes near
  0. So e <= the largest corner + c + s^2/2/r_min, or e <= the largest corner of P + c - r_min.
- Far from 0 both P and r are smooth and e itself is bounded as f is above, with
  |d_i^2 e| <= 5/24 1.25^3 D4 + 3/128 (1 + 1.25 + 1.25^2) D6: errors of the second derivative of cubic
  interpolation in one variable, and of cubic interpolation of the second derivative in the others. D4
  <= 3 / rho^3 and D6 <= 59.1 / rho^5 bound derivatives of r where it is at least rho.

Beyond the table, cubic interpolation in four variables, one after another, gives
|e| <= 3/128 (1 + 1.25 + 1.25^2 + 1.25^3) 3 / rho^3 < 0.4055 / rho^3, rho the least distance in the hull
of all nodes used, offset + [-3, 3]^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEBESGUE", "TABLE_RADIUS", "error_bounds", "largest_error"]

LEBESGUE = 1.25
"""Largest sum of absolute cubic Lagrange weights between the two middle nodes."""
TABLE_RADIUS = 8
_CUBIC = 3.0 / 128.0
# Up to this offset the nodes come so close to 0 that r is better bounded as a convex function.
_NEAR = 4
_TAIL = 0.4055
# Row i holds the bounds of the offsets (i, 0) ... (i, i).
_TABLE = (
    (0.414,),
    (0.258, 0.172),
    (0.0494, 0.017, 0.0186),
    (0.0144, 0.00713, 0.00625, 0.00378),
    (0.00538, 0.00346, 0.0021, 0.00206, 0.00147),
    (0.00217, 0.00154, 0.0007, 0.000911, 0.000895, 0.000673),
    (0.0011, 0.000853, 0.000356, 0.000384, 0.000479, 0.000456, 0.000369),
    (0.000639, 0.000531, 0.000287, 0.000203, 0.000261, 0.000293, 0.000273, 0.000228),
    (0.000405, 0.000352, 0.000224, 0.000128, 0.000147, 0.000183, 0.000193, 0.000178, 0.000151),
)


def error_bounds(size: int) -> NDArray[np.float64]:
    """Return bounds on |e| for offsets between -(size - 1) and size - 1, in the unit of a cell.

    Returns
    -------
    (size, size) for offsets 0, 1, ... in either direction; signs do not matter.
    """
    least = np.maximum(np.arange(size) - 3.0, 0.0)
    with np.errstate(divide="ignore"):
        bounds: NDArray[np.float64] = _TAIL / np.hypot(least[:, None], least) ** 3
    for i, row in enumerate(_TABLE):
        for j, value in enumerate(row):
            if i < size:
                bounds[i, j] = bounds[j, i] = value
    return bounds


def largest_error(i: int, j: int, *, n_steps: int = 32) -> float:
    """Return a proven upper bound on |e| at the offset (i, j); see the module.

    Parameters
    ----------
    i, j
        Offset between the cells, 0 <= j <= i.
    n_steps
        Lattice boxes along each variable: more are tighter. Memory is 24 n_steps^4 bytes or so.
    """
    ticks = np.arange(n_steps + 1) / n_steps
    weights = cubic_weights(ticks)
    nodes = np.arange(-1.0, 3.0)
    across, along = (offset + nodes[:, None] - nodes for offset in (i, j))
    distances = np.hypot(across[:, :, None, None], along)
    # Axes: x of the target, x of the source, y of the target, y of the source.
    interpolated = distances
    for _ in range(4):
        interpolated = np.moveaxis(np.tensordot(weights, interpolated, (1, 0)), 0, -1)
    shift = ticks[:, None] - ticks
    error = interpolated - np.hypot((i + shift)[:, :, None, None], j + shift)
    # Rounding of these few operations on numbers below 20.
    rounding = 1e-12
    # Rounding of these few operations on numbers below 20.
    rounding = 1e-12
    if max(i, j) > _NEAR:
        return float(np.abs(error).max()) + _smooth_correction(i, j, n_steps) + rounding
    correction = _node_correction(i, j, n_steps)
    below = -float(error.min())
    radius = _least_radius(i, j, ticks)
    with np.errstate(divide="ignore"):
        above = np.minimum(
            _corner_maximum(error) + 0.5 / n_steps**2 / radius,
            _corner_maximum(interpolated) - radius,
        )
    return max(below, float(above.max())) + correction + rounding


def cubic_weights(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cubic Lagrange weights, (m, 4), of the nodes -1, 0, 1, 2 at positions in [0, 1]."""
    below, above, beyond = position + 1.0, position - 1.0, position - 2.0
    return np.stack(
        [
            -position * above * beyond / 6.0,
            below * above * beyond / 2.0,
            -below * position * beyond / 2.0,
            below * position * above / 6.0,
        ],
        axis=-1,
    )


def _node_correction(i: int, j: int, n_steps: int) -> float:
    """Return c of the module: how far P is from the interpolant of a box's corners."""
    steps, sides = np.arange(-2.0, 3.0), np.arange(-3.0, 4.0)
    largest = 0.0
    for first, second in ((i, j), (j, i)):
        x, y = (first + steps)[:, None], second + sides
        differences = np.hypot(x + 1.0, y) - 2.0 * np.hypot(x, y) + np.hypot(x - 1.0, y)
        largest = max(largest, float(differences.max()))
    return 4.0 / (8.0 * n_steps**2) * LEBESGUE**3 * largest


def _smooth_correction(i: int, j: int, n_steps: int) -> float:
    """Return the correction where r is smooth at all nodes: beyond an offset of 3."""
    rho = np.hypot(max(i - 3.0, 0.0), max(j - 3.0, 0.0))
    fourth, sixth = 3.0 / rho**3, 59.1 / rho**5
    second = 5.0 / 24.0 * LEBESGUE**3 * fourth + _CUBIC * (1.0 + LEBESGUE + LEBESGUE**2) * sixth
    return float(4.0 / (8.0 * n_steps**2) * second)


def _least_radius(i: int, j: int, ticks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least distance in every box of the lattice."""
    spacing = ticks[1]
    shift = ticks[:-1, None] - ticks[:-1]
    # Over a box the difference of two positions spans its own value, a spacing more and one less.
    across, along = (np.maximum(np.abs(offset + shift) - spacing, 0.0) for offset in (i, j))
    radius: NDArray[np.float64] = np.hypot(across[:, :, None, None], along)
    return radius


def _corner_maximum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest of the 16 corners of every box."""
    for axis in range(values.ndim):
        ends = [
            values.take(range(values.shape[axis])[end], axis) for end in (slice(1, None), slice(-1))
        ]
        values = np.maximum(*ends)
    return values

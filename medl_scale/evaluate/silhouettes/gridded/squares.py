"""Where grids lie: stacks of nested squares that shrink, step by step, from all cells to where most are.

One square around everything would leave most cells of a latent with outliers in a single grid cell. Each
step shrinks by at most a factor, so that cells between two squares see those inside the smaller one
at a distance of many grid cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["nested_squares"]

_MOST_LEVELS = 12
_SHRINK = 8.0
# The square of most cells: between these quantiles, and half as much again.
_QUANTILES = (0.025, 0.975)
_GROWTH = 1.3
_WORTH = 0.5
# In units of the scale: positions in float64 must tell nodes apart, and a hundredth of that.
_LEAST_SIDE = 1e-9


def nested_squares(
    low: NDArray[np.float64], high: NDArray[np.float64], sample: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Return a stack of grids, (n_levels, 3): x and y of node 0, and nodes per unit of length.

    Parameters
    ----------
    low, high
        (2,) corners that the first grid must cover.
    sample
        (m, 2) positions of some cells; they decide where the others lie.
    size
        Nodes along each side.
    """
    side = max(float(np.max(high - low)), _LEAST_SIDE)
    centre = (low + high) / 2.0
    grids = [_grid(centre, side, size)]
    while len(grids) < _MOST_LEVELS:
        sample = sample[np.abs(sample - centre).max(axis=1) <= side / 2.0]
        if len(sample) < 8:
            break
        ends = np.quantile(sample, _QUANTILES, axis=0)
        core = _GROWTH * float(np.max(ends[1] - ends[0]))
        # Room for the nodes around: a square takes no more of the one it lies in.
        smaller = max(core, side / _SHRINK)
        if smaller > _WORTH * side or smaller < _LEAST_SIDE:
            break
        room = side / 2.0 - smaller / 2.0
        centre = np.clip(ends.mean(axis=0), centre - room, centre + room)
        side = smaller
        grids.append(_grid(centre, side, size))
    return np.stack(grids)


def _grid(centre: NDArray[np.float64], side: float, size: int) -> NDArray[np.float64]:
    """Return the grid whose inside covers a square."""
    # Inside is from node 1 to node size - 2; the rest is for rounding.
    spacing = side / (size - 3.01)
    origin = centre - side / 2.0 - 1.005 * spacing
    return np.array([origin[0], origin[1], 1.0 / spacing])

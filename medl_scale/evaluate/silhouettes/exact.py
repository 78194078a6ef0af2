"""Silhouettes from sums of distances, and how far rounding can have moved them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.evaluate.silhouettes.distance_sums import absolute_rounding, relative_rounding

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ExactResult", "silhouettes_from_sums"]


@dataclass(frozen=True, eq=False)
class ExactResult:
    """Silhouettes of cells from sums over all other cells that can matter."""

    values: NDArray[np.float64]
    """(n,) silhouettes, in the order of the sorted cells."""
    errors: NDArray[np.float64]
    """(n,) bounds on what rounding did to each."""
    share: float
    """Pairs of cells that were summed, of all n^2; a pair that serves both its cells is two."""
    method: str
    """How, in words."""


def silhouettes_from_sums(
    own_sums: NDArray[np.float64],
    nearest_means: NDArray[np.float64],
    own_counts: NDArray[np.int64],
    d: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return silhouettes and bounds on their rounding errors, (m,) each.

    Parameters
    ----------
    own_sums
        (m,) sum of the distances to all cells of the own label.
    nearest_means
        (m,) least mean distance to the cells of another label.
    own_counts
        (m,) cells of the own label. A cell without company has silhouette 0, and so has one that
        coincides with all cells of its own and of another label.
    d
        Number of dimensions.

    Notes
    -----
    In s = (b - a) / max(a, b), a and b are off by at most e = `relative_rounding(d)` of themselves
    plus `absolute_rounding(d)`. b is off by 2 u a more (u = 2^-24): the cell's own position is known
    to u of its distance to the centre m of its label, which is at most a; and where a distance is
    taken once for both its cells, the other cell x is rounded about m too, by u |x - m|, and the mean
    of |x - m| is at most b + a. The derivatives of s are at most 1 / max(a, b), hence |error of s| <=
    2 e + 2 u + 2 absolute_rounding(d) / max(a, b), but for products of these.

    Errors are those of silhouettes of the cells as float64 about the mean of all cells. What that
    cannot tell apart, and distances below `absolute_rounding`, count as one point.
    """
    own_means = own_sums / np.maximum(own_counts - 1, 1)
    larger = np.maximum(own_means, nearest_means)
    is_scored = (own_counts > 1) & (larger > 0)
    divisor = np.where(is_scored, larger, 1.0)
    values = np.where(is_scored, (nearest_means - own_means) / divisor, 0.0)
    bounds = 2.0 * relative_rounding(d) + 2.0**-23 + 2.0 * absolute_rounding(d) / divisor
    return values, np.where(is_scored, np.minimum(1.01 * bounds, 2.0), 0.0)

"""Which labels can matter to a block of queries: a bound of every mean distance from a few moments.

The bounds are those of `medl_scale.evaluate.silhouettes.subclusters`, of whole labels. A label that is left out is
farther than another for certain, so that silhouettes do not change by a single bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["labels_in_reach"]

_HELD_VALUES = 1 << 22
"""Numbers of a (rows, labels) array that is held at a time."""


def labels_in_reach(
    points: Any,
    own: Any,
    centres: Any,
    moments: Any,
    *,
    block_rows: int,
    margin: float,
    slack: float,
    xp: ModuleType,
) -> Any:
    """Return a flag for each block of queries and label, (n_blocks, n_labels) uint8.

    It is 0 where no query of the block has the label and, for all of them, another label that is not
    their own is nearer for certain.

    Parameters
    ----------
    points
        (m, d) float64 queries, about the mean of all cells.
    own
        (m,) label of each.
    centres
        (n_labels, d) float64.
    moments
        (n_labels, 3) float64 of each label's cells z about its centre: E|z|^2, and upper bounds of
        sd |z|^2 and of the root of the largest eigenvalue of their covariance.
    block_rows
        Queries of a block; the last block may have fewer.
    margin, slack
        What rounding may change mean distances by, in parts of themselves and absolutely.
    xp
        NumPy, or what stands for it on the device, where all arrays lie.
    """
    m, n_labels = len(points), len(centres)
    n_blocks = -(-m // block_rows)
    reached = xp.zeros((n_blocks, n_labels), xp.uint8)
    blocks_held = max(1, _HELD_VALUES // (n_labels * block_rows))
    for first in range(0, n_blocks, blocks_held):
        rows = slice(first * block_rows, min((first + blocks_held) * block_rows, m))
        near = _in_reach(points[rows], own[rows], centres, moments, margin, slack, xp)
        blocks = xp.zeros((-(-len(near) // block_rows) * block_rows, n_labels), bool)
        blocks[: len(near)] = near
        reached[first : first + blocks_held] = blocks.reshape(-1, block_rows, n_labels).any(axis=1)
    return reached


def _in_reach(
    points: Any,
    own: Any,
    centres: Any,
    moments: Any,
    margin: float,
    slack: float,
    xp: ModuleType,
) -> Any:
    """Return whether a label is a query's own or may be its nearest other one, (m, n_labels)."""
    trace, spread, widest = moments.T
    lengths = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)[None, :]
    squares = lengths - 2.0 * (points @ centres.T)
    # What cancels in the expanded square.
    doubt = (points.shape[1] + 8) * 2.0**-51 * lengths
    most, least = squares + doubt, xp.maximum(squares - doubt, 0.0)
    upper = xp.sqrt(xp.maximum(most, 0.0) + trace)
    mean_square = least + trace
    variance = (2.0 * widest * xp.sqrt(xp.maximum(most, 0.0)) + spread) ** 2
    scatter = xp.sqrt(mean_square**2 + variance)
    hoelder = mean_square * xp.sqrt(mean_square) / xp.where(scatter > 0.0, scatter, 1.0)
    lower = xp.maximum(xp.sqrt(least), hoelder)
    rows = xp.arange(len(points))
    upper[rows, own] = xp.inf
    furthest = upper.min(axis=1) * (1.0 + margin) + slack
    near = lower * (1.0 - margin) <= furthest[:, None]
    near[rows, own] = True
    return near

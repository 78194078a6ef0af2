"""What is known of a block of cells: mean distances to all labels, and how far each may be off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.evaluate.silhouettes.distance_sums import (
    absolute_rounding,
    pair_sums,
    relative_rounding,
)
from medl_scale.evaluate.silhouettes.gridded.gathering import leave_out_self
from medl_scale.evaluate.silhouettes.gridded.interpolation_bounds import error_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["Estimates"]

# A mean is kept in float32.
_RELATIVE = relative_rounding(2) + 2.0**-23
_ABSOLUTE = absolute_rounding(2)


@dataclass(eq=False)
class Estimates:
    """Mean distances of some cells, in units of the scale."""

    clusters: Clusters
    columns: NDArray[np.int64]
    """(n_labels,) the label of each column."""
    counts: NDArray[np.int64]
    """(n_labels,) its cells."""
    rows: NDArray[np.int64]
    """(m,) sorted cells."""
    points: NDArray[np.float64]
    """(m, 2) their positions."""
    own: NDArray[np.int64]
    """(m,) column of each cell's label."""
    mean: NDArray[np.float32]
    """(m, n_labels) mean distances to the cells of each label, oneself included."""
    width: NDArray[np.float32]
    """(m, n_labels) proven bounds on their errors."""
    is_final: NDArray[np.bool_]
    """(m, n_labels) whether distances were summed one by one."""
    a: NDArray[np.float64]
    """(m,) mean distance to the other cells of the own label."""
    a_width: NDArray[np.float64]
    """(m,) bound on its error."""

    @classmethod
    def blank(
        cls, clusters: Clusters, columns: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Estimates:
        """Return estimates that nothing has been written to."""
        column_of = np.empty(len(columns), np.int64)
        column_of[columns] = np.arange(len(columns))
        shape = (len(rows), len(columns))
        return cls(
            clusters,
            columns,
            clusters.counts[columns],
            rows,
            clusters.points(rows),
            column_of[clusters.codes[rows]],
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.bool_),
            np.zeros(len(rows)),
            np.zeros(len(rows)),
        )

    def leave_out_self(self, at: NDArray[np.int64], grid: NDArray[np.float64]) -> None:
        """Set the mean distance to the other cells of the own label, where that is a field.

        Parameters
        ----------
        at
            Which cells of the block.
        grid
            The grid that they were spread on.
        """
        largest = error_bounds(1)[0, 0]
        leave_out_self(
            self.points,
            at,
            grid,
            self.own,
            self.counts,
            largest,
            self.mean,
            self.width,
            self.a,
            self.a_width,
        )

    def settle(
        self, chosen: NDArray[np.int64], starts: NDArray[np.int64], at: NDArray[np.int64]
    ) -> None:
        """Sum the distances of some cells to some labels one by one.

        Parameters
        ----------
        chosen, starts
            (n_chosen,) columns, and (n_chosen + 1,) where the cells of each begin.
        at
            (n_pairs,) which cells of the block.
        """
        if not len(at):
            return
        clusters = self.clusters
        sums = pair_sums(
            clusters,
            clusters.offsets,
            clusters.centres,
            clusters.codes,
            self.rows[at],
            self.columns[chosen],
            starts,
        )
        column = np.repeat(chosen, np.diff(starts))
        counts = self.counts[column]
        means = sums / counts
        self.mean[at, column] = means
        self.width[at, column] = _RELATIVE * means + _ABSOLUTE
        self.is_final[at, column] = True
        # A cell is at distance 0 of itself.
        mine = np.flatnonzero(self.own[at] == column)
        others = np.maximum(counts[mine] - 1, 1)
        self.a[at[mine]] = sums[mine] / others
        self.a_width[at[mine]] = _RELATIVE * sums[mine] / others + 2.0 * _ABSOLUTE

    def settle_all(self, at: NDArray[np.int64], columns: slice) -> None:
        """Sum the distances of some cells to all labels of a stretch of columns."""
        chosen = np.arange(columns.start, columns.stop)
        starts = np.arange(len(chosen) + 1) * len(at)
        self.settle(chosen, starts, np.tile(at, len(chosen)))

"""Moments of cells that were all projected to all donors, streamed: what is common to a cell is taken out.

The same as `groups.compare_groups` with `sources`, for more projections than fit into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.interpret.donors import DonorMoments

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CrossedMoments"]


class CrossedMoments:
    """Donors' moments over the projections of cells that come block by block.

    Parameters
    ----------
    n_donors, n_features
        Sizes.
    """

    def __init__(self, n_donors: int, n_features: int) -> None:
        self.n_cells = 0
        self._moments = DonorMoments.none(n_donors, n_features)
        self._common = np.zeros(n_features)

    def add(self, values: NDArray[np.floating]) -> None:
        """Take in some cells, (m, n_donors, n_features): each as if of every donor."""
        n_donors = values.shape[1]
        means = values.mean(axis=1, dtype=np.float64)
        self.n_cells += len(values)
        self._common += (means.mean(axis=0) - self._common) * (len(values) / self.n_cells)
        mean, squares = np.empty((2, n_donors, values.shape[2]))
        for donor in range(n_donors):
            own = values[:, donor].astype(np.float64)
            mean[donor] = own.mean(axis=0)
            own -= means
            squares[donor] = np.square(own - own.mean(axis=0)).sum(axis=0)
        n = np.full(n_donors, len(values), np.int64)
        # About the cells' own means from the start: blocks differ in them, donors do not.
        block = DonorMoments(n, mean - means.mean(axis=0), squares)
        self._moments = self._moments.merge(block)

    @property
    def subtracted(self) -> int:
        """Degrees of freedom that the cells' means took."""
        return self.n_cells - 1

    @property
    def moments(self) -> DonorMoments:
        """Of all cells so far: the donors' means, and squares without what a cell's rows share."""
        found = self._moments
        return DonorMoments(found.n, found.mean + self._common, found.squares)

"""Cells reduced to what tests between donors need: per donor a count, means, and squares about them.

Records of disjoint cells merge, so that cells may stream by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["DonorMoments", "donor_moments"]


@dataclass(frozen=True, eq=False)
class DonorMoments:
    """Moments of some features over each donor's cells."""

    n: Integers
    """(n_donors,) cells."""
    mean: Doubles
    """(n_donors, n_features); 0 where a donor has no cell."""
    squares: Doubles
    """(n_donors, n_features) sum over cells of the squared distance from the donor's mean."""

    @staticmethod
    def none(n_donors: int, n_features: int) -> DonorMoments:
        """Return the moments of no cells, to merge others into."""
        zeros = np.zeros((n_donors, n_features))
        return DonorMoments(np.zeros(n_donors, np.int64), zeros, zeros)

    def merge(self, other: DonorMoments) -> DonorMoments:
        """Return the moments over the cells of both."""
        n = self.n + other.n
        share = (other.n / np.maximum(n, 1))[:, None]
        apart = other.mean - self.mean
        return DonorMoments(
            n,
            self.mean + share * apart,
            self.squares + other.squares + np.square(apart) * (share * self.n[:, None]),
        )


def donor_moments(values: NDArray[np.floating], codes: Integers, n_donors: int) -> DonorMoments:
    """Return the moments of some cells.

    Parameters
    ----------
    values
        (m, n_features).
    codes
        (m,) donor of each cell, in [0, n_donors).
    n_donors
        Number of donors.

    Notes
    -----
    Two passes in float64, about one cell of each donor and then about the donors' means. So donors whose
    cells all have one value have exactly that mean, and ties between donors stay ties.
    """
    n = np.bincount(codes, minlength=n_donors)
    indicator = sparse.csr_array(
        (np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(n_donors, len(codes))
    )
    offsets = np.array(values, np.float64)
    present, first = np.unique(codes, return_index=True)
    mean = np.zeros((n_donors, offsets.shape[1]))
    mean[present] = offsets[first]
    offsets -= mean[codes]
    further = (indicator @ offsets) / np.maximum(n, 1)[:, None]
    offsets -= further[codes]
    squares = indicator @ np.square(offsets, out=offsets)
    return DonorMoments(n.astype(np.int64), mean + further, squares)

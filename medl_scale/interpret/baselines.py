"""What predicts a batch's expression without a network: batch means, and types plus batches.

Any as-if projection must be held against these: they take seconds and no training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    type Doubles = NDArray[np.float64]
    type Codes = NDArray[np.int32] | NDArray[np.int64]

__all__ = ["AdditiveBaselines", "GroupSums", "TrainSums"]

RIDGE = 0.1
"""Cells' worth of evidence that a batch has no effect; makes the fit unique."""


class GroupSums:
    """Numbers, sums and squares of cells by group, cells streaming by.

    Parameters
    ----------
    n_groups, n_vars
        Sizes.
    with_squares
        Also keep what variances need.
    """

    def __init__(self, n_groups: int, n_vars: int, *, with_squares: bool = False) -> None:
        self.n = np.zeros(n_groups, np.int64)
        self.sums = np.zeros((n_groups, n_vars))
        self._squares = np.zeros((n_groups if with_squares else 0, n_vars))

    def add(self, values: NDArray[np.floating], groups: Codes) -> None:
        """Take in cells, (m, n_vars); (m,) groups of -1 are left out."""
        _add(values, groups, self.n, self.sums, self._squares)

    @property
    def mean(self) -> Doubles:
        """(n_groups, n_vars); 0 for a group without cells."""
        return self.sums / np.maximum(self.n, 1)[:, None]

    @property
    def mean_variance(self) -> Doubles:
        """(n_groups, n_vars) squared standard error of the mean; NaN below 2 cells."""
        if not len(self._squares):
            raise ValueError("GroupSums was made without squares.")
        n = self.n[:, None].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            within = self._squares / n - np.square(self.sums / n)
            variance = np.maximum(within, 0.0) / (n - 1)
        return np.where(n > 1, variance, np.nan)


class TrainSums:
    """Train cells by type and by batch: all that the additive baselines are fitted from."""

    def __init__(self, n_labels: int, n_batches: int, n_vars: int) -> None:
        self.n = np.zeros((n_labels, n_batches), np.int64)
        """Labelled cells of each type in each batch."""
        self._types = GroupSums(n_labels, n_vars)
        self._labelled = GroupSums(n_batches, n_vars)
        self._unlabelled = GroupSums(n_batches, n_vars)

    def add(self, values: NDArray[np.floating], labels: Codes, batches: Codes) -> None:
        """Take in cells, (m, n_vars); label -1 is none."""
        known = labels >= 0
        np.add.at(self.n, (labels[known], batches[known]), 1)
        self._types.add(values, labels)
        self._labelled.add(values, np.where(known, batches, -1))
        self._unlabelled.add(values, np.where(known, -1, batches))

    def fit(self) -> AdditiveBaselines:
        """Return the baselines; see there."""
        n = self.n.astype(np.float64)
        # Batches are eliminated first, so that what is solved has the size of the types.
        per_batch = n / (n.sum(axis=0) + RIDGE)
        left = np.diag(n.sum(axis=1)) - per_batch @ n.T
        absent = n.sum(axis=1) == 0
        left[absent, absent] = 1.0
        profile = np.linalg.solve(left, self._types.sums - per_batch @ self._labelled.sums)
        effect = (self._labelled.sums - n.T @ profile) / (n.sum(axis=0) + RIDGE)[:, None]
        n_cells = self._labelled.n + self._unlabelled.n
        total = self._labelled.sums + self._unlabelled.sums
        mean = total / np.maximum(n_cells, 1)[:, None]
        return AdditiveBaselines(self.n, mean, profile, effect)


@dataclass(frozen=True, eq=False)
class AdditiveBaselines:
    """Predictions of a type's mean in a batch from means of the train cells.

    The two-way fit is least squares of a cell's expression on its type plus its batch.
    """

    n: NDArray[np.int64]
    """(n_labels, n_batches) train cells."""
    batch_mean: Doubles
    """(n_batches, n_vars), labels not used."""
    profile: Doubles
    """(n_labels, n_vars) part of the type; 0 for one without train cells."""
    effect: Doubles
    """(n_batches, n_vars) part of the batch, labels used."""

    def predict(
        self, label: int, source: int, target: int, measured: Doubles
    ) -> dict[str, Doubles]:
        """Return the predicted mean of a type in a target batch by each baseline, (n_vars,) each.

        Parameters
        ----------
        label, source, target
            Codes.
        measured
            (n_vars,) mean of the type's cells in the source batch, which shifts are added to.

        Returns
        -------
        `no_shift`; `batch_shift`, the difference of the batches' means; `two_way_shift`, that of their
        two-way effects; `two_way_profile`, the type's part plus the target's, which does not look at
        the source cells: NaN for a type without train cells.
        """
        profile = self.profile[label] + self.effect[target]
        if not self.n[label].any():
            profile = np.full_like(profile, np.nan)
        return {
            "no_shift": measured,
            "batch_shift": measured + self.batch_mean[target] - self.batch_mean[source],
            "two_way_shift": measured + self.effect[target] - self.effect[source],
            "two_way_profile": profile,
        }


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add(values: Any, groups: Any, n: Any, sums: Any, squares: Any) -> None:
    """Add cells to the numbers, sums and squares of their groups; no squares where there is no row."""
    for i in range(groups.size):
        group = groups[i]
        if group < 0:
            continue
        n[group] += 1
        for j in range(values.shape[1]):
            sums[group, j] += values[i, j]
        if squares.shape[0] > 0:
            for j in range(values.shape[1]):
                value = np.float64(values[i, j])
                squares[group, j] += value * value

"""Cells sorted by label, each stored as its offset from the mean of its label.

Distances are then accurate in float32 wherever the cells lie: the mean distance of a point x to the
cells y of a label with mean m is at least |x - m| (Jensen), and at least half the mean of |y - m|, so
that rounding x - m and y - m changes it by a few parts in 10^7 of itself, and never by more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.inputs import Labels

__all__ = ["LANES", "Clusters", "sort_by_label"]

LANES = 16
"""Cells that lie side by side in `Clusters.groups`."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Cells in the order of their labels. Lengths are in units of `scale`."""

    offsets: NDArray[np.float32]
    """(n, d) cell minus the centre of its label; C order."""
    centres: NDArray[np.float64]
    """(n_labels, d) mean of each label, about the mean of all cells."""
    starts: NDArray[np.int64]
    """(n_labels + 1,) where each label's cells begin."""
    codes: NDArray[np.int32]
    """(n,) label of each sorted cell."""
    order: NDArray[np.int64]
    """(n,) row of the input that each sorted cell came from."""
    scale: float
    """A power of two at least as large as any coordinate: squares of float32 neither overflow nor
    vanish."""

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.codes)

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.centres)

    @property
    def d(self) -> int:
        """Number of latent dimensions."""
        return int(self.offsets.shape[1])

    @property
    def counts(self) -> NDArray[np.int64]:
        """(n_labels,) cells of each label."""
        return np.diff(self.starts)

    @cached_property
    def groups(self) -> NDArray[np.float32]:
        """(n_groups, d, 16) offsets, sixteen sorted cells side by side; the last group ends in zeros.

        Made when first asked for, and never pickled.
        """
        groups = np.zeros((-(-self.n // LANES), self.d, LANES), np.float32)
        whole = self.n // LANES
        for start in range(0, whole, 4096):
            stop = min(start + 4096, whole)
            cells = self.offsets[start * LANES : stop * LANES]
            groups[start:stop] = cells.reshape(-1, LANES, self.d).transpose(0, 2, 1)
        if whole < len(groups):
            rest = self.offsets[whole * LANES :]
            groups[whole, :, : len(rest)] = rest.T
        return groups

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "groups"}

    def points(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return sorted cells about the mean of all cells, (m, d), in units of `scale`."""
        return self.offsets[rows] + self.centres[self.codes[rows]]


def sort_by_label(latent: NDArray[Any], labels: Labels) -> Clusters:
    """Return cells sorted by label; within a label they keep their order.

    Parameters
    ----------
    latent
        (n, d) finite floats.
    labels
        One for each cell.
    """
    n_labels = len(labels.levels)
    order = np.argsort(labels.codes, kind="stable").astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(labels.counts)]).astype(np.int64)
    # Halves first: the difference of two float64 near the largest one overflows.
    origin = _mean_of(latent)
    largest = 0.0
    for start in range(0, len(latent), 65_536):
        block = np.abs(latent[start : start + 65_536] / 2.0 - origin / 2.0)
        largest = max(largest, float(block.max()))
    scale = float(2.0 ** (np.ceil(np.log2(largest)) + 1)) if largest > 0 else 1.0
    offsets = np.empty(latent.shape, np.float32)
    centres = np.empty((n_labels, latent.shape[1]))
    for label in range(n_labels):
        rows = slice(starts[label], starts[label + 1])
        # In float64, because the scale of float32 cells may be beyond float32.
        cells = np.asarray(latent[order[rows]], np.float64) / scale - origin / scale
        centres[label] = cells.mean(axis=0, dtype=np.float64)
        # Sums of many cells far from the origin lose digits; those of their offsets do not.
        centres[label] += (cells - centres[label]).mean(axis=0, dtype=np.float64)
        offsets[rows] = cells - centres[label]
    return Clusters(offsets, centres, starts, labels.codes[order], order, scale)


def _mean_of(latent: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean cell, (d,), without overflow."""
    total = np.zeros(latent.shape[1])
    for start in range(0, len(latent), 65_536):
        block = latent[start : start + 65_536]
        total += np.sum(np.asarray(block, np.float64) / len(latent), axis=0)
    return total

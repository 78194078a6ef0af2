"""Which cells and pairs of batches the what-if check compares, and their means as cells stream by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.interpret.baselines import GroupSums
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.interpret.as_if_means import AsIfMeans

    type Floats = NDArray[np.float32]
    type Codes = NDArray[np.int32]
    type Integers = NDArray[np.int64]

__all__ = ["CheckedCells", "CheckedPairs", "choose_pairs"]


@dataclass(frozen=True, eq=False)
class CheckedPairs:
    """Moves of a type from one batch to another that have enough cells on both sides."""

    labels: Integers
    """(n_pairs,) codes, as are the following."""
    sources: Integers
    targets: Integers
    n_possible: int
    """Pairs with enough cells, those left out by the limit included."""
    group_of: Integers
    """(n_labels, n_batches) number of the group of cells, -1 where it is in no pair."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_groups(self) -> int:
        """Types in batches that are compared."""
        return int(self.group_of.max(initial=-1)) + 1

    def source_groups(self) -> Integers:
        """Return (n_pairs,) groups that are moved."""
        return self.group_of[self.labels, self.sources]

    def target_groups(self) -> Integers:
        """Return (n_pairs,) groups that say what is right."""
        return self.group_of[self.labels, self.targets]


def choose_pairs(
    n_cells: NDArray[np.integer], *, min_cells: int, most_pairs: int, seed: int
) -> CheckedPairs:
    """Choose pairs of different batches in which a type has `min_cells` cells.

    Parameters
    ----------
    n_cells
        (n_labels, n_batches) cells to check with.
    most_pairs
        Where there are more, so many are drawn.
    seed
        Of the draw.

    Returns
    -------
    CheckedPairs
        In the order of types, sources, targets.
    """
    enough = n_cells >= min_cells
    n_enough = enough.sum(axis=1)
    # The pairs of a type are numbered source by source, itself left out; types follow each other.
    per_type = n_enough * (n_enough - 1)
    n_possible = int(per_type.sum())
    if n_possible > most_pairs:
        rng = generator(seed, Purpose.CHECKED_PAIRS)
        chosen = np.sort(rng.choice(n_possible, most_pairs, replace=False))
    else:
        chosen = np.arange(n_possible)
    ends = np.cumsum(per_type)
    labels = np.searchsorted(ends, chosen, side="right")
    source, target = np.divmod(
        chosen - (ends - per_type)[labels], np.maximum(n_enough[labels] - 1, 1)
    )
    target += target >= source
    batches = [np.flatnonzero(row) for row in enough]
    sources = np.array([batches[k][i] for k, i in zip(labels, source, strict=True)], np.int64)
    targets = np.array([batches[k][i] for k, i in zip(labels, target, strict=True)], np.int64)
    used = np.zeros(n_cells.shape, np.bool_)
    used[labels, sources] = True
    used[labels, targets] = True
    group_of = np.full(n_cells.shape, -1, np.int64)
    group_of[used] = np.arange(np.count_nonzero(used))
    return CheckedPairs(labels, sources, targets, n_possible, group_of)


class CheckedCells:
    """Means of the cells compared: as measured, and as each model makes them.

    Parameters
    ----------
    pairs
        What is compared.
    models
        By name, what decodes cells; fed the same cells as the measured means.
    n_vars
        Number of genes.
    most_cells
        Cells of a type in a batch that count, the first that come.
    """

    def __init__(
        self, pairs: CheckedPairs, models: Mapping[str, AsIfMeans], n_vars: int, most_cells: int
    ) -> None:
        self.pairs = pairs
        self.models = models
        self.measured = GroupSums(pairs.n_groups, n_vars, with_squares=True)
        self._most_cells = most_cells

    def add(self, x: Floats, batches: Codes, labels: Codes, rows: Integers) -> None:
        """Take in cells.

        Parameters
        ----------
        x
            (m, n_vars) as the models see them.
        batches, labels
            (m,) codes; label -1 is none.
        rows
            (m,) of the atlas.
        """
        groups = np.where(labels >= 0, self.pairs.group_of[labels, batches], -1)
        places = np.flatnonzero(groups >= 0)
        order = places[np.argsort(groups[places], kind="stable")]
        # How many of its group come before a cell: here, and in what was taken in before.
        found, first, counts = np.unique(groups[order], return_index=True, return_counts=True)
        before = np.arange(len(order)) - np.repeat(first - self.measured.n[found], counts)
        kept = np.sort(order[before < self._most_cells])
        if not kept.size:
            return
        x, own, groups = x[kept], batches[kept], groups[kept]
        self.measured.add(x, groups)
        for model in self.models.values():
            model.add(x, own, groups, rows[kept])

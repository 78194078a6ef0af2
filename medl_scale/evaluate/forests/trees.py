"""The trees of a forest, grown wherever there is room, and the sum of what they say.

A forest is scikit-learn's `RandomForestClassifier(n_estimators=100, random_state=42)`: every tree has
the seed and the bootstrap that it would have there. All trees of a million cells would be gigabytes, so
each answers for the test cells where it grew and is dropped; what comes back is a byte or two a cell.
Sums are taken over trees in their order, so probabilities are those of a single process bit for bit,
whoever grew which tree.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.config import check_at_least
from medl_scale.errors import ConfigError
from medl_scale.evaluate.blocks import map_here, row_blocks
from medl_scale.evaluate.forests.features import Features
from medl_scale.evaluate.forests.tree import ScikitLearnGrower, grower_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.forests.tree import Grower, Votes

__all__ = [
    "ForestTask",
    "forest_probabilities",
    "forest_seconds",
    "grow_trees",
    "tree_seeds",
]

_TREES_PER_THREAD = 5
_BLOCK_VALUES = 2**22
"""Probabilities held at a time: 32 MiB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForestTask:
    """What all trees of a forest share."""

    train: Features
    codes: NDArray[np.int32]
    """(n_train,) classes from 0 to n_classes - 1; each occurs."""
    test: Features
    n_classes: int
    n_draws: int
    """Cells drawn, with replacement, for each tree."""
    n_threads: int = 1
    """Trees grown at a time, each on a thread; figures do not depend on it."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_draws <= len(self.codes):
            raise ConfigError(
                f"n_draws must be between 1 and the {len(self.codes):,} train cells; got {self.n_draws:,}."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what each process makes for itself."""
        return {name: value for name, value in vars(self).items() if name != "prepared"}

    @cached_property
    def prepared(self) -> Prepared:
        """What grows the trees, made once in a process and kept with the task."""
        if self.train.latent is None and self.train.batch_codes is not None:
            return _few_rows(self, self.train.batch_codes)
        return Prepared(grower_for(self.train, self.codes, self.test, self.n_classes))


def tree_seeds(n_trees: int, seed: int) -> list[int]:
    """Return the seeds that scikit-learn's forest gives its trees."""
    random = np.random.RandomState(seed)
    return [int(random.randint(np.iinfo(np.int32).max)) for _ in range(n_trees)]


def grow_trees(task: ForestTask, seeds: Sequence[int]) -> list[Votes]:
    """Grow some trees of a forest, ask each for the test cells, and forget it.

    Parameters
    ----------
    task
        What the trees share.
    seeds
        One a tree, of `tree_seeds`.
    """
    prepared = task.prepared
    grow = partial(_grow, task, prepared)
    if task.n_threads == 1 or len(seeds) == 1:
        return [grow(seed) for seed in seeds]
    # Other threads run while a tree grows.
    with ThreadPoolExecutor(min(task.n_threads, len(seeds))) as threads:
        return list(threads.map(grow, seeds))


def forest_probabilities(
    task: ForestTask,
    *,
    n_trees: int = 100,
    seed: int = 42,
    map_blocks: BlockMap = map_here,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield probabilities of the classes for the test cells, block by block.

    Parameters
    ----------
    task
        What is asked.
    n_trees, seed
        `n_estimators` and `random_state` of scikit-learn's forest.
    map_blocks
        Who grows the trees.

    Yields
    ------
    rows of the block, and (n_rows, n_classes) what `RandomForestClassifier.predict_proba` says of
    them in one process, bit for bit.

    Notes
    -----
    Answers of all trees are held at once: `n_trees` bytes a test cell up to 256 classes, else twice
    as many.
    """
    check_at_least("n_trees", n_trees, 1)
    seeds = tree_seeds(n_trees, seed)
    items = [seeds[rows] for rows in row_blocks(n_trees, _TREES_PER_THREAD * task.n_threads)]
    votes = [tree for trees in map_blocks(grow_trees, task, items) for tree in trees]
    for rows in row_blocks(len(task.test), max(1, _BLOCK_VALUES // task.n_classes)):
        total = np.zeros((rows.stop - rows.start, task.n_classes))
        for tree in votes:
            _add_votes(total, tree, rows)
        total /= n_trees
        yield rows, total


def forest_seconds(n_train: int, n_features: int, n_classes: int, *, n_trees: int = 100) -> float:
    """Return roughly how many CPU seconds a forest takes to grow, within a factor of 3.

    Parameters
    ----------
    n_train
        Cells that each tree draws.
    n_features
        Columns of the latent; a split looks at the square root of their number.
    n_classes
        Classes told apart.
    n_trees
        Trees.

    Notes
    -----
    A level of a tree sorts its cells by each column looked at, and there are about log n levels;
    more classes make deeper trees. The constants were measured on one core of an AMD EPYC for 7,680
    to 150,000 cells, 2 to 50 columns and 2 to 147 classes.
    """
    columns = max(1, math.isqrt(n_features))
    log_n = math.log2(max(2, n_train))
    return (1e-9 + 6e-12 * n_classes) * n_trees * columns * n_train * log_n**2


def available_threads() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Prepared(NamedTuple):
    """What grows the trees of a forest, and which rows stand for which cells."""

    grower: Grower
    row_of_cell: NDArray[np.integer] | None = None
    """(n_train,) where train cells share rows; None where each has its own."""
    row_of_test: NDArray[np.int32] | None = None
    """(n_test,) where test cells do."""


def _few_rows(task: ForestTask, batch_codes: NDArray[np.int32]) -> Prepared:
    """Return one train row for each batch and class that occur together, one test row a batch.

    The tree is the same as from all cells, and there are a thousand times fewer: a split depends on
    the weights of distinct values only, and all weights are integers, so their sums are exact.
    """
    n_batches = task.train.n_batches
    pairs, row_of_cell = np.unique(
        batch_codes.astype(np.int64) * task.n_classes + task.codes, return_inverse=True
    )
    batches, codes = (pairs // task.n_classes).astype(np.int32), pairs % task.n_classes
    # The last row, of a batch without a column, is found by its code -1.
    each = np.append(np.arange(n_batches, dtype=np.int32), np.int32(-1))
    train, test = (Features(batch_codes=known, n_batches=n_batches) for known in (batches, each))
    # Weights of whole batches are beyond what our own loops take, and these trees are small.
    grower = ScikitLearnGrower.of(train, codes.astype(np.int32), test, task.n_classes)
    return Prepared(grower, row_of_cell, task.test.batch_codes)


def _grow(task: ForestTask, prepared: Prepared, seed: int) -> Votes:
    """Draw the cells of one tree, grow it and return its votes."""
    n = len(task.codes)
    weights = np.bincount(np.random.RandomState(seed).randint(0, n, task.n_draws), minlength=n)
    if prepared.row_of_cell is not None:
        weights = np.bincount(prepared.row_of_cell, weights).astype(np.int64)
    votes = prepared.grower.votes(weights, seed)
    if prepared.row_of_test is None:
        return votes
    return votes._replace(answers=votes.answers[prepared.row_of_test])


def _add_votes(total: NDArray[np.float64], votes: Votes, rows: slice) -> None:
    """Add the probabilities that a tree gives to a block of test cells, in place."""
    answers = votes.answers[rows]
    n_classes = total.shape[1]
    pure = np.flatnonzero(answers < n_classes)
    total[pure, answers[pure]] += 1.0
    if len(pure) < len(answers):
        others = np.flatnonzero(answers >= n_classes)
        total[others] += votes.mixed[answers[others].astype(np.int64) - n_classes].toarray()

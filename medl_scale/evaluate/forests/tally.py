"""What forests got right on the test cells, beside what guesses without one get right."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.score import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

__all__ = ["ForestResult", "stratified_guesses", "tally"]

_BLOCK_VALUES = 2**22
"""Draws held at a time: 32 MiB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForestResult:
    """What a forest got right on the test cells, and what it takes to get as much without one."""

    accuracy: float
    balanced_accuracy: float
    """Mean over the classes of the test cells of the share told right."""
    chance: float
    """Accuracy of classes drawn by their frequency in train: the papers' `ChanceAccuracy`."""
    balanced_chance: float
    majority: float
    """Accuracy of always naming the largest class of train."""
    balanced_majority: float
    confusion: NDArray[np.int64]
    """(n_levels, n_levels) test cells: rows are what they are, columns what the forest says."""
    levels: NDArray[Any]
    """(n_levels,) names of the classes in train and test, sorted."""
    predictions: Codes
    """(n_test,) what the forest says, positions in `levels`."""
    is_right: NDArray[np.bool_]
    """(n_test,)"""
    majority_is_right: NDArray[np.bool_]
    """(n_test,) whether the largest class of train would have been right."""
    absent: tuple[Any, ...]
    """Classes of test cells that train lacks; their cells count as errors."""
    n_absent: int
    """Test cells of these."""
    n_train: tuple[int, ...]
    """Train cells of each forest."""
    n_test: int
    method: str
    seconds: float

    def scores(self) -> dict[str, Score]:
        """Return the figures under the papers' names."""
        values = {
            "RFAccuracy": (self.accuracy, self.method),
            "RFBalancedAccuracy": (self.balanced_accuracy, self.method),
            "ChanceAccuracy": (self.chance, "classes drawn by their frequency in train"),
            "MajorityAccuracy": (self.majority, "the largest class of train"),
        }
        return {
            name: Score(
                value=value,
                kind="exact",
                # Counts over counts, and a mean of these: nothing but the rounding of quotients.
                error=float(np.finfo(float).eps),
                method=method,
                n=self.n_test,
                seconds=self.seconds,
            )
            for name, (value, method) in values.items()
        }


def tally(
    levels: NDArray[Any],
    truth: Codes,
    predictions: Codes,
    parts: Sequence[tuple[Codes, NDArray[np.integer]]],
    *,
    method: str,
    seed: int,
    started: float,
) -> ForestResult:
    """Return what one or several forests got right, each on its own test cells.

    Parameters
    ----------
    levels
        (n_levels,) names of all classes.
    truth, predictions
        (n_test,) positions in `levels`.
    parts
        Of each forest, the classes of its train cells and the positions of its test cells.
    method
        How the forests were grown, in words.
    seed
        Of the classes drawn by chance.
    started
        When, by `time.perf_counter`.
    """
    n_levels, n_test = len(levels), len(truth)
    guesses, largest = np.empty(n_test, np.int32), np.empty(n_test, np.int32)
    is_absent = np.zeros(n_test, np.bool_)
    for train_codes, cells in parts:
        counts = np.bincount(train_codes, minlength=n_levels)
        guesses[cells] = stratified_guesses(counts, len(cells), seed=seed)
        largest[cells] = counts.argmax()
        is_absent[cells] = counts[truth[cells]] == 0
    confusion = _confusion(truth, predictions, n_levels)
    chance, majority = (_confusion(truth, said, n_levels) for said in (guesses, largest))
    return ForestResult(
        accuracy=_accuracy(confusion),
        balanced_accuracy=_balanced_accuracy(confusion),
        chance=_accuracy(chance),
        balanced_chance=_balanced_accuracy(chance),
        majority=_accuracy(majority),
        balanced_majority=_balanced_accuracy(majority),
        confusion=confusion,
        levels=levels,
        predictions=predictions,
        is_right=predictions == truth,
        majority_is_right=largest == truth,
        absent=tuple(levels[np.unique(truth[is_absent])].tolist()),
        n_absent=int(np.count_nonzero(is_absent)),
        n_train=tuple(len(train_codes) for train_codes, _ in parts),
        n_test=n_test,
        method=method,
        seconds=time.perf_counter() - started,
    )


def stratified_guesses(counts: NDArray[np.integer], n: int, *, seed: int) -> Codes:
    """Return classes drawn by their frequency, (n,), as scikit-learn's stratified dummy draws them.

    Parameters
    ----------
    counts
        (n_classes,) train cells of each class; those without a cell are never drawn.
    n
        How many to draw.
    seed
        `random_state` of `DummyClassifier(strategy="stratified")`.
    """
    known = np.flatnonzero(counts)
    shares = counts[known] / counts.sum()
    random = np.random.RandomState(seed)
    found = np.empty(n, np.int32)
    for rows in row_blocks(n, max(1, _BLOCK_VALUES // len(known))):
        drawn = random.multinomial(1, shares, size=rows.stop - rows.start)
        found[rows] = known[drawn.argmax(axis=1)]
    return found


def _confusion(truth: Codes, predictions: Codes, n_levels: int) -> NDArray[np.int64]:
    """Return (n_levels, n_levels) counts of truth by prediction."""
    pairs = truth.astype(np.int64) * n_levels + predictions
    counts = np.bincount(pairs, minlength=n_levels**2).astype(np.int64)
    return counts.reshape(n_levels, n_levels)


def _accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of cells told right."""
    return float(np.trace(confusion) / confusion.sum())


def _balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the mean, over the classes that occur, of the share of their cells told right."""
    cells = confusion.sum(axis=1)
    occurs = cells > 0
    return float(np.mean(np.diagonal(confusion)[occurs] / cells[occurs]))

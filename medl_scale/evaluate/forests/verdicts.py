"""What classification figures mean, in words: donor look-up or not, and whether it carries over.

One rule decides every comparison. Two spaces are asked for the same cells, so their difference is
taken cell by cell; one is better where the difference exceeds the half-width of its 95 % interval,
the largest of these:

- over cells, Agresti and Min's interval for paired proportions (2005, doi:10.1002/sim.1781), which
  stays open where few cells or none differ;
- over batches, where cells of a batch stand or fall together: for unseen batches, and for a target
  that no batch holds two classes of, the t interval whose observations are batches;
- over folds, where there are 3 or more, the t interval of the folds' differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri, stdtrit

from medl_scale.errors import DataError
from medl_scale.evaluate.forests.spaces import ONE_HOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.evaluate.forests.classification import Answer, Protocol

    Asked = Sequence[Answer]
    """One target, space and protocol; one a fold."""

__all__ = ["Difference", "Verdict", "compare", "compare_to_majority", "give_verdicts"]

LEVEL = 0.95
_FEWEST_FOLDS = 3


@dataclass(frozen=True)
class Difference:
    """One accuracy less another, of the same cells."""

    value: float
    half_width: float
    """Of the 95 % interval; infinite where one batch is all there is."""

    @property
    def is_gain(self) -> bool:
        """Whether the first is better beyond the interval."""
        return self.value > self.half_width

    @property
    def is_loss(self) -> bool:
        """Whether the first is worse beyond the interval."""
        return -self.value > self.half_width


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one space tells of one target."""

    target: str
    space: str
    over_look_up: Difference | None
    """Accuracy less that of the one-hot batch alone; None if not asked, or the target is the batch."""
    over_majority: Difference | None
    """Accuracy for unseen batches less that of always naming the largest class; None if not asked."""
    sentence: str

    @property
    def is_no_better_than_look_up(self) -> bool:
        """Whether the accuracy of the published protocol needs nothing but the batch."""
        return self.over_look_up is not None and not self.over_look_up.is_gain


def compare(ours: Asked, theirs: Asked) -> Difference:
    """Return the accuracy of one space less that of another.

    Parameters
    ----------
    ours, theirs
        Answers of the same target and protocol, one a fold, in the same order.

    Raises
    ------
    DataError
        If the answers are not about the same cells.
    """
    folds = [[answer.fold for answer in answers] for answers in (ours, theirs)]
    if folds[0] != folds[1]:
        raise DataError(
            f"Only answers of the same folds can be compared; got folds {folds[0]} and {folds[1]}. Ask "
            "both in every fold."
        )
    for one, other in zip(ours, theirs, strict=True):
        if not np.array_equal(one.cells, other.cells):
            raise DataError(
                "Only answers about the same cells can be compared; "
                f"{one.space!r} and {other.space!r} have {len(one.cells):,} and {len(other.cells):,} "
                f"cells of {one.target!r} in fold {one.fold}. Ask both from one split."
            )
    return _difference(ours, [answer.result.is_right for answer in theirs])


def compare_to_majority(ours: Asked) -> Difference:
    """Return the accuracy of a space less that of always naming the largest class of train.

    Parameters
    ----------
    ours
        Answers of one target and protocol, one a fold.
    """
    return _difference(ours, [answer.result.majority_is_right for answer in ours])


def give_verdicts(answers: Sequence[Answer]) -> list[Verdict]:
    """Return a verdict for every target and space that is no control, over all folds.

    Parameters
    ----------
    answers
        What `classify` returned, of one fold or of several.
    """
    asked: dict[tuple[str, str, Protocol], list[Answer]] = {}
    for answer in answers:
        asked.setdefault((answer.target, answer.space, answer.protocol), []).append(answer)
    verdicts = []
    for target, space in dict.fromkeys((a.target, a.space) for a in answers if not a.is_control):
        rivals = dict.fromkeys(
            a.space for a in answers if a.target == target and a.is_control and a.space != ONE_HOT
        )
        verdicts.append(
            _verdict(
                here=asked.get((target, space, "cells"), []),
                look_up=asked.get((target, ONE_HOT, "cells"), []),
                rivals=[asked.get((target, rival, "cells"), []) for rival in rivals],
                unseen=asked.get((target, space, "unseen batches"), []),
            )
        )
    return verdicts


def _verdict(*, here: Asked, look_up: Asked, rivals: Sequence[Asked], unseen: Asked) -> Verdict:
    """Return the verdict on a space: its answers under both protocols, beside those of the controls."""
    first = [*here, *unseen][0]
    space, words = first.space, []
    over_look_up = over_majority = None
    if here and first.names_batch:
        words.append(_on_batch(space, here))
    elif here and look_up:
        over_look_up = compare(here, look_up)
        words.append(_on_look_up(space, here, look_up, over_look_up))
        if over_look_up.is_gain:
            words += [_on_rival(here, rival) for rival in rivals if rival]
    if unseen:
        over_majority = compare_to_majority(unseen)
        words.append(_on_unseen(space, unseen, over_majority, named=not words))
    return Verdict(
        target=first.target,
        space=space,
        over_look_up=over_look_up,
        over_majority=over_majority,
        sentence=f"{first.target}: {'; '.join(words) or f'{space} has nothing to compare with'}.",
    )


def _on_batch(space: str, here: Asked) -> str:
    """Return how well a latent tells the batch itself."""
    majority = np.mean([answer.result.majority for answer in here])
    return (
        f"{_accuracy(here)} from {space}, where always naming the largest gives {majority:.3f}; it names "
        "the batch, so that there is nothing to carry over to unseen ones"
    )


def _on_look_up(space: str, here: Asked, look_up: Asked, difference: Difference) -> str:
    """Return how an accuracy compares with looking up the batch."""
    how = "is better than" if difference.is_gain else "is no better than"
    return (
        f"{_accuracy(here)} from {space} {how} looking up the batch ({_accuracy(look_up)} from "
        f"{ONE_HOT} alone; difference {_interval(difference)})"
    )


def _on_rival(here: Asked, rival: Asked) -> str:
    """Return how an accuracy compares with a plain latent that is told the batch."""
    difference = compare(here, rival)
    how = (
        "more than" if difference.is_gain else "less than" if difference.is_loss else "no more than"
    )
    return f"{how} {rival[0].space} tells ({_accuracy(rival)}; difference {_interval(difference)})"


def _on_unseen(space: str, unseen: Asked, difference: Difference, *, named: bool) -> str:
    """Return how an accuracy for unseen batches compares with naming the largest class."""
    majority = np.mean([answer.result.majority for answer in unseen])
    source = f" from {space}" if named else ""
    balanced = np.mean([answer.result.balanced_accuracy for answer in unseen])
    nothing = np.mean([answer.result.balanced_majority for answer in unseen])
    if math.isinf(difference.half_width):
        how = "a single batch, which cannot tell; always naming the largest class gives"
    elif difference.is_gain:
        how = "where always naming the largest class gives"
    else:
        how = "no better than always naming the largest class, which gives"
    return (
        f"on unseen batches {_accuracy(unseen)}{source} (balanced {balanced:.3f}), {how} "
        f"{majority:.3f} (balanced {nothing:.3f}; difference {_interval(difference)})"
    )


def _accuracy(answers: Asked) -> str:
    """Return the mean accuracy over folds."""
    return f"{np.mean([answer.result.accuracy for answer in answers]):.3f}"


def _interval(difference: Difference) -> str:
    """Return a difference with its half-width."""
    # Adding zero turns -0.0 into 0.0.
    return f"{round(difference.value, 3) + 0.0:+.3f} ± {difference.half_width:.3f}"


def _difference(ours: Asked, theirs: Sequence[NDArray[np.bool_]]) -> Difference:
    """Return the difference of accuracies, folds weighing alike as in their mean."""
    gains = [
        answer.result.is_right.astype(np.int8) - right
        for answer, right in zip(ours, theirs, strict=True)
    ]
    of_folds = np.array([gain.mean() for gain in gains])
    every = np.concatenate(gains)
    widths = [_half_width_over_cells(every)]
    if ours[0].protocol == "unseen batches" or ours[0].is_constant_in_batches:
        batches = np.concatenate([answer.batch_codes for answer in ours])
        widths.append(_half_width_over_batches(every, batches))
    if len(gains) >= _FEWEST_FOLDS:
        widths.append(_t_half_width(of_folds))
    return Difference(float(of_folds.mean()), max(widths))


def _half_width_over_cells(gains: NDArray[np.int8]) -> float:
    """Return Agresti and Min's half-width: half a cell more is right for each, and for both alone."""
    n = len(gains) + 2.0
    better, worse = np.count_nonzero(gains > 0) + 0.5, np.count_nonzero(gains < 0) + 0.5
    z = ndtri(0.5 + LEVEL / 2)
    return float(z * math.sqrt(better + worse - (better - worse) ** 2 / n) / n)


def _half_width_over_batches(gains: NDArray[np.int8], batches: NDArray[np.int32]) -> float:
    """Return the half-width of a mean over cells that are drawn batch by batch."""
    _, codes = np.unique(batches, return_inverse=True)
    n_batches = int(codes.max()) + 1
    if n_batches == 1:
        return math.inf
    residuals = np.bincount(codes, gains - gains.mean())
    variance = np.square(residuals).sum() * n_batches / (n_batches - 1)
    return float(stdtrit(n_batches - 1, 0.5 + LEVEL / 2) * math.sqrt(variance) / len(gains))


def _t_half_width(values: NDArray[np.float64]) -> float:
    """Return the half-width of the t interval of a mean."""
    n = len(values)
    return float(stdtrit(n - 1, 0.5 + LEVEL / 2) * values.std(ddof=1) / math.sqrt(n))

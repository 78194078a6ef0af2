"""Forests on the latents of a fold: what they are asked, and how many of them there is time for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medl_scale.distribute.machine import count_cores
from medl_scale.evaluate.forests.classification import PROTOCOLS, classify
from medl_scale.evaluate.forests.forest import ForestSettings
from medl_scale.evaluate.forests.trees import forest_seconds
from medl_scale.evaluate.forests.verdicts import give_verdicts
from medl_scale.pipeline.scores import CONFUSION_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.config import EvaluateConfig
    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.budget import Budget
    from medl_scale.evaluate.forests.classification import Answer, Protocol
    from medl_scale.pipeline.subjects import Fold, Subject
    from medl_scale.progress import Progress

    Rows = NDArray[np.int64]

__all__ = ["classify_fold", "confusion_of", "split_of", "verdicts_of"]

PCA = "X_pca"
TOGETHER = (("X_medl_fe", "X_medl_re"),)
"""Latents that the papers put side by side."""
MOST_PARTS = 5


def classify_fold(
    subject: Subject,
    fold: Fold,
    config: EvaluateConfig,
    budget: Budget,
    blocks: BlockMap,
    n_threads: int,
    progress: Progress,
) -> tuple[list[Answer], list[str]]:
    """Return what forests say of every target of a fold, and what was left out and why.

    `n_threads` are those of each process that grows trees.
    """
    targets = [key for key in (subject.labels_key, *config.targets) if key is not None]
    if not targets or subject.batch_key is None:
        return [], ["No labels_key and no targets: there is nothing that forests could be asked."]
    notes = []
    spaces = {space.name: space.read() for space in fold.spaces}
    if PCA not in spaces:
        notes.append(
            "The control of PCA with one-hot batch is left out: there is no latent X_pca. Add pca to "
            "--models, or X_pca to obsm."
        )
    random = [space for space in fold.spaces if space.name == "X_medl_re"]
    if any(space.read_prior_mean is None for space in random):
        notes.append(
            "X_medl_re is not asked of unseen batches: that takes its model. Score the run to have it."
        )
    widths = [latent.shape[1] for latent in spaces.values()]
    classes = [subject.columns[target].nunique() for target in targets]
    protocols, n_parts, note = _what_fits(fold, widths, classes, budget)
    notes += note
    # Encoding takes a pass over the atlas, and only this protocol wants it.
    unseen = {
        space.name: None if space.read_prior_mean is None else _at_prior_mean(subject, fold, space)
        for space in random
        if "unseen batches" in protocols
    }
    answers: list[Answer] = []
    for target in targets:
        known = subject.is_labelled if target == subject.labels_key else None
        train, test = (
            rows if known is None else rows[known[rows]] for rows in (fold.train, fold.test)
        )
        if not protocols or not len(train) or not len(test):
            continue
        answers += classify(
            spaces,
            {target: subject.columns[target]},
            subject.columns[subject.batch_key],
            train=train,
            test=test,
            prior_mean_spaces=unseen,
            combine=TOGETHER,
            pca=PCA,
            protocols=protocols,
            n_parts=n_parts,
            fold=fold.number,
            settings=ForestSettings(backend=config.backend, n_threads=n_threads),
            map_blocks=blocks,
            progress=progress,
        )
    return answers, notes


def verdicts_of(answers: Sequence[Answer]) -> list[str]:
    """Return in words what forests found, over all folds."""
    return [verdict.sentence for verdict in give_verdicts(answers)] if answers else []


def split_of(answer: Answer) -> str:
    """Return the cells that forests were asked for, as tables of scores call them."""
    return "test" if answer.protocol == "cells" else f"test, {answer.protocol}"


def confusion_of(answers: Sequence[Answer]) -> pd.DataFrame:
    """Return what forests took test cells for, with the columns of `scores.CONFUSION_COLUMNS`."""
    tables = []
    for answer in answers:
        counts, levels = answer.result.confusion, answer.result.levels
        truth, predicted = np.nonzero(counts)
        tables.append(
            pd.DataFrame(
                {
                    "space": answer.space,
                    "fold": answer.fold,
                    "split": split_of(answer),
                    "target": answer.target,
                    "truth": [str(levels[i]) for i in truth],
                    "predicted": [str(levels[i]) for i in predicted],
                    "n": counts[truth, predicted],
                }
            )
        )
    empty = pd.DataFrame(columns=CONFUSION_COLUMNS)
    return pd.concat(tables, ignore_index=True) if tables else empty


def _at_prior_mean(subject: Subject, fold: Fold, space: Any) -> NDArray[np.float32]:
    """Return a latent at the prior mean for the cells that forests see; zeros elsewhere."""
    rows = np.sort(np.concatenate([fold.train, fold.test]))
    found = space.read_prior_mean(rows)
    everywhere = np.zeros((len(subject.is_labelled), found.shape[1]), np.float32)
    everywhere[rows] = found
    return everywhere


def _what_fits(
    fold: Fold, widths: Sequence[int], classes: Sequence[int], budget: Budget
) -> tuple[tuple[Protocol, ...], int, list[str]]:
    """Return the protocols and the parts of batches that there is time for, and what there is not."""
    n_cores = count_cores()
    # Beside the latents: two of them together, and PCA with the batch.
    columns = [*widths, sum(widths[:2]), widths[0]]
    n_train = len(fold.train)
    once = sum(forest_seconds(n_train, width, n) for width in columns for n in classes) / n_cores
    left = budget.left()
    if left < once:
        note = (
            f"Forests are left out: they take about {once:,.0f} s, and {left:,.0f} s are left. Allow "
            "more with --max-seconds, or score the run by itself."
        )
        return (), 0, [note]
    for n_parts in range(MOST_PARTS, 1, -1):
        if left >= once * n_parts:
            return PROTOCOLS, n_parts, []
    note = (
        f"Forests are not asked of unseen batches: that takes about {once:,.0f} s more, and "
        f"{left - once:,.0f} s are left. Allow more with --max-seconds."
    )
    return ("cells",), 0, [note]

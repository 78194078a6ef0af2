"""How often a random forest reads a label from a latent, as the papers measure it.

The published protocol: features standardised on the train cells, scikit-learn's forest of 100 trees
with seed 42, fitted on the train split and scored on all cells of the test split; chance is a dummy
that draws classes by their frequency in train.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from medl_scale.config import Backend, check_at_least, check_choice
from medl_scale.errors import DataError
from medl_scale.evaluate.backend import on_chosen
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.forests.features import latent_features
from medl_scale.evaluate.forests.tally import tally
from medl_scale.evaluate.forests.trees import ForestTask, available_threads, forest_probabilities
from medl_scale.evaluate.inputs import check_latent, check_n_labels, encode_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.forests.features import Features
    from medl_scale.evaluate.forests.tally import ForestResult

    Codes = NDArray[np.int32]

__all__ = ["ForestSettings", "Predictions", "forest_accuracy", "forest_predictions"]


@dataclass(frozen=True, kw_only=True)
class ForestSettings:
    """How a forest is grown; what is not as published is told in `method`."""

    n_trees: int = 100
    seed: int = 42
    standardise: bool = True
    max_samples: int | None = 1_000_000
    """Most cells that each tree draws. None: as many as there are, as published, at any size; a tree of
    10 million cells takes most of a gigabyte and of a minute."""
    backend: Backend = "cpu"
    """`gpu`, or `auto` where there is one, grows cuML's forest. That is another forest: its accuracy
    may differ by 0.005, which is why it is not the default. Batches alone stay on the CPU."""
    n_threads: int | None = None
    """Trees grown at a time in a process, here or where `map_blocks` takes them; None: as many as this
    process has cores. Figures do not depend on it."""

    def __post_init__(self) -> None:
        check_at_least("n_trees", self.n_trees, 1)
        check_at_least("seed", self.seed, 0)
        check_choice("backend", self.backend, get_args(Backend))
        for name in ("max_samples", "n_threads"):
            value = getattr(self, name)
            if value is not None:
                check_at_least(name, value, 1)

    def draws(self, n_train: int) -> int:
        """Return how many cells each tree draws of `n_train`."""
        return n_train if self.max_samples is None else min(n_train, self.max_samples)

    def in_words(self, *n_train: int, on_gpu: bool = False) -> str:
        """Return how forests of so many train cells each are grown, in words."""
        kind = "cuML's random forest" if on_gpu else "random forest"
        words = [f"{kind} of {self.n_trees} trees, seed {self.seed}"]
        if not self.standardise:
            words.append("latent not standardised")
        fewest, most = min(n_train), max(n_train)
        cells = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
        if self.draws(most) < most:
            words.append(f"each tree on {self.draws(most):,} draws from {cells} train cells")
        else:
            words.append(f"{cells} train cells")
        if len(n_train) > 1:
            words.append(f"{len(n_train)} forests")
        return ", ".join(words)


class Predictions(NamedTuple):
    """What a forest says of the test cells."""

    codes: Codes
    """(n_test,) classes."""
    on_gpu: bool
    """Whether it is cuML's."""


def forest_accuracy(
    train: ArrayLike,
    train_labels: ArrayLike | Any,
    test: ArrayLike,
    test_labels: ArrayLike | Any,
    *,
    settings: ForestSettings | None = None,
    map_blocks: BlockMap = map_here,
) -> ForestResult:
    """Return how often a random forest fitted on train cells tells the label of test cells.

    Parameters
    ----------
    train, test
        (n_train, d) and (n_test, d) latents.
    train_labels, test_labels
        One for each cell; text, numbers or categories. Test cells of a label that train lacks count
        as errors.
    settings
        The published protocol if None.
    map_blocks
        Who grows the trees.

    Raises
    ------
    DataError
        If a value or label is missing, or the latents differ in their dimensions.
    ScoreUndefinedError
        If all cells have one label.

    Notes
    -----
    On the CPU predictions are those of `RandomForestClassifier(n_estimators=100, random_state=42)`
    after a `StandardScaler`, for any number of workers and threads.
    """
    started = time.perf_counter()
    settings = settings or ForestSettings()
    own, theirs = check_latent(train, name="train"), check_latent(test, name="test")
    if own.shape[1] != theirs.shape[1]:
        raise DataError(
            f"train and test must have the same latent dimensions; they have {own.shape[1]} and "
            f"{theirs.shape[1]}. Take both from one model."
        )
    levels, train_codes, test_codes = _encode(train_labels, len(own), test_labels, len(theirs))
    features = latent_features(own, theirs, standardise=settings.standardise)
    said = forest_predictions(*features, train_codes, settings=settings, map_blocks=map_blocks)
    return tally(
        levels,
        test_codes,
        said.codes,
        [(train_codes, np.arange(len(test_codes)))],
        method=settings.in_words(len(train_codes), on_gpu=said.on_gpu),
        seed=settings.seed,
        started=started,
    )


def forest_predictions(
    train: Features,
    test: Features,
    train_codes: Codes,
    *,
    settings: ForestSettings,
    map_blocks: BlockMap = map_here,
) -> Predictions:
    """Return the class that a forest gives each test cell, among those of train.

    Parameters
    ----------
    train, test
        What the forest is told of each cell.
    train_codes
        (n_train,) classes of the train cells.
    settings
        How the forest is grown.
    map_blocks
        Who grows the trees on the CPU.
    """
    known, own = np.unique(train_codes, return_inverse=True)
    codes: Codes = own.astype(np.int32)
    n_draws = settings.draws(len(codes))

    def on_cpu() -> Predictions:
        task = ForestTask(
            train=train,
            test=test,
            codes=codes,
            n_classes=len(known),
            n_draws=n_draws,
            n_threads=settings.n_threads or available_threads(),
        )
        blocks = forest_probabilities(
            task, n_trees=settings.n_trees, seed=settings.seed, map_blocks=map_blocks
        )
        return Predictions(_most_probable(blocks, known, len(test)), on_gpu=False)

    def on_gpu() -> Predictions:
        from medl_scale.evaluate.gpu.forest import gpu_forest_proba

        blocks = gpu_forest_proba(
            train.dense_matrix(),
            codes,
            test.dense_matrix(),
            len(known),
            n_trees=settings.n_trees,
            seed=settings.seed,
            share_drawn=n_draws / len(codes),
        )
        return Predictions(_most_probable(blocks, known, len(test)), on_gpu=True)

    if train.latent is None:
        return on_cpu()
    return on_chosen(on_gpu, on_cpu, asked=settings.backend, what="random forests", library="cuml")


def _most_probable(
    blocks: Iterable[tuple[slice, NDArray[np.float64]]], known: Codes, n: int
) -> Codes:
    """Return the class with the largest share in each row; the first of those that tie."""
    found = np.empty(n, np.int32)
    for rows, shares in blocks:
        found[rows] = known[shares.argmax(axis=1)]
    return found


def _encode(
    train_labels: Any, n_train: int, test_labels: Any, n_test: int
) -> tuple[NDArray[Any], Codes, Codes]:
    """Return names of all labels, and the codes of both splits."""
    own = encode_labels(train_labels, n_train, name="train_labels")
    theirs = encode_labels(test_labels, n_test, name="test_labels")
    names = np.concatenate([own.levels, theirs.levels])
    union = encode_labels(names, len(names))
    train_codes = union.codes[: len(own.levels)][own.codes]
    test_codes = union.codes[len(own.levels) :][theirs.codes]
    every = np.concatenate([train_codes, test_codes])
    check_n_labels(encode_labels(every, len(every)))
    return union.levels, train_codes, test_codes

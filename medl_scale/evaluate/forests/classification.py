"""What latents tell of a target, beside what the batch alone tells: two protocols and their controls.

A latent made with random effects carries the batch of its cells, so a target that is a property of
the donor is read from it by looking up the donor. Two controls show how much that accounts for,
one-hot batch alone and PCA with one-hot batch; and a second protocol takes the look-up away: forests
grown without some batches are asked for these. There random effects of the prior mean stand on both
sides, since an unseen batch has none of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from medl_scale.config import check_at_least, check_choice
from medl_scale.errors import ConfigError, DataError
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.forests.forest import ForestSettings, forest_predictions
from medl_scale.evaluate.forests.spaces import latents_for_unseen, spaces_to_try
from medl_scale.evaluate.forests.tally import tally
from medl_scale.evaluate.forests.unseen import is_constant_in_batches, split_by_batch
from medl_scale.evaluate.inputs import check_latent, check_n_labels, encode_labels
from medl_scale.progress import SilentProgress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.forests.spaces import Space
    from medl_scale.evaluate.forests.tally import ForestResult
    from medl_scale.evaluate.inputs import Labels
    from medl_scale.progress import Progress

    Latents = Mapping[str, NDArray[Any]]
    Codes = NDArray[np.int32]
    Rows = NDArray[np.int64]
    Pairs = Sequence[tuple[Rows, Rows]]

__all__ = ["PROTOCOLS", "Answer", "Protocol", "classify"]

Protocol = Literal["cells", "unseen batches"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What one space tells of one target under one protocol, in one fold."""

    target: str
    space: str
    protocol: Protocol
    fold: int
    is_control: bool
    """Whether forests are told the batch itself."""
    is_constant_in_batches: bool
    """Whether no batch holds two classes of the target: then batches count, not cells."""
    names_batch: bool
    """Whether, besides, no two batches are of one class: then the target is the batch."""
    result: ForestResult
    cells: Rows
    """(n_test,) the cells asked for."""
    batch_codes: Codes
    """(n_test,) their batches."""

    @property
    def note(self) -> str:
        """What a reader of the figures must know, or nothing."""
        absent = self.result.absent
        if not absent:
            return ""
        named = ", ".join(map(str, absent[:_MOST_NAMED]))
        more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
        return (
            f"{self.result.n_absent:,} of {self.result.n_test:,} test cells are of classes that train "
            f"lacked, and count as errors: {named}{more}"
        )


def classify(
    spaces: Mapping[str, ArrayLike],
    targets: Mapping[str, ArrayLike | Any],
    batches: ArrayLike | Any,
    *,
    train: ArrayLike,
    test: ArrayLike,
    prior_mean_spaces: Mapping[str, ArrayLike | None] | None = None,
    combine: Sequence[tuple[str, ...]] = (("fe", "re"),),
    pca: str = "pca",
    protocols: Sequence[Protocol] = PROTOCOLS,
    n_parts: int = 5,
    fold: int = 0,
    settings: ForestSettings | None = None,
    map_blocks: BlockMap = map_here,
    progress: Progress | None = None,
) -> list[Answer]:
    """Ask forests for every target from every space of one fold, and from the controls.

    Parameters
    ----------
    spaces
        Name to latent of all cells, (n, d).
    targets
        Name to one label for each cell, such as cell type or diagnosis.
    batches
        (n,) the experimental batch of each cell.
    train, test
        Cells of the fold's splits: (n,) booleans, or positions. They may not overlap.
    prior_mean_spaces
        Latents that take the place of those in `spaces` for unseen batches: encoded with the random
        effects at their prior mean, (n, d), for all cells. None for a name: it has no such latent and
        is left out there.
    combine
        Names of spaces that are also tried side by side; those not all in `spaces` are passed over.
    pca
        Name of the space that the one-hot batch is added to.
    protocols
        `cells`: forests of the train cells asked for the test cells, as published.
        `unseen batches`: batches are dealt to parts, and the test cells of each part are asked of a
        forest grown on the train cells of the other parts.
    n_parts
        Parts that batches are dealt to; as many as batches if these are fewer.
    fold
        Number that the answers carry.
    settings
        The published protocol if None.
    map_blocks
        Who grows the trees.
    progress
        Counts forests.

    Returns
    -------
    One answer for each target, protocol and space; none for unseen batches where no class of the
    target lies in two of them, since there is nothing to learn elsewhere.

    Raises
    ------
    ConfigError
        If nothing is asked, or a name is unknown or used twice.
    DataError
        If latents, targets, batches and splits do not fit each other, or values are missing.
    ScoreUndefinedError
        If a target has one class.

    Notes
    -----
    In `unseen batches` no forest has seen the batch that it is asked for. The latent has, unless its
    model was fitted without these batches: what is measured is whether labels carry over from batch
    to batch within this latent.
    """
    settings, progress = settings or ForestSettings(), progress or SilentProgress()
    check_at_least("n_parts", n_parts, 2)
    for protocol in protocols:
        check_choice("protocols", protocol, PROTOCOLS)
    if not spaces or not targets:
        raise ConfigError(
            f"classify needs a space and a target; got {len(spaces)} spaces and {len(targets)} "
            "targets. Name at least one of each."
        )
    latents = {
        name: check_latent(values, name=f"spaces[{name!r}]") for name, values in spaces.items()
    }
    unseen = latents_for_unseen(latents, prior_mean_spaces or {})
    n = len(next(iter(latents.values())))
    for name, latent in [*latents.items(), *unseen.items()]:
        if len(latent) != n:
            raise DataError(
                f"All spaces must hold the same cells; the first has {n:,} and {name!r} "
                f"{len(latent):,}. Take them from one atlas."
            )
    splits = _rows(train, n, name="train"), _rows(test, n, name="test")
    n_shared = np.intersect1d(*splits).size
    if n_shared:
        raise DataError(
            f"train and test may not overlap; they share {n_shared:,} cells. Take them from one fold."
        )
    batch_codes = encode_labels(batches, n, name="batches").codes
    labels = {
        name: encode_labels(values, n, name=f"targets[{name!r}]")
        for name, values in targets.items()
    }
    for name, own in labels.items():
        check_n_labels(own, name=f"targets[{name!r}]")
    to_ask = []
    for name, own in labels.items():
        for protocol in protocols:
            pairs: Pairs = [splits]
            if protocol == "unseen batches":
                pairs = split_by_batch(own.codes, batch_codes, *splits, n_parts)
            there = latents if protocol == "cells" else unseen
            for space in spaces_to_try(list(latents), combine, pca):
                if pairs and set(space.parts) <= set(there):
                    to_ask.append((name, protocol, space, there, pairs))
    answers = []
    n_forests = sum(len(pairs) for *_, pairs in to_ask)
    with progress.step("forests", total=n_forests, unit="forests") as advance:
        for name, protocol, space, there, pairs in to_ask:
            own = labels[name]
            is_constant = is_constant_in_batches(own.codes, batch_codes)
            result = _ask(space, there, own, batch_codes, pairs, settings, map_blocks)
            cells = np.concatenate([asked for _, asked in pairs])
            answers.append(
                Answer(
                    target=name,
                    space=space.name,
                    protocol=protocol,
                    fold=fold,
                    is_control=space.with_batch,
                    is_constant_in_batches=is_constant,
                    names_batch=is_constant and len(own.levels) == batch_codes.max() + 1,
                    result=result,
                    cells=cells,
                    batch_codes=batch_codes[cells],
                )
            )
            advance(len(pairs))
    return answers


def _ask(
    space: Space,
    latents: Latents,
    labels: Labels,
    batch_codes: Codes,
    pairs: Pairs,
    settings: ForestSettings,
    map_blocks: BlockMap,
) -> ForestResult:
    """Return what forests, one a pair of splits, say of their test cells."""
    started = time.perf_counter()
    said, parts, n_asked = [], [], 0
    for train, test in pairs:
        own, theirs = space.features(
            latents, batch_codes, train, test, standardise=settings.standardise
        )
        codes = labels.codes[train]
        said.append(
            forest_predictions(own, theirs, codes, settings=settings, map_blocks=map_blocks)
        )
        parts.append((codes, np.arange(n_asked, n_asked + len(test))))
        n_asked += len(test)
    truth = labels.codes[np.concatenate([test for _, test in pairs])]
    return tally(
        labels.levels,
        truth,
        np.concatenate([each.codes for each in said]),
        parts,
        method=settings.in_words(*map(len, (train for train, _ in pairs)), on_gpu=said[0].on_gpu),
        seed=settings.seed,
        started=started,
    )


def _rows(split: ArrayLike, n: int, *, name: str) -> Rows:
    """Return the positions of a split's cells, ascending."""
    found = np.asarray(split)
    if found.dtype == np.bool_ and found.shape == (n,):
        found = np.flatnonzero(found)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
        raise DataError(
            f"{name} must say yes or no to each of {n:,} cells, or hold positions, at least one; its "
            f"shape is {np.shape(split)}, its dtype {np.asarray(split).dtype}, with {found.size:,} "
            "cells chosen."
        )
    found = np.unique(found).astype(np.int64)
    if found[0] < 0 or found[-1] >= n:
        raise DataError(
            f"{name} must hold positions from 0 to {n - 1:,}; they go from {found[0]:,} to "
            f"{found[-1]:,}."
        )
    return found

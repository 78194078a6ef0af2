"""The what-if check of a run: its held-out cells, its models, and baselines from its train cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError, DataError, RunError
from medl_scale.interpret.as_if_means import AsIfMeans
from medl_scale.interpret.baselines import TrainSums
from medl_scale.interpret.check import checked_pairs_table, judged
from medl_scale.interpret.check_cells import CheckedCells, choose_pairs
from medl_scale.pipeline.atlas_of import atlas_of, check_fits
from medl_scale.pipeline.frozen import frozen_latents
from medl_scale.pipeline.preparing import as_progress
from medl_scale.store.atlas import describe, read_columns
from medl_scale.stream import blocks, open_source
from medl_scale.train.fitted import FittedNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.interpret.check import WhatIfCheck
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Atlas, AtlasRef, Columns

__all__ = ["CHECK_FILE", "check_what_if", "count_types", "switchable_models"]

CHECK_FILE = "what_if_check.csv"
LEAST_CELLS = 20
MOST_CELLS = 500
"""Cells of a type in a batch that count; rows of an atlas are shuffled, so the first are any."""
MOST_PAIRS = 2000
_BLOCK_ROWS = 2048


def check_what_if(
    run: Run,
    *,
    atlas: AtlasRef | None = None,
    model: str | None = None,
    fold: int | None = None,
    min_cells: int = LEAST_CELLS,
    seed: int = 0,
    progress: bool | Progress = False,
) -> WhatIfCheck:
    """Compare as-if projections of test cells with what the target batches' own test cells show.

    Parameters
    ----------
    run
        A run with a finished model that has random effects.
    atlas
        The run's atlas, if it was moved or is in memory.
    model
        `me` or `re`; all that are finished by default.
    fold
        Whose models and test cells; the run's first by default.
    min_cells
        Test cells that a type needs in a batch to take part, at least 2.
    seed
        Of the draw of pairs, where there are more than 2,000.
    progress
        Show progress, or where to report to; silent by default.

    Returns
    -------
    WhatIfCheck

    Raises
    ------
    ConfigError
        If the model has no random effects.
    DataError
        If the atlas has no labels, or too few cells to compare.
    RunError, AtlasError
        If the model is not finished, or the atlas is not there or another.

    Notes
    -----
    The train cells are read once, for the baselines, and the test cells once. Of a type in a batch up
    to 500 test cells count. Memory grows with types, batches and pairs, not with cells.
    """
    number = run.folds[0] if fold is None else fold
    models = switchable_models(run, model, number)
    ref = atlas_of(run, atlas)
    described = describe(ref)
    vocabulary = models[0].vocabulary
    check_fits(ref, described, vocabulary, described.path or "the AnnData")
    if min_cells < 2:
        raise ConfigError(f"min_cells must be at least 2; got {min_cells!r}.")
    if not described.label_levels:
        raise DataError(
            "The what-if check compares cells of one type, and the atlas has no labels. Prepare it with "
            "--labels-key."
        )
    columns, split = read_columns(ref), described.split(number)
    n_test = count_types(described, columns, (split.test,))
    n_labels, n_batches = n_test.shape
    pairs = choose_pairs(n_test, min_cells=min_cells, most_pairs=MOST_PAIRS, seed=seed)
    if not len(pairs):
        raise DataError(
            f"The what-if check needs a type with {min_cells} test cells in each of two batches; the most "
            f"of a type in its second batch are {int(np.sort(n_test, axis=1)[:, -2:].min(axis=1).max())}. "
            "Lower min_cells."
        )
    train = TrainSums(n_labels, n_batches, described.n_vars)
    as_if = {}
    for one in models:
        frozen = frozen_latents(run, ref, described, one, number)
        latents = frozen.of if frozen else None
        as_if[one.name] = AsIfMeans(one, pairs.source_groups(), pairs.targets, latents)
    cells = CheckedCells(pairs, as_if, described.n_vars, MOST_CELLS)
    n_read = sum(rows.stop - rows.start for rows in (*split.train, split.test))
    with (
        as_progress(progress).step("What-if check", n_read) as advance,
        open_source(ref) as source,
    ):
        with blocks(source, columns, split.train, vocabulary.transform, _BLOCK_ROWS) as made:
            for block in made:
                train.add(block.x, block.label_codes, block.batch_codes)
                advance(len(block.rows))
        with blocks(source, columns, (split.test,), vocabulary.transform, _BLOCK_ROWS) as made:
            for block in made:
                cells.add(block.x, block.batch_codes, block.label_codes, block.rows)
                advance(len(block.rows))
    table = checked_pairs_table(
        cells,
        train.fit(),
        label_levels=described.label_levels,
        batch_levels=described.batch_levels,
        fold=number,
    )
    if table.empty:
        raise DataError(
            "The what-if check found no two batches in which the test cells of a type differ. Are the "
            "batches copies of each other?"
        )
    return judged(table, n_possible=pairs.n_possible, min_cells=min_cells, split="test")


def count_types(atlas: Atlas, columns: Columns, slices: Sequence[slice]) -> NDArray[np.int64]:
    """Return (n_labels, n_batches) how many cells of each type and batch some rows hold."""
    counts = np.zeros((len(atlas.label_levels), len(atlas.batch_levels)), np.int64)
    for rows in slices:
        known = columns.label_codes[rows] >= 0
        codes = columns.label_codes[rows][known], columns.batch_codes[rows][known]
        np.add.at(counts, codes, 1)
    return counts


def switchable_models(run: Run, model: str | None, fold: int) -> list[FittedNetwork]:
    """Return the finished models whose batch can be switched, or the one asked for."""
    finished = [name for name, own in run.finished() if own == fold]
    if model is not None and model not in finished:
        listed = ", ".join(finished) or "none"
        raise RunError(
            f"The run {run.path} has no finished model '{model}' of fold {fold}; finished: {listed}. "
            "Choose one of 'me' and 're', or fit it."
        )
    loaded = [run.model(name, fold) for name in (finished if model is None else [model])]
    with_effects = [
        one for one in loaded if isinstance(one, FittedNetwork) and one.network.effect_widths
    ]
    if not with_effects:
        raise ConfigError(
            f"No model of fold {fold} of {run.path} can be checked: none has random effects; finished: "
            f"{', '.join(finished) or 'none'}. Fit 'me' or 're'."
        )
    return with_effects

"""Held-out cells of a run moved to other batches, against what those batches' own held-out cells show."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.errors import DataError
from medl_scale.interpret.as_if_means import AsIfMeans
from medl_scale.interpret.calibration import LEAST_GROUPS, Residuals
from medl_scale.interpret.check_cells import CheckedCells, choose_pairs
from medl_scale.interpret.drawn_sd import DrawnSd, drawn_sd
from medl_scale.pipeline.atlas_of import atlas_of, check_fits
from medl_scale.pipeline.checking import count_types, switchable_models
from medl_scale.pipeline.frozen import frozen_latents
from medl_scale.progress import SilentProgress
from medl_scale.store.atlas import describe, read_columns
from medl_scale.stream import blocks, open_source

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

    from medl_scale.interpret.check_cells import CheckedPairs
    from medl_scale.pipeline.frozen import FrozenLatents
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef
    from medl_scale.stream import Minibatch
    from medl_scale.train.fitted import FittedNetwork

    type Floats = NDArray[np.float32]

__all__ = ["HeldOutResiduals", "held_out_residuals"]

LEAST_CELLS = 10
"""Held-out cells of a type in either batch; the noise of their mean is taken out."""
LEAST_TRAIN_CELLS = 10
"""Of a type in a batch, for it to count as seen there."""
MOST_CELLS = 500
"""Cells of a type in a batch that count."""
MOST_PAIRS = 300
N_DRAWS = 24
DRAWN_CELLS = 3
"""Cells of a group by whose draws the posterior's s.d. is told; it hardly depends on the cell."""
_BLOCK_ROWS = 2048


class HeldOutResiduals(NamedTuple):
    """Residuals of both kinds of intervals on the same moves."""

    projection: Residuals
    difference: Residuals
    pairs: CheckedPairs
    """The moves."""
    predicted: NDArray[np.float64]
    """(n_pairs, n_vars) mean of the moved cells as if from the target, in the model's units."""
    own: NDArray[np.float64]
    """(n_pairs, n_vars) that of the same cells as if from their own batch."""

    @property
    def n_groups(self) -> int:
        """Types in target batches that were measured."""
        return len(np.unique(self.pairs.target_groups()))


def held_out_residuals(
    run: Run,
    *,
    model: str,
    fold: int,
    split: Literal["val", "test"] = "val",
    atlas: AtlasRef | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> HeldOutResiduals:
    """Return how far predicted means of moved cells are from those of a batch's own held-out cells.

    Parameters
    ----------
    split
        Cells that are moved, and that say what is right.
    run, model, fold, atlas, seed, progress
        As for `calibrating.calibration_of`, which raises the same errors.
    """
    (fitted,) = switchable_models(run, model, fold)
    ref = atlas_of(run, atlas)
    described = describe(ref)
    check_fits(ref, described, fitted.vocabulary, described.path or "the AnnData")
    columns, parts = read_columns(ref), described.split(fold)
    rows = parts.val if split == "val" else parts.test
    n_cells = count_types(described, columns, (rows,))
    n_cells[count_types(described, columns, parts.train) < LEAST_TRAIN_CELLS] = 0
    pairs = choose_pairs(n_cells, min_cells=LEAST_CELLS, most_pairs=MOST_PAIRS, seed=seed)
    n_groups = len(np.unique(pairs.target_groups()))
    if n_groups < LEAST_GROUPS:
        raise DataError(
            f"Intervals are calibrated by types with {LEAST_CELLS} held-out cells in each of two batches; "
            f"{LEAST_GROUPS} types in batches are needed, and there are {n_groups}. Prepare the atlas "
            "with --labels-key, or ask for the model's own intervals."
        )
    sources, first = np.unique(pairs.source_groups(), return_index=True)
    # Behind the moves, each source group under its own batch.
    groups = np.concatenate([pairs.source_groups(), sources])
    targets = np.concatenate([pairs.targets, pairs.sources[first]])
    frozen = frozen_latents(run, ref, described, fitted, fold)
    as_if = AsIfMeans(fitted, groups, targets, frozen.of if frozen else None)
    cells = CheckedCells(pairs, {model: as_if}, described.n_vars, MOST_CELLS)
    drawn: dict[int, list[tuple[Floats, int]]] = {group: [] for group in sources.tolist()}
    shown = progress or SilentProgress()
    with (
        shown.step("Calibrating intervals", rows.stop - rows.start) as advance,
        open_source(ref) as source,
        blocks(source, columns, (rows,), fitted.vocabulary.transform, _BLOCK_ROWS) as made,
    ):
        for block in made:
            cells.add(block.x, block.batch_codes, block.label_codes, block.rows)
            _keep_some(drawn, pairs, block)
            advance(len(block.rows))
    sd = _posterior_sd(fitted, pairs, drawn, frozen, seed)
    own_move = dict(zip(sources.tolist(), range(len(pairs), len(groups)), strict=True))
    mean, noise = cells.measured.mean, cells.measured.mean_variance
    source_of, target_of = pairs.source_groups(), pairs.target_groups()
    predicted = np.stack([as_if.mean(move) for move in range(len(pairs))])
    own_mean = np.stack([as_if.mean(own_move[group]) for group in source_of.tolist()])
    return HeldOutResiduals(
        Residuals(predicted - mean[target_of], sd.projection, noise[target_of]),
        Residuals(
            predicted - own_mean - (mean[target_of] - mean[source_of]),
            sd.difference,
            noise[target_of] + noise[source_of],
        ),
        pairs,
        predicted,
        own_mean,
    )


def _keep_some(
    drawn: dict[int, list[tuple[Floats, int]]], pairs: CheckedPairs, block: Minibatch
) -> None:
    """Add copies of a group's first cells, with their rows, to those kept."""
    known = block.label_codes >= 0
    groups = np.where(known, pairs.group_of[block.label_codes, block.batch_codes], -1)
    for cell in np.flatnonzero(groups >= 0).tolist():
        kept = drawn.get(int(groups[cell]))
        if kept is not None and len(kept) < DRAWN_CELLS:
            kept.append((block.x[cell].copy(), int(block.rows[cell])))


def _posterior_sd(
    model: FittedNetwork,
    pairs: CheckedPairs,
    drawn: dict[int, list[tuple[Floats, int]]],
    frozen: FrozenLatents | None,
    seed: int,
) -> DrawnSd:
    """Return the s.d. of each move by posterior draws, mean over some of its cells."""
    cells = [drawn[group] for group in pairs.source_groups().tolist()]
    n_cells = [len(some) for some in cells]
    x = np.stack([values for some in cells for values, _ in some])
    rows = np.array([row for some in cells for _, row in some])
    found = drawn_sd(
        model,
        x,
        np.repeat(pairs.sources, n_cells).astype(np.int32),
        np.repeat(pairs.targets, n_cells).astype(np.int32),
        frozen.of(rows) if frozen else None,
        n_draws=N_DRAWS,
        seed=seed,
    )
    starts = np.cumsum([0, *n_cells[:-1]])
    counts = np.array(n_cells)[:, None]
    return DrawnSd(*(np.add.reduceat(values, starts, axis=0) / counts for values in found))

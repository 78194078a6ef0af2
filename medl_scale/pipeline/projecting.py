"""Cells of a run decoded under other batches, streamed into memory or to disk as `projection_plan` lays them out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.interpret.draws import PosteriorDraws
from medl_scale.interpret.project import AsIf, reconstruct
from medl_scale.pipeline.cells import stream_cells
from medl_scale.pipeline.projection_plan import INTERVAL, plan_projection
from medl_scale.store.dense import check_dense_output, dense_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.config import ProjectConfig
    from medl_scale.pipeline.cells import Cells
    from medl_scale.pipeline.projection_plan import Projection
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef
    from medl_scale.stream import Minibatch

__all__ = ["project", "projection_shape", "write_projection"]

MOST_IN_MEMORY = 4 * 2**30
MOST_ON_DISK = 64 * 2**30
_BLOCK_BYTES = 2**26
_CHUNK_BYTES = 2**22


def project(
    run: Run,
    cells: Cells,
    as_batch: str | Sequence[str],
    config: ProjectConfig,
    *,
    atlas: AtlasRef | None,
    progress: Progress,
) -> AnnData:
    """Return cells of the run's atlas as if they came from other batches.

    Parameters
    ----------
    cells
        A pandas query on the atlas' `obs`, such as `"cell_type == 'T' and donor == 'a'"`; names of
        cells; positions; or one boolean per cell.
    as_batch
        Names of batches; `"all"`; or `"average"`, the population effect: random effects at zero.
    model
        `me`, or the published `re`.
    fold
        Whose model; the run's first fold by default. `obs["split"]` tells which cells it saw.
    units
        `"lognorm"`: log-normalised expression; `"model"`: as the network sees it.
    draws
        Draws from the posterior of the effects, at least 2, for an interval; 0 for none.
    level
        Probability that the credible interval holds the mean expression of such cells. It is narrower
        than measured counts scatter.
    intervals
        `"calibrated"`: as wide as validation cells show that intervals must be, for the mean of a
        type's cells where the batch has shown the type (see `pipeline.calibrating`, which keeps what it
        learns in the run); `"model"`: as the posterior says, too narrow; `"auto"`: calibrated where
        labels and cells suffice. `uns` tells which it was.
    switch
        Sides of `re` that read the target batch: `"both"`, as published, or `"decoder"`.
    with_reconstructions
        Add what was measured, and the reconstructions by the model and the run's FE and AE.
    seed
        Of the draws.
    atlas
        The run's atlas, if it was moved or lies in memory.
    max_bytes
        The largest result; 4 GiB by default. `pipeline.projecting.write_projection` writes larger
        ones to disk.

    Returns
    -------
    AnnData
        A cell's rows follow each other, told by `obs["kind"]`: `measured`; `reconstruction` (by
        `obs["model"]`); then `as_if`, one for each of `as_batch`, in their order. `obs` also has
        `cell`, `source_batch`, `target_batch`, `is_own_batch`, `label`, `split`, `atlas_row`. `X`
        is by the posterior means; with draws, `layers` has `mean`, `lower` and `upper`, NaN where
        nothing is drawn (rows that are not `as_if`, and `"average"`).

    Raises
    ------
    ConfigError
        If the model has no random effects, or the result is too large: it says how large.
    DataError
        If a batch or cell is unknown; those there are get listed.
    RunError, AtlasError
        If the model is not finished, or the atlas is not there or another.
    """
    plan = plan_projection(run, cells, as_batch, config, atlas)
    plan.check_size(MOST_IN_MEMORY, "in memory", "write it to disk with -o (output=)")
    frame = plan.frame()
    arrays = {name: np.empty(frame.shape, np.float32) for name in plan.arrays}
    _fill(plan, arrays, progress)
    frame.X = arrays.pop("X")
    for name, values in arrays.items():
        frame.layers[name] = values
    return frame


def write_projection(
    run: Run,
    output: str | os.PathLike[str],
    cells: Cells,
    as_batch: str | Sequence[str],
    config: ProjectConfig,
    *,
    atlas: AtlasRef | None = None,
    overwrite: bool = False,
    progress: Progress,
) -> tuple[int, int]:
    """Write what `Run.project` returns to `.zarr` or `.h5ad`, a block of cells at a time.

    Returns
    -------
    Number of cells and of batches.
    """
    path = Path(output)
    check_dense_output(path, overwrite=overwrite)
    plan = plan_projection(run, cells, as_batch, config, atlas)
    free = shutil.disk_usage(_existing_parent(path)).free
    plan.check_size(min(MOST_ON_DISK, free), "on disk", "allow more with --max-gib (max_bytes=)")
    chunk_rows = plan.cells_in(_CHUNK_BYTES) * len(plan.kinds)
    with dense_store(
        path, plan.frame(), plan.arrays[1:], chunk_rows=chunk_rows, overwrite=overwrite
    ) as arrays:
        _fill(plan, arrays, progress)
    return len(plan.rows), len(plan.targets)


def projection_shape(
    run: Run,
    cells: Cells,
    as_batch: str | Sequence[str],
    config: ProjectConfig,
    *,
    atlas: AtlasRef | None,
) -> tuple[int, int]:
    """Return how many cells `project` would return, and how many rows of each; nothing is decoded."""
    plan = plan_projection(run, cells, as_batch, config, atlas)
    return len(plan.rows), len(plan.kinds)


def _fill(plan: Projection, arrays: Mapping[str, Any], progress: Progress) -> None:
    """Write every row of the result."""
    config, n_kinds = plan.config, len(plan.kinds)
    as_if = AsIf(plan.model, plan.targets, switch=config.switch)
    draws = PosteriorDraws(plan.model.engine, plan.targets.codes, config.draws, config.seed)
    # A whole number of chunks, so that none is written twice.
    step = plan.cells_in(_CHUNK_BYTES)
    n_cells = min(len(plan.rows), max(1, plan.cells_in(_BLOCK_BYTES) // step) * step)
    buffer = np.empty((n_cells, n_kinds, plan.atlas.n_vars), np.float32)
    done = 0
    with (
        progress.step("Projecting", len(plan.rows)) as advance,
        stream_cells(plan.ref, plan.rows, plan.model.vocabulary.transform, n_cells) as made,
    ):
        for block in made:
            m = len(block.x)
            place = slice(done * n_kinds, (done + m) * n_kinds)
            rows = buffer[:m]
            _project(plan, block, as_if, rows)
            arrays["X"][place] = rows.reshape(m * n_kinds, -1)
            for name, values in _intervals(plan, block, as_if, draws):
                rows[:, : -len(plan.targets)] = np.nan
                rows[:, -len(plan.targets) :] = values
                arrays[name][place] = rows.reshape(m * n_kinds, -1)
            done += m
            advance(m)


def _project(plan: Projection, block: Minibatch, as_if: AsIf, out: NDArray[np.float32]) -> None:
    """Write the rows of a block of cells, (m, n_kinds, n_vars)."""
    x, own, latents = block.x, block.batch_codes, _latents(plan, block)
    if plan.config.with_reconstructions:
        out[:, 0] = x * plan.unit
        for i, model in enumerate((plan.model, *plan.beside), start=1):
            out[:, i] = reconstruct(model, x, own, latents) * plan.unit
    n_targets = len(plan.targets)
    as_if.project(x, own, latents=latents, factor=float(plan.unit), out=out[:, -n_targets:])


def _latents(plan: Projection, block: Minibatch) -> NDArray[np.float32] | None:
    """Return what stands in for the encoder of the model; None if it has one."""
    return None if plan.frozen is None else plan.frozen.of(block.rows)


def _intervals(
    plan: Projection, block: Minibatch, as_if: AsIf, draws: PosteriorDraws
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield mean and interval of the projections of a block by name; none without draws."""
    if plan.config.draws:
        found = as_if.draw(
            block.x,
            block.batch_codes,
            draws,
            level=plan.config.level,
            latents=_latents(plan, block),
            factor=float(plan.unit),
        )
        widened = found.widened(plan.intervals.factor(plan.config.level))
        yield from zip(INTERVAL, widened, strict=True)


def _existing_parent(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(folder for folder in path.resolve().parents if folder.exists())

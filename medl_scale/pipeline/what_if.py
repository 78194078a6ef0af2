"""What the what-if viewer of a run shows: some test cells under many batches, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.config import MODELS_WITH_EFFECTS, ProjectConfig
from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret.draws import PosteriorDraws
from medl_scale.interpret.project import AsIf
from medl_scale.interpret.targets import AVERAGE, NO_EFFECTS, Targets
from medl_scale.pipeline.atlas_of import atlas_of, check_fits
from medl_scale.pipeline.calibrating import intervals_of
from medl_scale.pipeline.cells import stream_cells
from medl_scale.pipeline.frozen import frozen_latents
from medl_scale.pipeline.genomaps import run_layout
from medl_scale.pipeline.preparing import as_progress
from medl_scale.pipeline.what_if_choice import (
    choose_batches,
    choose_test_cells,
    extent_for,
    notes_on,
)
from medl_scale.report.viewer_data import ViewerCell, ViewerData
from medl_scale.store.atlas import describe, obs_names, read_columns
from medl_scale.train.fitted import FittedNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.pipeline.frozen import FrozenLatents
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Atlas, AtlasRef
    from medl_scale.stream import Minibatch

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int32]

__all__ = ["gather_viewer"]

N_DRAWS = 100
LEVEL = 0.95
UNITS = "log-normalised expression"
_BLOCK_BYTES = 2**25


def gather_viewer(
    run: Run,
    *,
    atlas: AtlasRef | None = None,
    model: str | None = None,
    fold: int | None = None,
    cells_per_label: int = 4,
    max_bytes: int = 8_000_000,
    seed: int = 0,
    progress: bool | Progress = False,
) -> ViewerData:
    """Choose test cells of a run, project them to batches, and return what the viewer shows.

    Where four cells of every type under all batches do not fit into `max_bytes`, fewer are shown;
    the notes of the result say by what rule (`what_if_choice.extent_for`).

    Parameters
    ----------
    run
        A run with a finished `me` or `re`.
    atlas
        The run's atlas, if it was moved or lies in memory.
    model
        The model that projects; `me` if the run has it, else `re`.
    fold
        Whose model; the run's first fold by default.
    cells_per_label
        Cells of each type, at most.
    max_bytes
        About the most that the packed numbers may take in a page.
    seed
        Of the draw of cells, and of the posterior draws.
    progress
        Whether, or where, to report.

    Raises
    ------
    ConfigError
        If the run has no finished model with random effects, or nothing fits into `max_bytes`.
    DataError
        If the fold has no test cells.
    RunError, AtlasError, StoreError
        If the run or its atlas cannot be read.
    """
    if cells_per_label < 1:
        raise ConfigError(f"cells_per_label must be at least 1; got {cells_per_label}.")
    fold = run.folds[0] if fold is None else fold
    fitted = _model_of(run, model, fold)
    vocabulary = fitted.vocabulary
    levels, genes = vocabulary.batch_levels, vocabulary.var_names
    ref = atlas_of(run, atlas)
    described = describe(ref)
    check_fits(ref, described, vocabulary, described.path or "the AnnData")
    shown = as_progress(progress)

    columns = read_columns(ref)
    test = described.split(fold).test
    label_codes, batch_codes = columns.label_codes[test], columns.batch_codes[test]
    labels = _labels_by_size(label_codes)
    extent = extent_for(len(labels), cells_per_label, len(levels), len(genes), max_bytes)
    # In the order of the atlas, cells without a label last.
    kept = sorted(labels[: extent.n_labels], key=lambda label: (label < 0, label))
    drawn = choose_test_cells(label_codes, batch_codes, kept, extent.cells_per_label, seed)
    batches = choose_batches(fitted.summary, extent.n_batches)
    # A batch that is called so is itself, and there is no population beside it.
    has_average = AVERAGE not in levels
    codes = np.append(batches, [NO_EFFECTS] * has_average).astype(np.int32)

    settings = ProjectConfig(model=fitted.name, fold=fold, draws=N_DRAWS, level=LEVEL, seed=seed)
    intervals = intervals_of(run, fitted, fold, settings, ref)
    projection = _Projection(
        fitted,
        codes,
        batch_codes[drawn],
        frozen_latents(run, ref, described, fitted, fold),
        intervals.factor(LEVEL, "difference"),
        seed,
    )
    projected = projection.of(ref, drawn + test.start, shown)
    if extent.n_intervals < len(genes):
        _forget_small_moves(projected, extent.n_intervals)
    layout = run_layout(run, fold=fold, atlas=ref, progress=shown)
    names = obs_names(ref)[test][drawn]
    return ViewerData(
        run=run.path.name,
        model=fitted.name,
        units=UNITS,
        level=LEVEL,
        intervals=(
            "Intervals are of the difference from the own batch, each gene by itself, from "
            f"{N_DRAWS} draws of the random effects in which own batch and target are decoded by the "
            f"same draw; {intervals.words(LEVEL, 'difference')}."
        ),
        gene_names=genes,
        pixels=layout.pixels,
        shape=layout.shape,
        cells=tuple(
            ViewerCell(str(name), _label_name(described, label), levels[batch])
            for name, label, batch in zip(
                names, label_codes[drawn], batch_codes[drawn], strict=True
            )
        ),
        targets=tuple(levels[code] if code >= 0 else AVERAGE for code in codes),
        has_average=has_average,
        notes=notes_on(extent, len(labels), len(levels), len(genes)),
        **projected._asdict(),
    )


class _Projected(NamedTuple):
    """What the viewer shows of the cells, log-normalised."""

    measured: Floats
    own: Floats
    as_if: Floats
    lower: Floats
    upper: Floats


def _model_of(run: Run, model: str | None, fold: int) -> FittedNetwork:
    """Return the model that projects."""
    finished = [name for name, own in run.finished() if own == fold]
    able = [name for name in MODELS_WITH_EFFECTS if name in finished]
    if not able or (model is not None and model not in able):
        wanted = "'me' or 're'" if model is None else repr(model)
        raise ConfigError(
            f"A what-if viewer needs a finished model with random effects, {wanted}; fold {fold} of "
            f"{run.path} has {', '.join(finished) or 'none'}. Fit one with --models me."
        )
    fitted = run.model(able[0] if model is None else model, fold)
    if not isinstance(fitted, FittedNetwork):
        raise ConfigError(
            f"Model '{fitted.name}' of {run.path} has no random effects. Choose 'me'."
        )
    return fitted


def _labels_by_size(label_codes: Codes) -> list[int]:
    """Return the labels of the test cells, those with most cells first."""
    if not len(label_codes):
        raise DataError(
            "The fold has no test cells to choose from. Choose another fold, or prepare the atlas with "
            "fewer folds."
        )
    codes, counts = np.unique(label_codes, return_counts=True)
    return [int(code) for code in codes[np.argsort(-counts, kind="stable")]]


def _label_name(atlas: Atlas, code: int) -> str:
    """Return the name of a label."""
    if code >= 0:
        return atlas.label_levels[code]
    return "all cells" if atlas.labels_key is None else atlas.unlabeled_category


class _Projection:
    """Cells of some batches under the batches `codes`, by one model."""

    def __init__(
        self,
        fitted: FittedNetwork,
        codes: Codes,
        own: Codes,
        frozen: FrozenLatents | None,
        widening: float,
        seed: int,
    ) -> None:
        self.transform = fitted.vocabulary.transform
        self.n_shown, self.n_genes = len(codes), len(fitted.vocabulary.var_names)
        # Own batches that are no targets are decoded too: differences are from them.
        self.codes = np.append(codes, np.setdiff1d(own, codes)).astype(np.int32)
        self.as_if = AsIf(fitted, Targets(tuple(map(str, self.codes)), self.codes))
        self.draws = PosteriorDraws(fitted.engine, self.codes, N_DRAWS, seed)
        self.frozen = frozen
        self.widening = widening

    def of(self, ref: AtlasRef, rows: NDArray[np.int64], progress: Progress) -> _Projected:
        """Return cells as measured, under their own batch, and under others."""
        flat, deep = (len(rows), self.n_genes), (len(rows), self.n_shown, self.n_genes)
        found = _Projected(
            *(np.empty(shape, np.float32) for shape in (flat, flat, deep, deep, deep))
        )
        block_cells = max(1, _BLOCK_BYTES // (len(self.codes) * self.n_genes * 4))
        done = 0
        with (
            progress.step("What-if viewer", len(rows)) as advance,
            stream_cells(ref, rows, self.transform, block_cells) as blocks,
        ):
            for block in blocks:
                cells = slice(done, done + len(block.x))
                for whole, part in zip(found, self._block(block), strict=True):
                    whole[cells] = part
                done = cells.stop
                advance(len(block.x))
        return found

    def _block(self, block: Minibatch) -> _Projected:
        """Return the same for some cells."""
        x, own, factor = block.x, block.batch_codes, 1.0 / self.transform.scale
        latents = None if self.frozen is None else self.frozen.of(block.rows)
        projected = self.as_if.project(x, own, latents=latents, factor=factor)
        interval = self.as_if.draw_differences(
            x, own, self.draws, level=LEVEL, latents=latents, factor=factor
        ).widened(self.widening)
        order = np.argsort(self.codes)
        own_places = order[np.searchsorted(self.codes, own, sorter=order)]
        return _Projected(
            measured=x * np.float32(factor),
            own=projected[np.arange(len(x)), own_places],
            as_if=projected[:, : self.n_shown],
            lower=interval.lower[:, : self.n_shown],
            upper=interval.upper[:, : self.n_shown],
        )


def _forget_small_moves(projected: _Projected, n: int) -> None:
    """Keep, of each cell and target, the intervals of the n genes that move most."""
    moves = np.abs(projected.as_if - projected.own[:, None])
    small = np.argpartition(moves, -n, axis=-1)[..., :-n]
    for ends in (projected.lower, projected.upper):
        np.put_along_axis(ends, small, np.nan, axis=-1)

"""What is to be projected, checked before anything is decoded, and how the result is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medl_scale.errors import ConfigError, RunError
from medl_scale.interpret.calibration import OwnIntervals
from medl_scale.interpret.targets import Targets, find_targets
from medl_scale.pipeline.atlas_of import atlas_of, check_fits
from medl_scale.pipeline.calibrating import intervals_of
from medl_scale.pipeline.cells import choose_cells
from medl_scale.pipeline.frozen import frozen_latents
from medl_scale.pipeline.projection_rows import kinds_of, row_table
from medl_scale.store.annotations import Annotations
from medl_scale.store.atlas import describe
from medl_scale.train.fitted import FittedNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.config import ProjectConfig
    from medl_scale.interpret.calibration import Calibration
    from medl_scale.pipeline.cells import Cells
    from medl_scale.pipeline.frozen import FrozenLatents
    from medl_scale.pipeline.projection_rows import Kind
    from medl_scale.pipeline.run import Run
    from medl_scale.store.atlas import Atlas, AtlasRef

__all__ = ["INTERVAL", "Projection", "model_with_effects", "plan_projection"]

INTERVAL = ("mean", "lower", "upper")
"""Layers of what posterior draws say."""
_BESIDE = ("fe", "fec", "ae", "aec")
"""Models without a batch of their own, whose reconstructions stand beside the projections."""


@dataclass(frozen=True, eq=False)
class Projection:
    """What is projected, and the layout of the result: the rows of a cell follow each other."""

    run: Run
    fold: int
    config: ProjectConfig
    ref: AtlasRef
    atlas: Atlas
    model: FittedNetwork
    beside: tuple[FittedNetwork, ...]
    targets: Targets
    rows: NDArray[np.int64]
    """Of the atlas."""
    names: NDArray[np.object_]
    """Of these cells."""
    frozen: FrozenLatents | None
    """What the model decodes, if it has no encoder."""
    intervals: Calibration | OwnIntervals
    """How wide intervals are."""

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The rows of every cell, in order."""
        beside = [model.name for model in self.beside] if self.config.with_reconstructions else None
        return kinds_of(self.model.name, self.targets.codes, beside)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Matrices of the result, X first."""
        return ("X", *(INTERVAL if self.config.draws else ()))

    @property
    def unit(self) -> np.float32:
        """Factor from the model's units to those asked for."""
        scale = self.model.vocabulary.transform.scale if self.config.units == "lognorm" else 1.0
        return np.float32(1.0 / scale)

    def cells_in(self, n_bytes: int) -> int:
        """Return how many cells' rows fit into so many bytes, at least one."""
        return max(1, n_bytes // (len(self.kinds) * self.atlas.n_vars * 4))

    def check_size(self, most: int, where: str, remedy: str) -> None:
        """Raise if the result would be larger than is allowed."""
        most = self.config.max_bytes or most
        n_rows = len(self.rows) * len(self.kinds)
        size = n_rows * self.atlas.n_vars * 4 * len(self.arrays)
        if size > most:
            raise ConfigError(
                f"{len(self.rows):,} cells under {len(self.targets):,} batches are {n_rows:,} rows of "
                f"{self.atlas.n_vars:,} genes: {_gib(size)}, and {_gib(most)} are allowed {where}. "
                f"Choose fewer cells or batches, or {remedy}. For whole atlases make a sketch: means "
                "and variances per cell type and pair of batches."
            )

    def frame(self) -> AnnData:
        """Return the result without its matrices."""
        from anndata import AnnData

        config = self.config
        var = pd.DataFrame(
            {
                "train_mean": self.model.summary.mean * self.unit,
                "train_sd": self.model.summary.sd * self.unit,
            },
            index=pd.Index(self.model.vocabulary.var_names, dtype=object),
        )
        about = {
            "run": str(self.run.path),
            "model": self.model.name,
            "fold": self.fold,
            "units": config.units,
            "switch": config.switch if self.model.network.encoder_effects else "decoder",
            "draws": config.draws,
            "level": config.level,
            "intervals": self.intervals.words(config.level) if config.draws else "none",
            "seed": config.seed,
            "as_batch": np.asarray(self.targets.names, dtype=str),
        }
        obs = row_table(self.ref, self.atlas, self.fold, self.rows, self.names, self.kinds)
        return AnnData(obs=obs, var=var, uns={"medl_scale_projection": about})


def plan_projection(
    run: Run,
    cells: Cells,
    as_batch: str | Sequence[str],
    config: ProjectConfig,
    atlas: AtlasRef | None,
) -> Projection:
    """Return what is to be projected, checked before anything is read or written."""
    fold = run.folds[0] if config.fold is None else config.fold
    model = model_with_effects(run, config.model, fold)
    finished = {name for name, own in run.finished() if own == fold}
    others = [run.model(name, fold) for name in _BESIDE if name in finished]
    ref = atlas_of(run, atlas)
    described = describe(ref)
    place = described.path or "the AnnData"
    check_fits(ref, described, model.vocabulary, place)
    targets = find_targets(as_batch, described.batch_levels, place)
    obs = Annotations(ref).obs
    rows = choose_cells(cells, obs, place)
    names = obs.index[rows].astype(str).to_numpy(dtype=object)
    return Projection(
        run,
        fold,
        config,
        ref,
        described,
        model,
        tuple(other for other in others if isinstance(other, FittedNetwork)),
        targets,
        rows,
        names,
        frozen_latents(run, ref, described, model, fold),
        intervals_of(run, model, fold, config, ref) if config.draws else OwnIntervals(),
    )


def model_with_effects(run: Run, model: str, fold: int) -> FittedNetwork:
    """Return a trained model whose batch can be switched.

    Raises
    ------
    RunError
        If the run has not finished such a model of the fold.
    ConfigError
        If it has no random effects.
    """
    finished = [name for name, own in run.finished() if own == fold]
    if model not in finished:
        listed = ", ".join(finished) or "none"
        raise RunError(
            f"The run {run.path} has no finished model '{model}' of fold {fold}; finished: {listed}. "
            "Choose one of 'me' and 're' with --model, or fit it."
        )
    fitted = run.model(model, fold)
    if not isinstance(fitted, FittedNetwork) or not fitted.network.effect_widths:
        raise ConfigError(
            f"Model '{model}' has no random effects: no batch can be switched. Models that have: 'me', "
            "'re'."
        )
    return fitted


def _gib(n_bytes: int) -> str:
    """Return a size in GiB, as people read it."""
    return f"{n_bytes / 2**30:,.3g} GiB"

"""As-if projections of a run: which cells, under which batches, streamed into memory or to disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medl_scale.errors import ConfigError, RunError
from medl_scale.interpret.draws import PosteriorDraws
from medl_scale.interpret.project import AsIf, reconstruct
from medl_scale.interpret.targets import Targets, find_targets
from medl_scale.pipeline.atlas_of import atlas_of, check_fits
from medl_scale.pipeline.cells import choose_cells, stream_cells
from medl_scale.pipeline.projection_rows import kinds_of, row_table
from medl_scale.store.annotations import Annotations
from medl_scale.store.atlas import describe
from medl_scale.store.dense import check_dense_output, dense_store
from medl_scale.train.fitted import FittedNetwork

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.config import ProjectConfig
    from medl_scale.pipeline.cells import Cells
    from medl_scale.pipeline.projection_rows import Kind
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Atlas, AtlasRef
    from medl_scale.stream import Minibatch

__all__ = ["project", "write_projection"]

MOST_IN_MEMORY = 4 * 2**30
MOST_ON_DISK = 64 * 2**30
_BLOCK_BYTES = 2**26
_CHUNK_BYTES = 2**22
_BESIDE = ("fe", "fec", "ae", "aec")
"""Models without a batch of their own, whose reconstructions stand beside the projections."""
_INTERVAL = ("mean", "lower", "upper")


def project(
    run: Run,
    cells: Cells,
    as_batch: str | Sequence[str],
    config: ProjectConfig,
    *,
    atlas: AtlasRef | None,
    progress: Progress,
) -> AnnData:
    """Return chosen cells under chosen batches, in memory; see `Run.project`."""
    plan = _plan(run, cells, as_batch, config, atlas)
    plan.check_size(MOST_IN_MEMORY, "in memory", "write it to disk with -o (output=)")
    frame = plan.frame()
    arrays = {name: np.empty(frame.shape, np.float32) for name in plan.arrays}
    plan.fill(arrays, progress)
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
    plan = _plan(run, cells, as_batch, config, atlas)
    free = shutil.disk_usage(_existing_parent(path)).free
    plan.check_size(min(MOST_ON_DISK, free), "on disk", "allow more with --max-gib (max_bytes=)")
    chunk_rows = plan.cells_in(_CHUNK_BYTES) * len(plan.kinds)
    with dense_store(
        path, plan.frame(), plan.arrays[1:], chunk_rows=chunk_rows, overwrite=overwrite
    ) as arrays:
        plan.fill(arrays, progress)
    return len(plan.rows), len(plan.targets)


@dataclass(frozen=True, eq=False)
class _Plan:
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

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The rows of every cell, in order."""
        beside = [model.name for model in self.beside] if self.config.with_reconstructions else None
        return kinds_of(self.model.name, self.targets.codes, beside)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Matrices of the result, X first."""
        return ("X", *(_INTERVAL if self.config.draws else ()))

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
            "seed": config.seed,
            "as_batch": np.asarray(self.targets.names, dtype=str),
        }
        obs = row_table(self.ref, self.atlas, self.fold, self.rows, self.names, self.kinds)
        return AnnData(obs=obs, var=var, uns={"medl_scale_projection": about})

    def fill(self, arrays: Mapping[str, Any], progress: Progress) -> None:
        """Write every row of the result."""
        config, n_kinds = self.config, len(self.kinds)
        as_if = AsIf(self.model, self.targets, switch=config.switch)
        draws = PosteriorDraws(self.model.engine, self.targets.codes, config.draws, config.seed)
        # A whole number of chunks, so that none is written twice.
        step = self.cells_in(_CHUNK_BYTES)
        n_cells = min(len(self.rows), max(1, self.cells_in(_BLOCK_BYTES) // step) * step)
        buffer = np.empty((n_cells, n_kinds, self.atlas.n_vars), np.float32)
        done = 0
        with (
            progress.step("Projecting", len(self.rows)) as advance,
            stream_cells(self.ref, self.rows, self.model.vocabulary.transform, n_cells) as made,
        ):
            for block in made:
                m = len(block.x)
                place = slice(done * n_kinds, (done + m) * n_kinds)
                rows = buffer[:m]
                self._project(block, as_if, rows)
                arrays["X"][place] = rows.reshape(m * n_kinds, -1)
                for name, values in self._intervals(block, as_if, draws):
                    rows[:, : -len(self.targets)] = np.nan
                    rows[:, -len(self.targets) :] = values
                    arrays[name][place] = rows.reshape(m * n_kinds, -1)
                done += m
                advance(m)

    def _project(self, block: Minibatch, as_if: AsIf, out: NDArray[np.float32]) -> None:
        """Write the rows of a block of cells, (m, n_kinds, n_vars)."""
        x, own = block.x, block.batch_codes
        if self.config.with_reconstructions:
            out[:, 0] = x * self.unit
            for i, model in enumerate((self.model, *self.beside), start=1):
                out[:, i] = reconstruct(model, x, own) * self.unit
        n_targets = len(self.targets)
        as_if.project(x, own, factor=float(self.unit), out=out[:, -n_targets:])

    def _intervals(
        self, block: Minibatch, as_if: AsIf, draws: PosteriorDraws
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield mean and interval of the projections of a block by name; none without draws."""
        if self.config.draws:
            found = as_if.draw(
                block.x,
                block.batch_codes,
                draws,
                level=self.config.level,
                factor=float(self.unit),
            )
            yield from zip(_INTERVAL, found, strict=True)


def _plan(
    run: Run,
    cells: Cells,
    as_batch: str | Sequence[str],
    config: ProjectConfig,
    atlas: AtlasRef | None,
) -> _Plan:
    """Return what is to be projected, checked before anything is read or written."""
    fold = run.folds[0] if config.fold is None else config.fold
    model, beside = _models(run, config, fold)
    ref = atlas_of(run, atlas)
    described = describe(ref)
    place = described.path or "the AnnData"
    check_fits(ref, described, model.vocabulary, place)
    targets = find_targets(as_batch, described.batch_levels, place)
    obs = Annotations(ref).obs
    rows = choose_cells(cells, obs, place)
    names = obs.index[rows].astype(str).to_numpy(dtype=object)
    return _Plan(run, fold, config, ref, described, model, beside, targets, rows, names)


def _models(
    run: Run, config: ProjectConfig, fold: int
) -> tuple[FittedNetwork, tuple[FittedNetwork, ...]]:
    """Return the model that projects, and those whose reconstructions stand beside it."""
    finished = [model for model, own in run.finished() if own == fold]
    if config.model not in finished:
        listed = ", ".join(finished) or "none"
        raise RunError(
            f"The run {run.path} has no finished model '{config.model}' of fold {fold}; finished: "
            f"{listed}. Choose one of 'me' and 're' with --model, or fit it."
        )
    model = run.model(config.model, fold)
    if not isinstance(model, FittedNetwork) or not model.network.effect_widths:
        raise ConfigError(
            f"Model '{config.model}' has no random effects: no batch can be switched. Models that "
            "have: 'me', 're'."
        )
    if not model.latent_sizes():
        raise RunError(
            f"Model '{config.model}' of {run.path} decodes an embedding from elsewhere (fe_rep) and "
            "cannot encode cells. Project with --model re, or fit 'me' without fe_rep."
        )
    others = [run.model(name, fold) for name in _BESIDE if name in finished]
    return model, tuple(other for other in others if isinstance(other, FittedNetwork))


def _existing_parent(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(folder for folder in path.resolve().parents if folder.exists())


def _gib(n_bytes: int) -> str:
    """Return a size in GiB, as people read it."""
    return f"{n_bytes / 2**30:,.3g} GiB"

"""What a fit leaves on disk, read back: settings, history, latents, models.

A run's folder can be moved, and serves new cells without the atlas.
"""

from __future__ import annotations

import json
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medl_scale.config import RunConfig
from medl_scale.errors import ConfigError, LatentsIncompleteError, RunError
from medl_scale.pipeline.preparing import as_progress
from medl_scale.settings import build, read_toml
from medl_scale.store.latents import read_latent_array
from medl_scale.train.fit_files import FitSummary, latent_path, read_summary
from medl_scale.train.fit_settings import limit_threads
from medl_scale.train.fitted import MODEL_FILE, FittedNetwork, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.config import ProjectedUnits, SwitchedSides
    from medl_scale.pipeline.cells import Cells
    from medl_scale.pipeline.scores import Scores
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef
    from medl_scale.train.fitted import FittedModel

__all__ = ["ENVIRONMENT_FILE", "ERROR_FILE", "HISTORY_FILE", "SETTINGS_FILE", "Run", "fit_folder"]

SETTINGS_FILE = "config.toml"
ENVIRONMENT_FILE = "environment.json"
HISTORY_FILE = "history.csv"
ERROR_FILE = "error.txt"


def fit_folder(run: Path, model: str, fold: int) -> Path:
    """Return the folder of one fit in a run."""
    return run / "models" / model / f"fold_{fold}"


class Run:
    """A folder that `fit` wrote.

    Parameters
    ----------
    path
        The run's folder.

    Raises
    ------
    RunError
        If the folder holds no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / SETTINGS_FILE).exists():
            raise RunError(
                f"{self.path} is not a run: it has no {SETTINGS_FILE}. Give the folder that "
                "fit wrote (its --output)."
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Run:
        """Return the run in a folder."""
        return cls(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {', '.join(self.models)}; folds {self.folds})"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings of the run, as in its `config.toml`.

        Raises
        ------
        ConfigError
            If the file is damaged.
        RunError
            If it is that of something else.
        """
        found = read_toml(self.path / SETTINGS_FILE)
        fit = found.get("fit")
        if not isinstance(fit, dict) or not {"models", "folds"} <= fit.keys():
            raise RunError(
                f"{self.path} is not a run: its {SETTINGS_FILE} has no section [fit] with models and "
                "folds. Give the folder that fit wrote (its --output)."
            )
        return found

    @property
    def config(self) -> RunConfig:
        """Settings of the run, checked."""
        return build(RunConfig, self.settings["fit"], place="fit")

    @property
    def models(self) -> tuple[str, ...]:
        """Models that were asked for."""
        return tuple(self.settings["fit"]["models"])

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that were asked for."""
        return tuple(self.settings["fit"]["folds"])

    @property
    def atlas_path(self) -> str | None:
        """Where the atlas lay when the run was made; None for an AnnData in memory."""
        atlas: str | None = self.environment.get("atlas")
        return atlas

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and atlas of the run, as in its `environment.json`."""
        try:
            found: dict[str, Any] = json.loads((self.path / ENVIRONMENT_FILE).read_text())
        except FileNotFoundError:
            return {}
        return found

    @property
    def history(self) -> pd.DataFrame:
        """One row per model, fold and epoch: every loss term, cells/s, loader wait, peak memory."""
        tables = [
            pd.read_csv(path)
            for model in self.models
            for fold in self.folds
            if (path := fit_folder(self.path, model, fold) / HISTORY_FILE).exists()
        ]
        filled = [table for table in tables if not table.empty]
        return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()

    @property
    def scores(self) -> Scores:
        """What `evaluate` found, as it was written last.

        Raises
        ------
        RunError
            If the run has not been scored.
        """
        from medl_scale.pipeline.scores import SCORES_FILE, read_scores

        return read_scores(self.path / SCORES_FILE)

    def finished(self) -> dict[tuple[str, int], FitSummary]:
        """Return how each finished fit ended, by model and fold."""
        found = {}
        for model in self.models:
            for fold in self.folds:
                folder = fit_folder(self.path, model, fold)
                if (folder / "done.json").exists():
                    found[model, fold] = read_summary(folder)
        return found

    def latent(self, model: str, fold: int = 0) -> NDArray[np.float32]:
        """Return the latent of every cell, (n_obs, n_latent) float32, in the atlas' order.

        Parameters
        ----------
        model
            A model of the run; `pca_batch_centred` for PCA with batch means subtracted.
        fold
            One of the run's folds.

        Raises
        ------
        LatentsIncompleteError
            If the run has no such latent.
        """
        path = latent_path(self.path / "latents.zarr", model, fold)
        if not path.exists():
            found = sorted(
                f"{item.parent.name} {item.name.replace('_', ' ')}"
                for item in (self.path / "latents.zarr").glob("*/fold_*")
            )
            listed = ", ".join(found) or "none"
            raise LatentsIncompleteError(
                f"The run {self.path} has no latent of model '{model}' fold {fold}; found: {listed}. "
                "Finish it with --resume, or choose one of these."
            )
        return read_latent_array(path)

    def model(self, model: str, fold: int = 0) -> FittedModel:
        """Return a trained model.

        Raises
        ------
        RunError
            If the run has no such finished model.
        """
        folder = fit_folder(self.path.resolve(), model, fold)
        file = folder / MODEL_FILE
        # A run at the same place may have been replaced.
        return _load(folder, file.stat().st_mtime_ns if file.exists() else 0)

    def posterior(self, model: str, batch: str, layer: str | None = None, *, fold: int = 0) -> Any:
        """Return the posterior of one batch's random effects.

        Parameters
        ----------
        model
            `me` or `re`.
        batch
            Name of a batch.
        layer
            `encoder0`, `decoder0`, ...; by default the output layer, whose effects are per gene.

        Returns
        -------
        `tfp.distributions.Independent` with event shape (2, width): scales, then shifts.

        Raises
        ------
        ConfigError
            If the model has no random effects, or no such layer or batch.
        """
        from medl_scale.models.posteriors import posterior

        fitted = self.model(model, fold)
        effects = fitted.effects() if isinstance(fitted, FittedNetwork) else {}
        levels = fitted.vocabulary.batch_levels
        if not effects:
            raise ConfigError(
                f"Model '{model}' has no random effects. Models that have: 'me', 're'."
            )
        chosen = layer or max(name for name in effects if name.startswith("decoder"))
        if chosen not in effects:
            raise ConfigError(f"'{chosen}' is not a layer with effects. Layers: {sorted(effects)}.")
        if batch not in levels:
            raise ConfigError(f"'{batch}' is not a batch of the run. Batches: {', '.join(levels)}.")
        return posterior(effects[chosen], levels.index(batch))

    def effects(
        self,
        model: str = "me",
        *,
        fold: int | None = None,
        batches: Sequence[str] | None = None,
        genes: Sequence[str] | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Return the output layer's random effects, one row per gene and batch.

        Parameters
        ----------
        model
            `me` or `re`.
        fold
            Whose model; the run's first fold by default.
        batches, genes
            Names to list; all by default.
        level
            Probability of the credible intervals, in (0, 1).

        Returns
        -------
        DataFrame
            `model`, `fold`, `gene`, `batch`, `n_cells`, and mean, `_sd`, `_lower`, `_upper` of `scale`,
            `shift` and `move`; see `interpret.effect_tables.effect_rows`.

        Raises
        ------
        ConfigError
            If the model has no random effects.
        DataError
            If there is no such batch or gene.
        RunError
            If the run has no such model or fold, or has not finished it.
        """
        from medl_scale.pipeline.effects import effect_table

        return effect_table(self, model, fold, batches=batches, genes=genes, level=level)

    def moved_genes(
        self,
        model: str = "me",
        *,
        fold: int | None = None,
        batches: Sequence[str] | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Return all genes, those first that batches surely move most.

        Parameters
        ----------
        model, fold, level
            As for `effects`.
        batches
            Whose moves count; all by default. One name asks what that batch moves.

        Returns
        -------
        DataFrame
            One row per gene: `score` (moves and stretches, in s.d. of the gene, as far as their
            credible intervals lie away from 0), `share` of variance between batches with its interval,
            and the rest of `interpret.effect_tables.moved_genes`.

        Raises
        ------
        ConfigError, DataError, RunError
            As for `effects`.
        """
        from medl_scale.interpret.effect_tables import moved_genes
        from medl_scale.pipeline.effects import run_effects

        return moved_genes(run_effects(self, model, fold), batches=batches, level=level)

    def embed(
        self,
        adata: str | os.PathLike[str] | AnnData,
        *,
        models: tuple[str, ...] | None = None,
        fold: int | None = None,
        layer: str | None = None,
        progress: bool | Progress = True,
    ) -> AnnData:
        """Return latents of new cells.

        Genes are matched by name; missing ones count as zero, with a warning. Batches that the run
        does not know take the prior mean of the random effects, and are listed in a warning.

        Parameters
        ----------
        adata
            New cells in the units that the run was prepared from: any input of `prepare`.
        models
            Models to embed with; all finished ones by default.
        fold
            Whose models; the run's first fold by default.
        layer
            Layer to read instead of `X`.

        Returns
        -------
        AnnData
            The cells' `obs`, and their latents in `obsm`. If `adata` is an AnnData, its own `obsm`
            gets them too.

        Raises
        ------
        DataError
            If no gene is shared, or values are not in the run's units.
        RunError
            If a model is not finished.
        """
        from medl_scale.pipeline.embedding import embed

        return embed(
            self,
            adata,
            models=models,
            fold=self.folds[0] if fold is None else fold,
            layer=layer,
            progress=as_progress(progress),
        )

    def project(
        self,
        cells: Cells,
        as_batch: str | Sequence[str],
        *,
        model: str = "me",
        fold: int | None = None,
        units: ProjectedUnits = "lognorm",
        draws: int = 0,
        level: float = 0.95,
        switch: SwitchedSides = "both",
        with_reconstructions: bool = True,
        seed: int = 0,
        atlas: AtlasRef | None = None,
        max_bytes: int | None = None,
        progress: bool | Progress = True,
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
            Probability that the credible interval holds the expression that the model would give if
            it knew the effects. It is narrower than measured counts scatter.
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
        from medl_scale.config import ProjectConfig
        from medl_scale.pipeline.projecting import project

        config = ProjectConfig(
            model=model,
            fold=fold,
            units=units,
            draws=draws,
            level=level,
            switch=switch,
            with_reconstructions=with_reconstructions,
            seed=seed,
            max_bytes=max_bytes,
        )
        return project(self, cells, as_batch, config, atlas=atlas, progress=as_progress(progress))


@lru_cache(maxsize=16)
def _load(folder: Path, written_ns: int) -> FittedModel:
    """Return a trained model, loaded once as long as it stays the same."""
    n_threads = os.cpu_count() or 1
    # Starts the framework, without what it logs.
    limit_threads(n_threads)
    return load_model(folder, n_threads=n_threads)[0]

"""What a fit leaves on disk, read back: settings, history, scores, latents, models."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medl_scale.config import RunConfig
from medl_scale.errors import LatentsIncompleteError, RunError
from medl_scale.settings import build, read_toml
from medl_scale.store.latents import read_latent_array
from medl_scale.train.fit_files import FitSummary, latent_path, read_summary
from medl_scale.train.fitted import MODEL_FILE, load_model

if TYPE_CHECKING:
    import os
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from medl_scale.pipeline.scores import Scores
    from medl_scale.train.fitted import FittedModel

__all__ = [
    "ENVIRONMENT_FILE",
    "ERROR_FILE",
    "HISTORY_FILE",
    "SETTINGS_FILE",
    "RunFiles",
    "fit_folder",
]

SETTINGS_FILE = "config.toml"
ENVIRONMENT_FILE = "environment.json"
HISTORY_FILE = "history.csv"
ERROR_FILE = "error.txt"


def fit_folder(run: Path, model: str, fold: int) -> Path:
    """Return the folder of one fit in a run."""
    return run / "models" / model / f"fold_{fold}"


class RunFiles:
    """A folder that `fit` wrote, read back; users meet it as `Run`.

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
    def load(cls, path: str | os.PathLike[str]) -> Self:
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


@lru_cache(maxsize=16)
def _load(folder: Path, written_ns: int) -> FittedModel:
    """Return a trained model, loaded once as long as it stays the same."""
    return load_model(folder, in_numpy=True)[0]

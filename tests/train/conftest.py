"""One small prepared atlas for all fits, and what a fit is asked with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from medl_scale.config import ModelConfig, PrepareConfig, StreamConfig, TrainConfig
from medl_scale.store.prepare import prepare
from medl_scale.store.simulate import simulate
from medl_scale.train.fit_files import FitTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N_CELLS, N_GENES, N_BATCHES = 600, 120, 4


@pytest.fixture(scope="session")
def atlas_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared atlas of 600 simulated cells, 120 genes, 4 batches and 5 parts; read only."""
    folder = tmp_path_factory.mktemp("atlas")
    simulate(
        folder / "counts.zarr",
        n_cells=N_CELLS,
        n_genes=N_GENES,
        n_batches=N_BATCHES,
        n_labels=3,
        seed=4,
    )
    config = PrepareConfig(
        batch_key="batch", labels_key="cell_type", n_top_genes=None, min_genes=1, min_cells=1
    )
    prepare([folder / "counts.zarr"], folder / "atlas.zarr", config)
    return folder / "atlas.zarr"


@pytest.fixture
def task(atlas_path: Path, tmp_path: Path) -> Callable[..., FitTask]:
    """Return a function that makes a short fit of a tiny network; keywords change any setting."""

    def make(model: str, folder: str = "fit", **changes: object) -> FitTask:
        made = FitTask(
            ref=str(atlas_path),
            model=model,
            fold=0,
            folder=str(tmp_path / folder),
            latents=str(tmp_path / f"{folder}-latents.zarr"),
            model_config=ModelConfig(hidden=(16, 8), n_latent=4),
            train_config=TrainConfig(max_epochs=3, compile="off"),
            stream_config=StreamConfig(minibatch_size=64, run_size=16, window_size=128),
            n_threads=1,
        )
        for name, value in changes.items():
            for part in ("model_config", "train_config", "stream_config"):
                section = getattr(made, part)
                if hasattr(section, name):
                    made = dataclasses.replace(
                        made, **{part: dataclasses.replace(section, **{name: value})}
                    )
                    break
            else:
                made = dataclasses.replace(made, **{name: value})
        return made

    return make

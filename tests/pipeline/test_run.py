import json
import shutil

import anndata as ad
import numpy as np
import pytest

from medl_scale import Run, fit
from medl_scale.errors import ConfigError, LatentsIncompleteError, RunError, StoreError
from medl_scale.train.fitted import FittedPca
from tests.tiny import KEYS, MODELS, N_CELLS

pytestmark = [
    # anndata still sets an option of pandas when it makes a view.
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option"),
    # TensorFlow Probability compares versions by means that Python has left behind.
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated"),
]


def test_a_run_says_what_it_holds(made):
    run = Run.load(made.run)
    assert run.models == MODELS
    assert run.folds == (0,)
    assert run.atlas_path == str(made.atlas)
    assert run.config.train.max_epochs == 2
    assert run.environment["n_obs"] == N_CELLS
    assert run.environment["atlas_provenance"]["config"]["batch_key"] == "batch"
    assert repr(run) == f"Run('{made.run}': me, fe, re, pca; folds (0,))"
    finished = run.finished()
    assert list(finished) == [(model, 0) for model in MODELS]
    assert {key for fit in finished.values() for key in fit.keys} == KEYS


def test_history_has_a_row_a_model_fold_and_epoch(made):
    history = Run.load(made.run).history
    assert list(zip(history["model"], history["epoch"], strict=True)) == [
        (model, epoch) for model in ("me", "fe", "re") for epoch in (0, 1)
    ]
    wanted = {"fold", "train_total", "val_reconstruction", "val_adversary", "val_effects_kl", "cells_per_s",
              "loader_wait_s", "peak_memory_bytes", "learning_rate", "best"}  # fmt: skip
    assert wanted <= set(history)
    assert history.groupby("model")["best"].sum().eq(1).all()
    assert (history["cells_per_s"] > 0).all()
    assert (made.run / "history.csv").read_text().count("\n") == 1 + len(history)


def test_a_run_that_was_moved_needs_no_atlas(made, raw, tmp_path):
    shutil.copytree(made.run, tmp_path / "moved")
    # The atlas is out of reach, as on another machine.
    environment = tmp_path / "moved" / "environment.json"
    values = json.loads(environment.read_text()) | {"atlas": "/nowhere/atlas.zarr"}
    environment.write_text(json.dumps(values))
    moved = Run.load(tmp_path / "moved")
    np.testing.assert_array_equal(moved.latent("me"), Run(made.run).latent("me"))
    assert len(moved.history) == 6
    here = Run(made.run).embed(raw.copy(), models=("re",), progress=False)
    there = moved.embed(raw.copy(), models=("re",), progress=False)
    np.testing.assert_array_equal(here.obsm["X_medl_re"], there.obsm["X_medl_re"])


def test_a_latent_or_model_that_is_not_there_lists_those_that_are(made):
    run = Run.load(made.run)
    with pytest.raises(
        LatentsIncompleteError, match=r"no latent of model 'ae' fold 0; found: fe fold 0"
    ):
        run.latent("ae")
    with pytest.raises(
        LatentsIncompleteError, match=r"model 'me' fold 1; found: .*pca_batch_centred f"
    ):
        run.latent("me", fold=1)
    with pytest.raises(
        RunError, match=r"fold_1 holds no finished model\. Finish the fit with --resume"
    ):
        run.model("me", 1)
    with pytest.raises(
        RunError, match=r"tiny is not a run: it has no config\.toml\. Give the folder"
    ):
        Run.load(made.run.parent.parent)


def test_a_truncated_latent_or_model_is_told(made, tmp_path):
    run = Run(shutil.copytree(made.run, tmp_path / "run"))
    file = next(
        path for path in (run.path / "latents.zarr/me/fold_0/c").rglob("*") if path.is_file()
    )
    model = run.path / "models/me/fold_0/model.npz"
    for path in (file, model):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        StoreError, match=r"fold_0 is truncated: 1 of its files are missing or too sh"
    ):
        run.latent("me")
    with pytest.raises(StoreError, match=r"model\.npz"):
        run.model("me")


def test_the_batch_centred_baseline_has_no_batch_means_left(made):
    run = Run.load(made.run)
    batches = ad.read_zarr(made.atlas).obs["batch"]
    spread = {}
    for name in ("pca", "pca_batch_centred"):
        latent = run.latent(name)
        means = [latent[batches == batch].mean(axis=0) for batch in batches.unique()]
        spread[name] = np.var(means, axis=0).sum()
    assert spread["pca_batch_centred"] < 0.1 * spread["pca"]


def test_a_posterior_is_a_distribution_over_scales_and_shifts_of_every_gene(made):
    run = Run.load(made.run)
    posterior = run.posterior("re", "batch_2")
    assert posterior.event_shape == (2, 80)
    other = run.posterior("re", "batch_3")
    assert not np.allclose(posterior.mean(), other.mean())
    assert run.posterior("me", "batch_1", "decoder0").event_shape[0] == 2
    for args, message in (
        (
            ("fe", "batch_1"),
            r"Model 'fe' has no random effects\. Models of this run that have: 'me', 're'\.",
        ),
        (("pca", "batch_1"), "Model 'pca' has no random effects"),
        (("re", "batch_9"), r"'batch_9' is not a batch of the run\. Batches: batch_1, batch_2, "),
        (("re", "batch_1", "top"), r"'top' is not a layer with effects\. Layers: \['decoder0', "),
    ):
        with pytest.raises(ConfigError, match=message):
            run.posterior(*args)


def test_a_run_that_was_replaced_is_read_anew(atlas, tmp_path):
    settings = {
        "output": tmp_path / "run",
        "models": ("pca",),
        "progress": False,
        "evaluate": False,
    }
    first = fit(atlas, n_latent=3, **settings)
    assert isinstance(first.model("pca"), FittedPca)
    assert first.model("pca") is first.model("pca")
    fit(atlas, n_latent=5, overwrite=True, **settings)
    assert first.model("pca").components.shape[1] == 5

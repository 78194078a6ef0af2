"""Whole fits of tiny networks on a small atlas: what they leave, and that nothing but settings matter."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from medl_scale.config import PrepareConfig
from medl_scale.errors import ConfigError, DataError, DivergedError
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.latents import read_latent_array
from medl_scale.store.prepare import prepare
from medl_scale.stream.densify import Transform
from medl_scale.stream.minibatches import blocks
from medl_scale.stream.source import open_source
from medl_scale.train.fit import fit_one
from medl_scale.train.fit_files import latent_path, read_epochs, read_status, read_summary
from medl_scale.train.fitted import load_model
from tests.train.conftest import N_BATCHES, N_CELLS, N_GENES
from tests.train.left import differing, left_by

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ["me", "fe", "re", "fec", "ae", "aec"]


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_learns_and_leaves_latents_of_all_cells(task, model):
    asked = task(model, max_epochs=12)
    summary = fit_one(asked)
    folder = Path(asked.folder)
    history = pd.read_csv(folder / "history.csv")
    assert history["train_total"].iloc[-1] < history["train_total"].iloc[0]
    validated = history.dropna(subset="val_reconstruction")
    assert validated["val_reconstruction"].min() < validated["val_reconstruction"].iloc[0]
    assert summary.keys == (f"X_medl_{model}",)
    latent = read_latent_array(latent_path(asked.latents, summary.keys[0], 0))
    assert latent.shape == (N_CELLS, 4)
    assert np.isfinite(latent).all()
    assert (summary.probe is not None) == (model in {"fe", "fec"})
    assert summary.losses["val_total"] == pytest.approx(
        history.loc[history["best"], "val_total"].item()
    )
    assert not (folder / "checkpoint.npz").exists()
    assert read_summary(folder) == summary
    assert read_status(folder).state == "done"
    assert [row["epoch"] for row in read_epochs(folder)[0]] == history["epoch"].tolist()


def test_latents_are_those_of_the_saved_model_row_by_row(task, atlas_path):
    asked = task("re")
    fit_one(asked)
    model, record = load_model(Path(asked.folder))
    atlas, columns = describe(atlas_path), read_columns(atlas_path)
    assert record["fold"] == 0
    assert len(model.vocabulary.var_names) == N_GENES
    latent = read_latent_array(latent_path(asked.latents, "X_medl_re", 0))
    rows = np.array([3, 599, 250])
    with (
        open_source(atlas_path) as source,
        blocks(source, columns, [slice(0, N_CELLS)], model.vocabulary.transform, N_CELLS) as all_,
    ):
        block = next(iter(all_))
        found = model.encode(block.x[rows], columns.batch_codes[rows])["X_medl_re"]
    np.testing.assert_allclose(found, latent[rows], rtol=1e-5, atol=1e-6)
    assert atlas.n_obs == N_CELLS


def test_values_are_scaled_by_the_maximum_of_the_train_cells(task, atlas_path):
    asked = task("pca")
    fit_one(asked)
    model, _ = load_model(Path(asked.folder))
    atlas, columns = describe(atlas_path), read_columns(atlas_path)
    plain = Transform(atlas.input_units, atlas.target_sum)
    with (
        open_source(atlas_path) as source,
        blocks(source, columns, list(atlas.split(0).train), plain, 100) as found,
    ):
        largest = max(block.x.max() for block in found)
    assert model.vocabulary.transform.scale == pytest.approx(1 / largest, rel=1e-6)


def test_the_same_seed_gives_the_same_fit_bitwise_and_another_does_not(task):
    tasks = [task("me", f"fit{i}", seed=seed, max_epochs=2) for i, seed in enumerate([0, 0, 1])]
    for asked in tasks:
        fit_one(asked)
    one, two, three = map(left_by, tasks)
    assert differing(one, two) == []
    assert "X_medl_me" in differing(one, three)
    assert "history" in differing(one, three)


def test_disk_memory_cache_and_prefetch_do_not_change_a_bit(task, atlas_path):
    in_memory = ad.read_zarr(atlas_path)
    tasks = [
        task("re", "cached"),
        task("re", "uncached", cache_memory=0, prefetch=0),
        task("re", "in-memory", ref=in_memory),
    ]
    for asked in tasks:
        fit_one(asked)
    expected, *others = map(left_by, tasks)
    for found in others:
        assert differing(expected, found) == []


def press_ctrl_c_in(epoch: int):
    """Return a report function that interrupts an epoch."""

    def report(status) -> None:
        if status.state == "training" and status.epoch == epoch:
            signal.raise_signal(signal.SIGINT)

    return report


@pytest.mark.parametrize("model", ["fec", "re"])
def test_a_fit_interrupted_by_ctrl_c_resumes_bitwise(task, model):
    whole, broken = task(model, "whole"), task(model, "broken")
    fit_one(whole)
    with pytest.raises(KeyboardInterrupt):
        fit_one(broken, press_ctrl_c_in(1))
    folder = Path(broken.folder)
    assert (folder / "checkpoint.npz").exists()
    assert not (folder / "done.json").exists()
    assert len(pd.read_csv(folder / "history.csv")) >= 1
    again = task(model, "broken", resume=True)
    fit_one(again)
    assert differing(left_by(whole), left_by(again)) == []
    assert not (folder / "checkpoint.npz").exists()


CHILD = (
    "import pickle, sys\n"
    "from medl_scale.train.fit import fit_one\n"
    "for task in pickle.load(open(sys.argv[1], 'rb')): fit_one(task)\n"
)


def start(path: Path, backend: str, *tasks) -> subprocess.Popen:
    """Start a process that does fits one after another."""
    path.write_bytes(pickle.dumps(tasks))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_fit_killed_at_any_moment_resumes_bitwise(task, tmp_path, backend):
    changes = {"max_epochs": 40, "early_stopping_patience": 10_000}
    folder = Path(task("me", "killed").folder)
    first = task("me", "killed", checkpoint_every_s=0.0, **changes)
    with start(tmp_path / "first", backend, first) as process:
        while not (folder / "checkpoint.npz").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "done.json").exists()
    whole, again = task("me", "whole", **changes), task("me", "killed", resume=True, **changes)
    with start(tmp_path / "second", backend, again, whole) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert differing(left_by(whole), left_by(again)) == []


def test_a_finished_fit_is_not_done_again(task):
    summary = fit_one(task("pca"))
    stamp = (Path(task("pca").folder) / "model.npz").stat().st_mtime_ns
    assert fit_one(task("pca", resume=True)) == summary
    assert (Path(task("pca").folder) / "model.npz").stat().st_mtime_ns == stamp


def test_without_resume_a_fit_starts_anew(task):
    fit_one(task("pca"))
    summary = fit_one(task("pca", n_latent=3))
    assert summary.n_latent == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_latent": 7}, "model_config"),
        ({"seed": 9}, "train_config"),
        ({"minibatch_size": 32}, "minibatch_size"),
        ({"fold": 1, "window_size": 64}, "fold, window_size"),
    ],
)
def test_resuming_with_other_settings_names_them(task, changes, named):
    fit_one(task("pca"))
    with pytest.raises(ConfigError, match=f"was fitted with other settings: {named} differ"):
        fit_one(task("pca", resume=True, **changes))


def test_resuming_with_other_ways_of_running_is_allowed(task):
    summary = fit_one(task("pca"))
    other = task("pca", resume=True, cache_memory=0, prefetch=0, checkpoint_every_s=1.0, threads=2)
    assert fit_one(other) == summary


def write_lognorm(folder: Path) -> Path:
    """Write a prepared atlas of log-normalised values without labels."""
    rng = np.random.default_rng(0)
    values = rng.random((240, 20)).astype(np.float32) * (rng.random((240, 20)) < 0.5)
    cells = ad.AnnData(
        sparse.csr_matrix(values),
        obs=pd.DataFrame(
            {"batch": np.repeat(["a", "b", "c"], 80)}, index=[f"cell{i}" for i in range(240)]
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(20)]),
    )
    config = PrepareConfig(
        batch_key="batch", input_units="lognorm", n_top_genes=None, min_genes=0, min_cells=0
    )
    prepare([cells], folder / "lognorm.zarr", config)
    return folder / "lognorm.zarr"


def test_a_huge_learning_rate_is_lowered_once_and_then_told(task):
    with pytest.raises(DivergedError) as caught:
        fit_one(task("ae", learning_rate=1e30))
    message = str(caught.value)
    assert "'total' of model 'ae' became non-finite in epoch 0" in message
    assert "most likely by cells of batch 'batch_" in message
    assert "Try a smaller --learning-rate" in message


def test_a_rate_that_a_tenth_of_is_fine_is_recovered_from(task):
    summary = fit_one(task("ae", learning_rate=1e3, max_epochs=1))
    assert summary.recoveries == 1


def test_absurd_values_of_one_batch_name_that_batch(task, tmp_path):
    adata = ad.read_zarr(write_lognorm(tmp_path))
    val = np.zeros(adata.n_obs, bool)
    val[describe(adata).split(0).val] = True
    cells = val & (adata.obs["batch"] == "b").to_numpy()
    adata.X = sparse.csr_matrix(adata.X.toarray() * np.where(cells, 1e25, 1.0)[:, None], dtype="f4")
    with pytest.raises(DivergedError) as caught:
        fit_one(task("me", ref=adata))
    assert "The loss term 'total' of model 'me' became non-finite" in str(caught.value)
    assert "in validation, most likely by cells of batch 'b'" in str(caught.value)


@pytest.mark.parametrize("model", ["aec", "fec"])
def test_a_classifier_without_labels_is_refused(task, tmp_path, model):
    atlas = write_lognorm(tmp_path)
    with pytest.raises(DataError, match=f"Model '{model}' classifies cell types.*--labels-key"):
        fit_one(task(model, ref=str(atlas)))


@pytest.fixture
def with_embedding(atlas_path):
    """The atlas in memory, with embeddings from elsewhere."""
    adata = ad.read_zarr(atlas_path)
    rng = np.random.default_rng(0)
    adata.obsm["X_other"] = (50 * rng.normal(size=(N_CELLS, 3)) + 7).astype(np.float64)
    adata.obsm["X_flat"] = np.zeros((N_CELLS, 2))
    adata.obsm["X_bad"] = np.where(np.arange(N_CELLS) == 5, np.nan, 1.0)[:, None]
    return adata


def test_a_frozen_embedding_trains_the_decoder_alone(task, with_embedding):
    asked = task("me", ref=with_embedding, fe_rep="X_other", max_epochs=8)
    summary = fit_one(asked)
    assert summary.keys == ()
    assert summary.n_latent == 3
    history = pd.read_csv(Path(asked.folder) / "history.csv")
    assert history["train_reconstruction"].iloc[-1] < history["train_reconstruction"].iloc[0]
    assert (history["train_latent_kl"] == 0).all()
    with np.load(Path(asked.folder) / "model.npz") as file:
        weights = [name for name in file.files if name.startswith("model/")]
    assert all(name.startswith(("model/decoder", "model/output")) for name in weights)
    loaded, _ = load_model(Path(asked.folder))
    assert loaded.latent_sizes() == {}


def test_a_frozen_embedding_is_standardised_so_its_units_do_not_matter(task, with_embedding):
    fits = []
    for name, factor in (("plain", 1.0), ("scaled", 1000.0)):
        with_embedding.obsm["X_used"] = with_embedding.obsm["X_other"] * factor - factor
        asked = task("me", name, ref=with_embedding, fe_rep="X_used", max_epochs=1)
        fits.append(fit_one(asked).losses["val_reconstruction"])
    assert fits[0] == pytest.approx(fits[1], rel=1e-4)


def test_an_embedding_without_variance_is_survived(task, with_embedding):
    summary = fit_one(task("me", ref=with_embedding, fe_rep="X_flat", max_epochs=1))
    assert np.isfinite(summary.losses["val_total"])


def test_a_missing_embedding_lists_those_that_are_there(task, with_embedding, atlas_path):
    with pytest.raises(
        ConfigError,
        match=r"fe_rep 'X_harmony' is not in obsm of the atlas\. "
        r"Embeddings: 'X_bad', 'X_flat', 'X_other'",
    ):
        fit_one(task("me", ref=with_embedding, fe_rep="X_harmony"))
    with pytest.raises(ConfigError, match=r"fe_rep 'X_pca' is not in obsm.*Embeddings: none"):
        fit_one(task("me", ref=str(atlas_path), fe_rep="X_pca"))


def test_an_embedding_with_holes_is_refused(task, with_embedding):
    with pytest.raises(
        DataError, match=r"fe_rep 'X_bad' must be a matrix of finite numbers.*1 cells"
    ):
        fit_one(task("me", ref=with_embedding, fe_rep="X_bad"))


def test_every_fold_can_be_fitted_and_none_shares_its_test_cells(task, atlas_path):
    atlas = describe(atlas_path)
    tested = []
    for fold in range(atlas.n_folds):
        asked = task("pca", f"fold{fold}", fold=fold)
        assert fit_one(asked).fold == fold
        split = atlas.split(fold)
        tested.append(np.arange(split.test.start, split.test.stop))
    assert sorted(np.concatenate(tested)) == list(range(N_CELLS))


def test_a_fold_beyond_the_last_is_refused(task):
    with pytest.raises(ConfigError, match="fold must be one of 0 to 4; got 5"):
        fit_one(task("pca", fold=5))


def test_more_components_than_genes_are_refused(task):
    with pytest.raises(ConfigError, match=f"n_latent must be at most {N_GENES} for PCA"):
        fit_one(task("pca", n_latent=N_GENES + 1))


def test_a_weak_reconstruction_is_told_with_the_result(task):
    (message, *_) = fit_one(task("fe", recon_weight=1e-3, max_epochs=1)).warnings
    assert "Use a recon_weight of at least" in message


def test_a_blind_adversary_is_told_when_the_latent_still_holds_the_batch(task, atlas_path):
    adata = ad.read_zarr(atlas_path)
    own = np.arange(N_GENES) % N_BATCHES == adata.obs["batch"].cat.codes.to_numpy()[:, None]
    adata.X = sparse.csr_matrix((adata.X.toarray() + 50 * own).astype(np.uint16))
    # Nothing is learned at this rate: the adversary stays at chance, a random encoder keeps all.
    summary = fit_one(task("fe", ref=adata, learning_rate=1e-9, max_epochs=1))
    (message,) = summary.warnings
    assert "The adversary of 'fe' fold 0 is at chance, yet a fresh forest reads" in message
    assert f"from the latent at {summary.probe['forest_accuracy']:.2f}" in message
    assert "Use model 'me', or --adversary strong" in message


def test_a_minibatch_larger_than_the_train_cells_is_all_of_them(task):
    summary = fit_one(task("ae", minibatch_size=5000, window_size=20_000, max_epochs=2))
    assert summary.n_steps == 2


def test_status_is_told_in_order_and_can_be_read_at_any_time(task):
    asked, states = task("fe", max_epochs=1), []

    def report(status) -> None:
        states.append(status.state)
        assert read_status(Path(asked.folder)) == status

    fit_one(asked, report)
    assert list(dict.fromkeys(states)) == ["statistics", "training", "encoding", "probing", "done"]


def test_published_presets_keep_their_rate_and_patience(task):
    asked = task("re", preset="scmedal", max_epochs=2)
    fit_one(asked)
    history = pd.read_csv(Path(asked.folder) / "history.csv")
    assert (history["learning_rate"] == 1e-4).all()
    assert history["val_total"].notna().all()


def test_what_a_fit_recorded_can_be_read_as_json(task):
    asked = task("pca")
    fit_one(asked)
    identity = json.loads((Path(asked.folder) / "fit.json").read_text())
    assert identity["model"] == "pca"
    assert identity["n_obs"] == N_CELLS
    assert len(json.loads((Path(asked.folder) / "done.json").read_text())["keys"]) == 2
    assert len(load_model(Path(asked.folder))[0].vocabulary.batch_levels) == N_BATCHES

import io
import json
import os
import shutil
import time

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from medl_scale import Run, fit, prepare
from medl_scale.config import RunConfig
from medl_scale.errors import ConfigError, FitFailedError, OutputExistsError, StoreError
from medl_scale.pipeline.fitting import default_output, with_settings
from medl_scale.progress import JsonProgress
from medl_scale.store.latents import read_latent, write_latent
from tests.tiny import KEYS, N_CELLS, medl

PCA = {"models": ("pca",), "n_latent": 5, "progress": False, "evaluate": False}
SHORT = {"max_epochs": 2, "minibatch_size": 128, "threads": 1, "progress": False, "evaluate": False}


pytestmark = [
    # anndata still sets an option of pandas when it makes a view.
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option"),
    # TensorFlow Probability compares versions by means that Python has left behind.
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated"),
]


def contents(folder):
    """When each file of a folder was written, by path."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# Where data may come from.


def test_raw_counts_in_memory_get_latents_in_their_own_order(raw, tmp_path):
    counts = raw.X.toarray()
    counts[[4, 90]] = 0
    raw.X = sparse.csr_matrix(counts)
    with pytest.warns(
        UserWarning, match=r"2 cells were removed by min_genes and have NaN as latent"
    ):
        run = fit(
            raw,
            output=tmp_path / "run",
            batch_key="batch",
            prepare_settings={"min_cells": 1},
            **(SHORT | {"models": ("pca", "ae"), "n_latent": 5}),
        )
    assert set(raw.obsm) == {"X_pca", "X_pca_batch_centred", "X_medl_ae"}
    removed = np.isnan(raw.obsm["X_medl_ae"]).any(axis=1)
    assert np.flatnonzero(removed).tolist() == [4, 90]
    rest = ad.AnnData(raw.X[~removed], obs=raw.obs[~removed], var=raw.var)
    for key, again in run.embed(rest, progress=False).obsm.items():
        np.testing.assert_allclose(raw.obsm[key][~removed], again, atol=1e-5)


def test_a_prepared_atlas_in_memory_is_fitted_as_one_on_disk_is(made, atlas, tmp_path):
    adata = ad.read_zarr(atlas)
    run = fit(adata, output=tmp_path / "memory", **PCA)
    fit(atlas, output=tmp_path / "disk", **PCA)
    assert set(adata.obsm) == {"X_pca", "X_pca_batch_centred"}
    np.testing.assert_array_equal(adata.obsm["X_pca"], run.latent("pca"))
    np.testing.assert_array_equal(adata.obsm["X_pca"], read_latent(atlas, "X_pca"))
    assert run.atlas_path is None
    with pytest.raises(ConfigError, match="An AnnData in memory is fitted in this process: set wo"):
        fit(adata, output=tmp_path / "more", workers=2, **PCA)
    assert not (tmp_path / "more").exists()


def test_raw_counts_on_disk_are_prepared_first_where_it_says(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(made.raw, "raw.h5ad")
    said = io.StringIO()
    settings = PCA | {"progress": JsonProgress(said)}
    with pytest.raises(
        ConfigError, match=r"raw\.h5ad is not a prepared atlas\. Name the column of"
    ):
        fit("raw.h5ad", **settings)
    run = fit("raw.h5ad", batch_key="batch", labels_key="cell_type", **settings)
    notes = [event.get("message", "") for event in map(json.loads, said.getvalue().splitlines())]
    assert "raw.h5ad is not prepared yet: preparing it in runs/raw/atlas.zarr." in notes
    assert run.path.as_posix() == "runs/raw"
    atlas = ad.read_zarr("runs/raw/atlas.zarr")
    assert set(atlas.obs["cell_type"]) == {"type_1", "type_2", "type_3"}
    np.testing.assert_array_equal(atlas.obsm["X_pca"], run.latent("pca"))


def test_data_that_are_not_there_are_said_not_to_be(tmp_path):
    with pytest.raises(StoreError, match=r"none\.h5ad does not exist\. Give a prepared atlas, or"):
        fit(tmp_path / "none.h5ad", output=tmp_path / "run", batch_key="batch", **PCA)


def test_the_default_folder_is_named_after_the_data(raw):
    assert default_output("some/where/pbmc.h5ad").as_posix() == "runs/pbmc"
    assert default_output(raw).as_posix() == "runs/adata"


# What comes out.


def test_latents_in_the_atlas_are_those_of_the_run(made):
    run = Run.load(made.run)
    for key in KEYS:
        name = key.removeprefix("X_").removeprefix("medl_")
        np.testing.assert_array_equal(read_latent(made.atlas, key), run.latent(name))


def test_two_workers_give_the_same_latents_as_one_bit_for_bit(made, atlas, tmp_path):
    run = fit(atlas, output=tmp_path / "run", models=("me", "re"), workers=2, **SHORT)
    for model in ("me", "re"):
        np.testing.assert_array_equal(run.latent(model), Run.load(made.run).latent(model))


def test_the_first_fold_goes_into_the_atlas_and_every_fold_into_the_run(atlas, tmp_path):
    run = fit(atlas, output=tmp_path / "run", folds=(2, 0), **PCA)
    np.testing.assert_array_equal(read_latent(atlas, "X_pca"), run.latent("pca", 2))
    assert not np.array_equal(run.latent("pca", 2), run.latent("pca", 0))
    assert ad.read_zarr(atlas).uns["medl_scale_latents"]["X_pca"]["fold"] == 2


def test_latents_can_be_kept_out_of_the_atlas(atlas, tmp_path):
    run = fit(atlas, output=tmp_path / "run", write_latents=False, **PCA)
    assert run.latent("pca").shape == (N_CELLS, 5)
    assert not (atlas / "obsm" / "X_pca").exists()


def test_a_fixed_embedding_can_replace_the_encoder(made, tmp_path):
    run = fit(made.atlas, output=tmp_path / "run", models=("me",), fe_rep="X_pca", write_latents=False,
              **SHORT)  # fmt: skip
    assert run.finished()["me", 0].keys == ()
    assert run.finished()["me", 0].losses["val_reconstruction"] > 0
    assert run.posterior("me", "batch_2").event_shape == (2, 80)


# When something fails.


def test_one_failing_fit_does_not_lose_the_others_and_can_be_made_up_for(atlas, tmp_path):
    output = tmp_path / "run"
    command = ("fit", atlas, "-o", output, "--models", "pca,me", "--fe-rep", "X_other",
               "--n-latent", 5, "--max-epochs", 2, "--threads", 1, "--no-evaluate")  # fmt: skip
    ended = medl(*command)
    assert ended.code == 2
    assert f"Error: 1 of 2 fits failed; the others are kept in {output}." in ended.err
    assert "  fit me fold 0: ConfigError: fe_rep 'X_other' is not in obsm" in ended.err
    assert "Mend the cause and continue with --resume" in ended.err
    assert "Traceback" not in ended.err
    assert "Traceback" in (output / "models" / "me" / "fold_0" / "error.txt").read_text()
    assert set(ad.read_zarr(atlas).obsm) == {"X_pca", "X_pca_batch_centred"}
    states = {
        one["model"]: one["state"] for one in json.loads(medl("info", output, "--json").out)["fits"]
    }
    assert states == {"pca": "done", "me": "failed"}
    assert "ConfigError: fe_rep 'X_other' is not in obsm" in medl("info", output).out

    pca = contents(output / "models" / "pca") | contents(output / "latents.zarr" / "pca")
    other = np.random.default_rng(0).normal(size=(N_CELLS, 4)).astype(np.float32)
    write_latent(atlas, "X_other", [(slice(0, N_CELLS), other)], n_latent=4, provenance={})
    ended = medl("fit", atlas, "-o", output, "--resume", "--no-evaluate")
    assert ended.code == 0, ended.err
    assert set(Run.load(output).finished()) == {("pca", 0), ("me", 0)}
    assert contents(output / "models" / "pca") | contents(output / "latents.zarr" / "pca") == pca


def test_a_classifier_without_labels_fails_alone(raw, tmp_path):
    prepare(raw, tmp_path / "atlas.zarr", batch_key="batch", progress=False)
    with pytest.raises(
        FitFailedError, match=r"fit fec fold 0: DataError: Model 'fec' classifies ce"
    ):
        fit(tmp_path / "atlas.zarr", output=tmp_path / "run", **(PCA | {"models": ("fec", "pca")}))
    assert "X_pca" in ad.read_zarr(tmp_path / "atlas.zarr").obsm


# Resuming.


def test_resuming_keeps_the_settings_of_the_run_and_can_add_models_and_folds(atlas, tmp_path):
    output = tmp_path / "run"
    fit(atlas, output=output, **(PCA | {"seed": 3, "max_epochs": 2}))
    before = contents(output / "models")
    run = fit(
        atlas, output=output, resume=True, models="ae", folds=1, progress=False, evaluate=False
    )
    assert run.config.train.seed == 3
    assert run.models == ("pca", "ae")
    assert run.folds == (0, 1)
    assert set(run.finished()) == {("pca", 0), ("ae", 1)}
    assert run.finished()["ae", 1].n_latent == 5
    after = contents(output / "models")
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_latent": 6, "seed": 1},
            r"other settings: n_latent \(5 -> 6\), seed \(0 -> 1\)\. Resume it",
        ),
        ({"minibatch_size": 64}, r"minibatch_size \(512 -> 64\)"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_changes_nothing(
    atlas, tmp_path, settings, message
):
    run = fit(atlas, output=tmp_path / "run", **PCA)
    before = contents(run.path)
    with pytest.raises(ConfigError, match=message):
        fit(atlas, output=run.path, resume=True, progress=False, **settings)
    assert contents(run.path) == before


def test_how_a_run_is_carried_out_may_change_when_it_is_resumed(atlas, tmp_path):
    run = fit(atlas, output=tmp_path / "run", **PCA)
    fit(
        atlas, output=run.path, resume=True, threads=2, cache_memory=0, workers=2, progress=False,
        evaluate=False,
    )  # fmt: skip


def test_resuming_with_another_atlas_is_refused(raw, atlas, tmp_path):
    run = fit(atlas, output=tmp_path / "run", **PCA)
    prepare(raw, tmp_path / "b.zarr", batch_key="batch", min_cells=1, seed=1, progress=False)
    before = contents(tmp_path)
    with pytest.raises(
        ConfigError, match=r"run was made from another atlas \(.*atlas\.zarr\)\. Resu"
    ):
        fit(tmp_path / "b.zarr", output=run.path, resume=True, progress=False)
    assert contents(tmp_path) == before


def test_a_run_that_was_interrupted_while_it_prepared_goes_on(made, raw, tmp_path):
    output = tmp_path / "run"
    (output / "atlas.zarr.medl-tmp-123abc").mkdir(parents=True)
    run = fit(made.raw, output=output, resume=True, batch_key="batch", **PCA)
    assert not (output / "atlas.zarr.medl-tmp-123abc").exists()

    # It ended after the atlas was made: no need to make it again.
    shutil.rmtree(run.path / "models")
    (run.path / "config.toml").unlink()
    for name in ("latents.zarr", "history.csv", "environment.json"):
        item = run.path / name
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    prepared = contents(output / "atlas.zarr" / "X")
    with pytest.raises(OutputExistsError, match="Continue it with --resume"):
        fit(made.raw, output=output, batch_key="batch", **PCA)
    fit(made.raw, output=output, resume=True, batch_key="batch", **PCA)
    assert contents(output / "atlas.zarr" / "X") == prepared

    with pytest.raises(ConfigError, match=r"atlas\.zarr was prepared from other data than these\."):
        fit(raw[:500], output=output, resume=True, batch_key="batch", **PCA)
    shutil.copy(made.raw, tmp_path / "other.h5ad")
    with pytest.raises(ConfigError, match=r"atlas\.zarr was prepared from other data than these\."):
        fit(tmp_path / "other.h5ad", output=output, resume=True, batch_key="batch", **PCA)


# Replacing.


def test_a_run_is_neither_replaced_nor_continued_unasked(made):
    with pytest.raises(
        OutputExistsError, match=r"holds a run already\. Continue it with --resume, r"
    ):
        fit(made.atlas, output=made.run, **PCA)


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_folder_of_the_users_is_never_made_a_run(atlas, options):
    (atlas.parent / "thesis.tex").write_text("x")
    with pytest.raises(
        OutputExistsError, match=r"exists and is not a run of medl-scale\. Choose an"
    ):
        fit(atlas, output=atlas.parent, **PCA, **options)
    assert (atlas.parent / "thesis.tex").exists()
    with pytest.raises(OutputExistsError, match="exists and is not a run"):
        fit(atlas, output=atlas.parent / "thesis.tex", **PCA, **options)


def test_overwriting_removes_what_the_run_left_and_nothing_else(atlas, tmp_path):
    run = fit(atlas, output=tmp_path / "run", **(PCA | {"folds": (0, 1)}))
    shutil.move(atlas, run.path / "atlas.zarr")
    (run.path / "notes.txt").write_text("mine")
    again = fit(run.path / "atlas.zarr", output=run.path, overwrite=True, **PCA)
    assert (run.path / "notes.txt").read_text() == "mine"
    assert set(again.finished()) == {("pca", 0)}
    assert not (run.path / "models" / "pca" / "fold_1").exists()
    assert not (run.path / "latents.zarr" / "pca" / "fold_1").exists()


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        ("nothing.zarr", {}),
        ("raw.h5ad", {}),
        ("raw.h5ad", {"batch_key": "donor"}),
        ("atlas.zarr", {"folds": (9,)}),
        ("atlas.zarr", {"max_epoch": 9}),
    ],
)
def test_what_cannot_replace_a_run_does_not_remove_it(made, atlas, tmp_path, data, settings):
    shutil.copy(made.raw, tmp_path)
    shutil.copytree(made.run, tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises((ConfigError, StoreError, ValueError)):
        fit(tmp_path / data, output=tmp_path / "run", overwrite=True, **(PCA | settings))
    assert contents(tmp_path) == before


def test_what_others_are_writing_beside_the_atlas_is_left_alone(atlas, tmp_path):
    names = ("other.zarr.medl-tmp-1", "atlas.zarr.medl-tmp-2", "other.zarr.medl-tmp-3",
             "atlas.zarr.medl-tmp-4")  # fmt: skip
    for name in names:
        (tmp_path / name).mkdir()
    long_ago = time.time() - 7200
    for name in names[2:]:
        os.utime(tmp_path / name, (long_ago, long_ago))
    fit(atlas, output=tmp_path / "run", **PCA)
    assert {name for name in names if (tmp_path / name).exists()} == set(names[:3])


# Settings.


def test_settings_may_be_given_flat_nested_or_at_once():
    expected = with_settings(RunConfig(), {"train": {"max_epochs": 9}, "model": {"hidden": (7,)}})
    assert expected.train.max_epochs == 9
    assert expected.model.hidden == (7,)
    flat = with_settings(RunConfig(), {"max_epochs": np.int64(9), "hidden": [7]})
    assert flat == expected
    assert with_settings(expected, {"seed": 3, "models": "pca", "folds": 2}).folds == (2,)
    assert with_settings(expected, {"models": "pca"}).train.max_epochs == 9


def test_an_unknown_setting_lists_the_known(made):
    with pytest.raises(
        ConfigError, match=r"'epochs' is not a setting of fit\. Settings: .*max_epoch"
    ):
        fit(made.atlas, epochs=3)
    with pytest.raises(ConfigError, match=r"'epochs' is not a setting of \[train\]\..*max_epochs"):
        fit(made.atlas, train={"epochs": 3})
    with pytest.raises(
        ConfigError, match=r"'n_genes' is not a setting of \[prepare\]\..*n_top_gene"
    ):
        prepare(made.raw, "x.zarr", batch_key="batch", n_genes=3)

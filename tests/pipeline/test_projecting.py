"""Cells of a run under other batches: what is returned, what lies on disk, what is refused."""

from __future__ import annotations

import shutil

import anndata as ad
import numpy as np
import pytest

from medl_scale import Run
from medl_scale.config import ProjectConfig
from medl_scale.errors import (
    AtlasError,
    ConfigError,
    DataError,
    OutputExistsError,
    RunError,
)
from medl_scale.pipeline.projecting import write_projection
from medl_scale.progress import SilentProgress

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")

BATCHES = ("batch_1", "batch_2", "batch_3", "batch_4")
BESIDE = 3
"""Rows of each cell beside its projections: measured, and reconstructed by ME and FE."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tests import tiny

    return Run.load(tiny.made(tmp_path_factory).run)


@pytest.fixture(scope="module")
def atlas(run):
    return ad.read_zarr(run.atlas_path)


def project(run, cells=(3, 1, 5), as_batch="all", **options):
    return run.project(list(cells) if isinstance(cells, tuple) else cells, as_batch,
                       progress=False, **options)  # fmt: skip


def written(run, output, cells=(3, 1, 5), as_batch="all", *, progress=None, **options):
    config = ProjectConfig(**options)
    write_projection(run, output, list(cells) if isinstance(cells, tuple) else cells, as_batch,
                     config, progress=progress or SilentProgress())  # fmt: skip
    return ad.read_zarr(output) if output.suffix == ".zarr" else ad.read_h5ad(output)


def test_every_chosen_cell_has_a_row_for_every_chosen_batch(run, atlas):
    found = project(run, as_batch=("batch_2", "average", "batch_4"))
    assert found.shape == (3 * (BESIDE + 3), atlas.n_vars)
    assert found.var_names.tolist() == atlas.var_names.tolist()
    assert found.X.dtype == np.float32
    first = found.obs.iloc[: BESIDE + 3]
    name = atlas.obs_names[3]
    assert (first["cell"] == name).all()
    assert first["kind"].tolist() == ["measured", *["reconstruction"] * 2, *["as_if"] * 3]
    assert first["model"].astype(object).fillna("").tolist() == ["", "me", "fe", "me", "me", "me"]
    own = atlas.obs["batch"].iloc[3]
    targets = first["target_batch"].astype(object).fillna("").tolist()
    assert targets == ["", own, "", "batch_2", "average", "batch_4"]
    assert first["is_own_batch"].tolist() == [target == own for target in targets]
    assert found.obs_names[3] == f"{name}|as:batch_2"
    assert found.obs_names.is_unique
    rows = found.obs["atlas_row"].to_numpy()[:: BESIDE + 3]
    assert rows.tolist() == [3, 1, 5]
    for column, theirs in (("source_batch", "batch"), ("label", "cell_type")):
        each = found.obs[column].to_numpy()[:: BESIDE + 3].tolist()
        assert each == atlas.obs[theirs].iloc[rows].tolist()
    # Of five parts the first tests and the second validates.
    assert set(found.obs["split"]) == {"test"}
    later = project(run, (150, 599), "batch_1", with_reconstructions=False)
    assert later.obs["split"].tolist() == ["val", "train"]
    about = found.uns["medl_scale_projection"]
    assert (about["model"], about["fold"], about["units"]) == ("me", 0, "lognorm")
    assert about["as_batch"].tolist() == ["batch_2", "average", "batch_4"]


@pytest.mark.parametrize("model", ["me", "re"])
def test_a_cell_under_its_own_batch_is_its_reconstruction_bit_for_bit(run, model):
    found = project(run, "cell_type == 'type_1'", model=model)
    own = found[found.obs["is_own_batch"] & (found.obs["kind"] == "as_if")]
    again = found[(found.obs["kind"] == "reconstruction") & (found.obs["model"] == model)]
    assert own.n_obs > 50
    assert own.obs["cell"].tolist() == again.obs["cell"].tolist()
    np.testing.assert_array_equal(own.X, again.X)
    others = found[~found.obs["is_own_batch"] & (found.obs["kind"] == "as_if")]
    assert np.abs(others.X.reshape(own.n_obs, 3, -1) - own.X[:, None]).max(axis=(1, 2)).min() > 0.01


def test_measured_rows_are_log_normalised_counts_and_units_scale_all(run, atlas):
    found = project(run)
    in_model = project(run, units="model")
    counts = atlas.X.toarray()[[3, 1, 5]]
    totals = atlas.obs["medl_size_factor"].to_numpy()[[3, 1, 5], None]
    target_sum = run.model("me").vocabulary.transform.target_sum
    expected = np.log1p(counts * target_sum / totals)
    measured = found[found.obs["kind"] == "measured"]
    np.testing.assert_allclose(measured.X, expected, rtol=1e-5, atol=1e-6)
    scale = run.model("me").vocabulary.transform.scale
    np.testing.assert_allclose(in_model.X, found.X * scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(in_model.var["train_sd"], found.var["train_sd"] * scale, rtol=1e-5)
    fe, x = run.model("fe"), (expected * scale).astype(np.float32)
    own = found.obs["source_batch"].cat.codes.to_numpy(np.int32)[:: BESIDE + 4]
    by_fe = found[(found.obs["model"] == "fe")]
    made = fe.decode(fe.engine.encode(x, own), own) / scale
    np.testing.assert_allclose(by_fe.X, made, rtol=1e-3, atol=1e-3)


def test_cells_are_chosen_by_query_booleans_names_or_positions(run, atlas):
    query = "cell_type == 'type_2' and batch in ['batch_1', 'batch_3']"
    marked = ((atlas.obs["cell_type"] == "type_2")
              & atlas.obs["batch"].isin(["batch_1", "batch_3"]))  # fmt: skip
    names = atlas.obs_names[marked].tolist()
    expected = project(run, query, "batch_2", with_reconstructions=False)
    assert expected.obs["cell"].tolist() == names
    for cells in (marked, marked.to_numpy(), names, np.flatnonzero(marked)):
        found = project(run, cells, "batch_2", with_reconstructions=False)
        np.testing.assert_array_equal(found.X, expected.X)
    backwards = project(run, names[::-1], "batch_2", with_reconstructions=False)
    assert backwards.obs["cell"].tolist() == names[::-1]
    np.testing.assert_allclose(backwards.X, expected.X[::-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
def test_what_is_written_is_what_is_returned(run, tmp_path, suffix):
    expected = project(run, as_batch=("batch_2", "average"), draws=3, level=0.8)
    found = written(run, tmp_path / f"new/out{suffix}", as_batch=("batch_2", "average"),
                    draws=3, level=0.8)  # fmt: skip
    assert set(found.layers) - {None} == {"mean", "lower", "upper"}
    np.testing.assert_array_equal(found.X, expected.X)
    for name, values in expected.layers.items():
        np.testing.assert_array_equal(found.layers[name], values)
    assert found.obs.astype(str).equals(expected.obs.astype(str))
    assert found.uns["medl_scale_projection"]["draws"] == 3
    as_batch_2 = expected.obs["target_batch"].eq("batch_2") & (expected.obs["kind"] == "as_if")
    lower, upper = (expected.layers[name][as_batch_2] for name in ("lower", "upper"))
    assert (lower < upper).all()
    assert np.isnan(expected.layers["lower"][~as_batch_2]).all()


@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
def test_the_size_of_blocks_changes_nothing(run, tmp_path, monkeypatch, suffix):
    cells = "batch == 'batch_2'"
    whole = project(run, cells)
    monkeypatch.setattr("medl_scale.pipeline.projecting._BLOCK_BYTES", 40_000)
    monkeypatch.setattr("medl_scale.pipeline.projecting._CHUNK_BYTES", 7_000)
    found = written(run, tmp_path / f"out{suffix}", cells)
    np.testing.assert_allclose(found.X, whole.X, rtol=1e-5, atol=1e-5)


class Broken(SilentProgress):
    """Is interrupted as soon as there is something to tell."""

    def step(self, name, total, unit="cells"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
def test_an_interrupted_write_leaves_what_was_there(run, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    with pytest.raises(KeyboardInterrupt):
        written(run, out, progress=Broken())
    assert list(tmp_path.iterdir()) == []
    before = written(run, out)
    with pytest.raises(OutputExistsError, match="exists already"):
        written(run, out, (0,))
    with pytest.raises(KeyboardInterrupt):
        write_projection(run, out, [0], "all", ProjectConfig(), overwrite=True, progress=Broken())
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    after = ad.read_zarr(out) if suffix == ".zarr" else ad.read_h5ad(out)
    np.testing.assert_array_equal(after.X, before.X)


def test_a_projection_that_is_too_large_says_how_large_and_names_the_sketch(run, tmp_path):
    cells = np.arange(600)
    message = (
        r"600 cells under 4 batches are 4,200 rows of 80 genes: 0\.00125 GiB, and .* are allowed "
        r"in memory\. Choose fewer cells or batches, or write it to disk.* make a sketch"
    )
    with pytest.raises(ConfigError, match=message):
        project(run, cells, max_bytes=10**6)
    with pytest.raises(ConfigError, match=r"allowed on disk.*--max-gib.*sketch"):
        written(run, tmp_path / "out.zarr", cells, max_bytes=10**6)
    assert project(run, cells, max_bytes=4200 * 80 * 4).n_obs == 4200


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cells": "cell_tipe == 'T'"}, ConfigError, "'cell_tipe' is not defined.* Columns: .*'ba"),
        ({"cells": "cell_type =="}, ConfigError, "cannot be answered from obs of"),
        ({"cells": "medl_size_factor"}, ConfigError, "does not say yes or no of every cell"),
        ({"cells": "cell_type == 'T'"}, DataError, r"No cell .* cell_type \('type_1', 'type_2'"),
        ({"cells": ["cell_000", "x", "y"]}, DataError, "2 of 3 cells are not in .*: 'x', 'y'"),
        ({"cells": (600,)}, DataError, "between 0 and 599, .* got 600"),
        ({"cells": (-1,)}, DataError, "between 0 and 599, .* got -1"),
        ({"cells": (2, 2)}, DataError, "1 of the cells chosen are named more than once"),
        ({"cells": ()}, DataError, "at least one"),
        ({"cells": [True, False]}, DataError, "has 600 cells; got 2"),
        ({"cells": [False] * 600}, DataError, "No cell is marked true"),
        ({"as_batch": "batch_5"}, DataError, "no batch 'batch_5'. There are: 'batch_1', 'batch_2'"),
        ({"as_batch": ()}, ConfigError, "as_batch names no batch"),
        ({"model": "fe"}, ConfigError, "Model 'fe' has no random effects"),
        ({"model": "pca"}, ConfigError, "Model 'pca' has no random effects"),
        ({"model": "ae"}, RunError, "no finished model 'ae' of fold 0; finished: me, fe, re, pca"),
        ({"fold": 3}, RunError, "no finished model 'me' of fold 3; finished: none"),
        ({"model": "mee"}, ConfigError, "model must be one of 'me',"),
        ({"draws": 1}, ConfigError, "at least 2 for an interval"),
        ({"level": 1.0}, ConfigError, r"level must be in \(0, 1\)"),
        ({"units": "counts"}, ConfigError, "units must be one of 'lognorm', 'model'"),
    ],
)
def test_what_cannot_be_projected_is_named(run, options, error, message):
    with pytest.raises(error, match=message):
        project(run, **options)


def test_the_atlas_must_be_there_and_the_run_s_own(run, atlas, tmp_path):
    lost = tmp_path / "run"
    shutil.copytree(run.path, lost)
    environment = (lost / "environment.json").read_text()
    (lost / "environment.json").write_text(environment.replace(run.atlas_path, "/nowhere.zarr"))
    moved = Run.load(lost)
    with pytest.raises(
        RunError, match=r"made from the atlas /nowhere.zarr, which is not there. .* --atlas"
    ):
        project(moved)
    found = project(moved, atlas=atlas)
    np.testing.assert_allclose(found.X, project(run).X, rtol=1e-6, atol=1e-6)
    with pytest.raises(
        AtlasError, match=r"genes of .* are not those of .* 79, the model 80, of whic"
    ):
        project(moved, atlas=atlas[:, 1:].copy())
    with pytest.raises(ConfigError, match=r"OUT\.h5ad or OUT\.zarr; got 'out\.csv'"):
        written(run, tmp_path / "out.csv")

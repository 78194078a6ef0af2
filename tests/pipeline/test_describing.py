import shutil

import pytest

from medl_scale import info, prepare
from medl_scale.errors import AtlasError, RunError
from tests.tiny import KEYS, MODELS, N_CELLS


def test_an_atlas_counts_what_it_holds(made):
    found = info(made.atlas)
    assert found["n_obs"] == sum(found["batches"].values()) == sum(found["labels"].values())
    assert found["bytes"] > 10_000
    assert set(found["latents"]) == KEYS
    assert found["latents"]["X_medl_me"]["model"] == "me"


def test_cells_without_a_label_are_counted_as_such(raw, tmp_path):
    labels = raw.obs["cell_type"].astype(str)
    labels.iloc[:7] = "not known"
    raw.obs["cell_type"] = labels
    options = {"labels_key": "cell_type", "unlabeled_category": "not known", "progress": False}
    prepare(raw, tmp_path / "atlas.zarr", batch_key="batch", **options)
    found = info(tmp_path / "atlas.zarr")
    assert found["labels"]["not known"] == 7
    assert sum(found["labels"].values()) == N_CELLS
    assert found["latents"] == {}


def test_a_run_tells_how_each_fit_stands(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    folder = run / "models" / "fe" / "fold_0"
    (folder / "done.json").unlink()
    (run / "models" / "pca" / "fold_0" / "done.json").unlink()
    (run / "models" / "pca" / "fold_0" / "status.json").unlink()
    found = {fit["model"]: fit for fit in info(run)["fits"]}
    assert list(found) == list(MODELS)
    assert found["me"]["state"] == "done"
    assert found["fe"]["state"] == "unfinished (done)"
    assert found["pca"]["state"] == "not started"
    assert found["me"]["relative_error"] > 0
    assert found["me"]["peak_memory_bytes"] > 2**20

    (folder / "error.txt").write_text("Traceback\n  somewhere\nDataError: no labels\n")
    found = {fit["model"]: fit for fit in info(run)["fits"]}
    assert found["fe"]["state"] == "failed"
    assert found["fe"]["error"] == "DataError: no labels"


def test_what_is_neither_is_said_to_be(made, tmp_path):
    with pytest.raises(AtlasError, match="is neither a prepared atlas nor a run"):
        info(tmp_path)
    with pytest.raises(AtlasError, match="is neither a prepared atlas nor a run"):
        info(made.raw)
    (tmp_path / "config.toml").write_text("[tool.other]\n")
    with pytest.raises(RunError, match=r"its config\.toml has no section \[fit\]"):
        info(tmp_path)

"""The what-if check of a run, against projections of its cells one by one."""

from __future__ import annotations

import io

import anndata as ad
import numpy as np
import pytest

from medl_scale import Run
from medl_scale.errors import AtlasError, ConfigError, DataError, RunError
from medl_scale.pipeline.checking import check_what_if
from medl_scale.progress import JsonProgress

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")

LEAST = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tests import tiny

    return Run.load(tiny.made(tmp_path_factory).run)


@pytest.fixture(scope="module")
def atlas(run):
    return ad.read_zarr(run.atlas_path)


@pytest.fixture(scope="module")
def check(run):
    return check_what_if(run, min_cells=LEAST)


def test_errors_are_those_of_projecting_the_test_cells(run, atlas, check):
    assert check.pairs["model"].unique().tolist() == ["me", "re"]
    n_test = int(atlas.uns["medl_scale"]["part_bounds"][1])
    obs = atlas.obs.iloc[:n_test]
    counts = obs.groupby(["cell_type", "batch"], observed=False).size()
    enough = (counts >= LEAST).groupby("cell_type", observed=False).sum()
    assert len(check.pairs) == 2 * int((enough * (enough - 1)).sum())
    for row in check.pairs.iloc[::11].itertuples():
        where = [
            np.flatnonzero((obs["cell_type"] == row.label) & (obs["batch"] == batch))
            for batch in (row.source, row.target)
        ]
        assert (row.n_source, row.n_target) == tuple(map(len, where))
        measured = [_measured(run, cells) for cells in where]
        as_if = run.project(
            where[0], row.target, model=row.model, with_reconstructions=False, progress=False
        )
        start, truth = (values.mean(axis=0, dtype=np.float64) for values in measured)
        error = np.mean((as_if.X.mean(axis=0) - truth) ** 2) / np.mean((start - truth) ** 2)
        assert row.error == pytest.approx(error, rel=1e-3)


def _measured(run, cells):
    """Return log-normalised expression of cells as the atlas holds it."""
    found = run.project(cells, "batch_1", progress=False)
    return found[found.obs["kind"] == "measured"].X


def test_a_type_kept_from_training_in_a_batch_is_called_unseen(run, atlas):
    bounds = np.asarray(atlas.uns["medl_scale"]["part_bounds"])
    part = np.searchsorted(bounds, np.arange(atlas.n_obs), side="right") - 1
    counts = atlas.obs[part == 0].groupby(["cell_type", "batch"], observed=True).size()
    label, batch = counts.idxmax()
    held = ((atlas.obs["cell_type"] == label) & (atlas.obs["batch"] == batch)).to_numpy()
    less = atlas[~held | (part == 0)].copy()
    kept = part[~held | (part == 0)]
    less.uns["medl_scale"]["part_bounds"] = np.searchsorted(kept, np.arange(len(bounds)))
    check = check_what_if(run, atlas=less, model="me", min_cells=LEAST)
    unseen = check.pairs[~check.pairs["seen"]]
    assert set(zip(unseen["label"], unseen["target"], strict=True)) == {(label, batch)}
    assert (unseen["n_train"] == 0).all()
    assert "me, where it was not: error" in check.words


def test_progress_counts_train_and_test_cells_once(run, atlas):
    told = io.StringIO()
    check_what_if(run, model="me", min_cells=LEAST, progress=JsonProgress(told))
    _, n_test, n_not_train, *_ = atlas.uns["medl_scale"]["part_bounds"]
    n_read = atlas.n_obs - (n_not_train - n_test)
    assert f'"step": "What-if check", "done": {n_read}' in told.getvalue()


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"model": "ae"}, RunError, r"no finished model 'ae' of fold 0; finished: me, fe, re, pca"),
        (
            {"model": "fe"},
            ConfigError,
            r"No model of fold 0 of .*: none has random effects; finished: me, fe",
        ),
        ({"fold": 3}, ConfigError, r"No model of fold 3 of .*; finished: none\. Fit 'me'"),
        ({"min_cells": 1}, ConfigError, r"min_cells must be at least 2; got 1"),
        ({"min_cells": 300}, DataError, r"300 test cells in each of two .* second batch are \d+\."),
        ({"atlas": "nowhere.zarr"}, RunError, r"atlas nowhere\.zarr, which is not there"),
    ],
)
def test_what_cannot_be_checked_is_told(run, settings, error, text):
    with pytest.raises(error, match=text):
        check_what_if(run, **settings)


def test_an_atlas_without_labels_or_with_other_genes_is_told(run, atlas):
    bare = atlas.copy()
    bare.uns["medl_scale"] |= {"labels_key": "", "label_levels": np.array([], dtype=str)}
    with pytest.raises(DataError, match=r"the atlas has no labels\. Prepare it with --labels-key"):
        check_what_if(run, atlas=bare)
    renamed = atlas.copy()
    renamed.var_names = [f"other_{i}" for i in range(atlas.n_vars)]
    with pytest.raises(AtlasError, match=r"genes of the AnnData are not those of the run's model"):
        check_what_if(run, atlas=renamed)

"""Calibrated intervals of a run: what they are learnt from, where they are kept, and who gets them."""

from __future__ import annotations

import os
import shutil

import anndata as ad
import numpy as np
import pytest

from medl_scale import Run
from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret.calibration import calibrate
from medl_scale.pipeline.calibrating import CALIBRATION_FILE, calibration_of
from medl_scale.pipeline.held_out import held_out_residuals
from tests import tiny

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A copy of the tiny run, in which calibrations may be kept."""
    made = tiny.made(tmp_path_factory)
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    return Run.load(shutil.copytree(made.run, folder))


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    return ad.read_zarr(tiny.made(tmp_path_factory).atlas)


@pytest.fixture(scope="module")
def kept(run, atlas):
    return calibration_of(run, atlas=atlas)


def project(run, atlas, cells=(0, 1), as_batch=("batch_1", "batch_2"), **options):
    return run.project(list(cells), as_batch, atlas=atlas, progress=False, **options)


def test_residuals_are_projected_less_measured_means_of_validation_cells(run, atlas):
    found = held_out_residuals(run, model="me", fold=0, atlas=atlas)
    bounds = atlas.uns["medl_scale"]["part_bounds"]
    obs = atlas.obs.iloc[bounds[1] : bounds[2]]
    counts = obs.groupby(["cell_type", "batch"], observed=True).size()
    # The first move of the first type that two batches have 10 cells of.
    enough = counts[counts >= 10]
    label = next(
        one for one in enough.index.levels[0] if (enough.index.get_level_values(0) == one).sum() > 1
    )
    source, target = enough[label].index[:2]
    means = {}
    for batch in (source, target):
        own = bounds[1] + np.flatnonzero((obs["cell_type"] == label) & (obs["batch"] == batch))
        made = project(run, atlas, own, (source, target), units="model")
        rows = made.obs["kind"] == "as_if"
        means[batch] = {
            "measured": made.X[made.obs["kind"] == "measured"],
            **{to: made.X[rows & (made.obs["target_batch"] == to)] for to in (source, target)},
        }
    measured = means[target]["measured"]
    error = means[source][target].mean(axis=0) - measured.mean(axis=0)
    np.testing.assert_allclose(found.projection.error[0], error, atol=1e-5)
    noise = measured.var(axis=0, ddof=1) / len(measured)
    np.testing.assert_allclose(found.projection.noise_variance[0], noise, rtol=1e-3, atol=1e-9)
    own = means[source]["measured"]
    moved = means[source][target].mean(axis=0) - means[source][source].mean(axis=0)
    error = moved - (measured.mean(axis=0) - own.mean(axis=0))
    np.testing.assert_allclose(found.difference.error[0], error, atol=1e-5)
    noise += own.var(axis=0, ddof=1) / len(own)
    np.testing.assert_allclose(found.difference.noise_variance[0], noise, rtol=1e-3, atol=1e-9)
    drawn = project(run, atlas, [int(bounds[1] + np.flatnonzero(
        (obs["cell_type"] == label) & (obs["batch"] == source))[0])], (target,), draws=200,
        units="model", intervals="model", with_reconstructions=False)  # fmt: skip
    width = (drawn.layers["upper"] - drawn.layers["lower"])[0]
    assert np.corrcoef(width, found.projection.posterior_sd[0])[0, 1] > 0.8


def test_a_calibration_is_made_once_and_again_for_another_model(run, atlas, kept):
    residuals = held_out_residuals(run, model="me", fold=0, atlas=atlas)
    assert kept.projection == calibrate(residuals.projection)
    assert kept.difference == calibrate(residuals.difference)
    assert (kept.n_pairs, kept.n_groups) == (len(residuals.projection.error), residuals.n_groups)
    path = run.path / "models" / "me" / "fold_0" / CALIBRATION_FILE
    changed = path.read_text().replace('"validation"', '"other"')
    path.write_text(changed)
    assert calibration_of(run, atlas="nowhere.zarr").split == "other"
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path.with_name("model.npz"), ns=(later, later))
    assert calibration_of(run, atlas=atlas) == kept
    os.utime(path.with_name("model.npz"), ns=(0, 0))


def test_intervals_of_projections_are_widened_about_their_means_and_say_so(run, atlas, kept):
    own = project(run, atlas, draws=4, level=0.8, intervals="model")
    wide = project(run, atlas, draws=4, level=0.8)
    factor = kept.factor(0.8)
    assert factor > 1
    np.testing.assert_array_equal(wide.layers["mean"], own.layers["mean"])
    for end in ("lower", "upper"):
        expected = own.layers["mean"] + factor * (own.layers[end] - own.layers["mean"])
        np.testing.assert_allclose(wide.layers[end], expected, rtol=1e-5, atol=1e-6)
    told = [one.uns["medl_scale_projection"]["intervals"] for one in (own, wide)]
    assert told[0].startswith("the model's own")
    assert told[1] == kept.words(0.8)
    assert project(run, atlas).uns["medl_scale_projection"]["intervals"] == "none"


def test_the_command_line_takes_the_models_own_intervals(run, atlas, tmp_path):
    made = tiny.medl(
        "project", run.path, "--cells", "batch == 'batch_1'", "--as-batch", "batch_2", "--draws", 2,
        "--intervals", "model", "-o", tmp_path / "out.h5ad", "--atlas", run.atlas_path, "--quiet",
    )  # fmt: skip
    assert made.code == 0, made.err
    told = ad.read_h5ad(tmp_path / "out.h5ad").uns["medl_scale_projection"]["intervals"]
    assert told.startswith("the model's own")


def test_without_labels_intervals_are_the_models_own_and_calibrated_ones_refused(run, atlas):
    (run.path / "models" / "me" / "fold_0" / CALIBRATION_FILE).unlink(missing_ok=True)
    bare = atlas.copy()
    bare.uns["medl_scale"] |= {"labels_key": "", "label_levels": np.array([], dtype=str)}
    made = project(run, bare, draws=2, with_reconstructions=False)
    told = made.uns["medl_scale_projection"]["intervals"]
    assert "the model's own" in told
    assert "there are 0. Prepare the atlas with --labels-key" in told
    with pytest.raises(DataError, match=r"4 types in batches are needed, and there are 0"):
        project(run, bare, draws=2, intervals="calibrated")
    with pytest.raises(ConfigError, match=r"'re' are calibrated with both sides switched"):
        project(run, atlas, model="re", switch="decoder", draws=2, intervals="calibrated")
    with pytest.raises(
        ConfigError, match=r"intervals must be one of 'auto', 'calibrated', 'model'"
    ):
        project(run, atlas, draws=2, intervals="wide")

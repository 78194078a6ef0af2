"""The sketch of a run is what decoding every cell gives, and comes near the truth."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

import medl_scale
from medl_scale.errors import (
    ConfigError,
    DataError,
    LatentsIncompleteError,
    RunError,
    StoreError,
)
from medl_scale.pipeline.run import Run
from medl_scale.pipeline.sketching import open_sketch, sketch
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.ground_truth import LIBRARY_LOG_SD, ground_truth
from medl_scale.store.latents import write_latent_array
from medl_scale.store.simulate import simulate
from medl_scale.stream import blocks, open_source
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of the tiny atlas."""
    return Run(tiny.made(tmp_path_factory).run)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """A sketch of all its cells."""
    return sketch(run, tmp_path_factory.mktemp("sketch") / "all.zarr", progress=False)


def test_the_sketch_of_a_run_is_what_projecting_every_cell_gives(run, whole):
    columns, atlas = read_columns(run.atlas_path), describe(run.atlas_path)
    model, latent = run.model("me"), run.latent("me")
    counts = pd.crosstab(columns.label_codes, columns.batch_codes).to_numpy()
    np.testing.assert_array_equal(whole.n_cells, counts)
    assert whole.axes.genes == model.vocabulary.var_names
    for label, source in np.argwhere(counts > 0)[::2]:
        cells = latent[(columns.label_codes == label) & (columns.batch_codes == source)]
        names = atlas.label_levels[label], atlas.batch_levels[source]
        for code, target in enumerate(atlas.batch_levels):
            decoded = model.decode(cells, np.full(len(cells), code, np.int32)).astype(np.float64)
            decoded /= model.vocabulary.transform.scale
            moments = whole.moments(*names, target)
            np.testing.assert_allclose(moments["mean"], decoded.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(moments["variance"], decoded.var(axis=0), atol=1e-5)


def test_a_sketch_of_some_batches_and_of_held_out_cells(run, whole, tmp_path):
    levels = whole.axes.targets
    some = sketch(run, tmp_path / "some.zarr", as_batch=levels[2:0:-1], progress=False)
    assert some.axes.targets == (levels[2], levels[1])
    label = whole.n_cells[levels[1]].idxmax()
    pd.testing.assert_frame_equal(
        some.moments(label, levels[1], levels[2]), whole.moments(label, levels[1], levels[2])
    )
    held = sketch(run, tmp_path / "held.zarr", split="test", progress=False)
    split = describe(run.atlas_path).split(run.folds[0])
    assert held.n_cells.to_numpy().sum() == split.test.stop - split.test.start
    assert held.axes.provenance["split"] == "test"


def test_cells_without_labels_are_a_type_of_their_own(run, whole, tmp_path):
    import anndata

    adata = anndata.read_zarr(run.atlas_path)
    key = describe(run.atlas_path).labels_key
    adata.obs[key] = adata.obs[key].cat.add_categories("Unknown")
    adata.obs.loc[adata.obs_names[:50], key] = "Unknown"
    made = sketch(run, tmp_path / "s.zarr", atlas=adata, progress=False)
    assert made.axes.labels == (*whole.axes.labels, "Unknown")
    assert made.n_cells.loc["Unknown"].sum() == 50


def test_a_sketch_is_kept_in_its_run(run, tmp_path):
    own = shutil.copytree(run.path, tmp_path / "run")
    with pytest.raises(RunError, match=r"There is no sketch at .*me_fold_0\.zarr"):
        open_sketch(own)
    made = sketch(own, atlas=run.atlas_path, progress=False)
    assert open_sketch(own).path == made.path == own / "sketches" / "me_fold_0.zarr"
    shutil.rmtree(own / "latents.zarr" / "me")
    with pytest.raises(LatentsIncompleteError, match=r"no latent of model 'me' fold 0\. Finish"):
        sketch(own, atlas=run.atlas_path, overwrite=True, progress=False)


def test_a_torn_latent_and_one_of_other_cells_are_told(run, tmp_path):
    own = shutil.copytree(run.path, tmp_path / "run")
    chunk = next(path for path in (own / "latents.zarr" / "me").rglob("c/*/*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"latent .* is truncated: 1 of its files"):
        sketch(own, atlas=run.atlas_path, progress=False)
    few = [(slice(0, 10), np.zeros((10, 2), np.float32))]
    path = own / "latents.zarr" / "me" / "fold_0"
    write_latent_array(path, few, n_obs=10, n_latent=2, provenance={})
    with pytest.raises(RunError, match=r"latents of .* have 10\. Give the atlas that the run"):
        sketch(own, atlas=run.atlas_path, progress=False)


def test_an_atlas_of_other_batches_is_told(run, tmp_path):
    import anndata

    adata = anndata.read_zarr(run.atlas_path)
    levels = [f"other_{i}" for i in range(len(describe(run.atlas_path).batch_levels))]
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories(levels)
    adata.uns["medl_scale"]["batch_levels"] = np.array(levels)
    with pytest.raises(RunError, match=r"atlas in memory has other batches than the run"):
        sketch(run, tmp_path / "s.zarr", atlas=adata, progress=False)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"model": "fe"}, ConfigError, r"'fe' decodes every batch alike.* Sketch 'me'"),
        ({"model": "pca"}, ConfigError, r"'pca' decodes every batch alike"),
        (
            {"model": "re"},
            ConfigError,
            r"encoder of 're' reads the batch.* Sketch 'me', or project",
        ),
        ({"as_batch": ["batch_9"]}, DataError, r"no batch 'batch_9'\. There are: 'batch_1', "),
        ({"as_batch": []}, ConfigError, r"must name batches once each; got \[\]"),
        ({"as_batch": ["batch_1"] * 2}, ConfigError, r"once each; got \['batch_1', 'batch_1'\]"),
        ({"split": "half"}, ConfigError, r"'all', 'train', 'val' or 'test'; got 'half'"),
        ({"atlas": "nowhere.zarr"}, RunError, r"atlas nowhere\.zarr, which is not there"),
        ({"fold": 7}, RunError, r"holds no finished model"),
    ],
)
def test_what_cannot_be_sketched_is_told(run, tmp_path, settings, error, text):
    with pytest.raises(error, match=text):
        sketch(run, tmp_path / "s.zarr", progress=False, **settings)
    assert not list(tmp_path.iterdir())


def true_means(truth, n_draws: int, target_sum: float) -> np.ndarray:
    """Mean log-normalised expression, (n_batches, n_labels, n_genes), of cells drawn from the truth."""
    rng = np.random.default_rng(0)
    n_batches, n_labels = truth.type_shares.shape
    means = np.empty((n_batches, n_labels, truth.dispersion.size))
    for batch, label in np.ndindex(n_batches, n_labels):
        library = truth.batch_library[batch] * np.exp(
            LIBRARY_LOG_SD * rng.normal(size=(n_draws, 1))
        )
        rate = truth.batch_scale[batch] * truth.type_profile[label] + truth.batch_shift[batch]
        noise = rng.gamma(truth.dispersion, 1 / truth.dispersion, (n_draws, truth.dispersion.size))
        counts = rng.poisson(library * rate * noise)
        totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        means[batch, label] = np.log1p(counts * (target_sum / totals)).mean(axis=0)
    return means


@pytest.mark.slow  # a fit of 40 epochs
@pytest.mark.parametrize("seed", [1])
def test_held_out_cells_move_as_the_truth_says_and_better_than_batch_means(tmp_path, seed):
    n_genes, n_batches, n_labels = 300, 5, 4
    sizes = {"n_genes": n_genes, "n_batches": n_batches, "n_labels": n_labels, "seed": seed}
    simulate(tmp_path / "raw.zarr", n_cells=6000, **sizes)
    atlas = tmp_path / "atlas.zarr"
    columns_of = {"batch_key": "batch", "labels_key": "cell_type"}
    medl_scale.prepare(tmp_path / "raw.zarr", atlas, **columns_of, n_top_genes=None, progress=False)
    fit = {"models": ("me",), "folds": (0,), "max_epochs": 40}
    run = medl_scale.fit(atlas, output=tmp_path / "run", **fit, progress=False)
    held_out = sketch(run, split="test", progress=False)
    trained_on = sketch(run, tmp_path / "train.zarr", split="train", progress=False).n_cells

    def number(name: str) -> int:
        return int(name.rsplit("_", 1)[1]) - 1

    described, columns = describe(atlas), read_columns(atlas)
    places = [number(gene) for gene in held_out.axes.genes]
    truth = true_means(ground_truth(**sizes), 10_000, described.target_sum)[..., places]
    transform, train = run.model("me").vocabulary.transform, described.split(0).train
    sums = np.zeros((n_batches, len(places)))
    with open_source(atlas) as source, blocks(source, columns, train, transform, 4096) as made:
        for block in made:
            np.add.at(sums, block.batch_codes, block.x / transform.scale)
    levels = described.batch_levels
    batch_means = dict(zip(levels, sums / trained_on.sum().to_numpy()[:, None], strict=True))
    found = []
    for label, source in np.argwhere(held_out.axes.n_cells >= 10):
        name, origin = held_out.axes.labels[label], levels[source]
        for target in levels:
            if target == origin:
                continue
            table = held_out.moved_genes(name, origin, target).loc[list(held_out.axes.genes)]
            true = truth[number(target), number(name)] - truth[number(origin), number(name)]
            additive = batch_means[target] - batch_means[origin]
            seen = trained_on.loc[name, target] >= 10
            for method, shift in {"me": table["shift"].to_numpy(), "additive": additive}.items():
                correlation = np.corrcoef(shift, true)[0, 1]
                error = np.mean((shift - true) ** 2) / np.mean(true**2)
                found.append((seen, method, correlation, error))
    columns_found = ["seen", "method", "correlation", "relative_mse"]
    figures = pd.DataFrame(found, columns=columns_found).groupby(["seen", "method"]).mean()
    print(figures)
    assert figures.loc[(True, "me"), "correlation"] >= 0.9
    for seen in (True, False):
        ours, theirs = figures.loc[(seen, "me")], figures.loc[(seen, "additive")]
        assert ours["correlation"] > theirs["correlation"]
        assert ours["relative_mse"] < theirs["relative_mse"]

"""A run whose `me` decodes an embedding from elsewhere: projected, sketched, and refused without it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import medl_scale
from medl_scale.errors import DataError, RunError
from medl_scale.pipeline.frozen import FrozenLatents
from medl_scale.store.atlas import describe
from tests import tiny

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """The tiny atlas with an embedding that is not standardised."""
    made = tiny.made(tmp_path_factory)
    adata = ad.read_zarr(made.atlas)
    adata.obsm["X_other"] = 5.0 * adata.obsm["X_pca"][:, :6] + 2.0
    return adata


@pytest.fixture(scope="module")
def run(atlas, tmp_path_factory):
    """A run of `me` on that embedding."""
    return medl_scale.fit(
        atlas, output=tmp_path_factory.mktemp("frozen") / "run", models=("me",), fe_rep="X_other",
        max_epochs=1, evaluate=False, write_latents=False, progress=False,
    )  # fmt: skip


def standardised(atlas):
    """The embedding as the model reads it."""
    latent = np.asarray(atlas.obsm["X_other"], np.float64)
    train = np.concatenate([latent[rows] for rows in describe(atlas).split(0).train])
    return ((latent - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)


def test_cells_are_decoded_from_their_embedding(run, atlas):
    cells = [3, 200, 1]
    found = run.project(cells, ["batch_2", "average"], draws=3, atlas=atlas, progress=False)
    model, latent = run.model("me"), standardised(atlas)[cells]
    scale = model.vocabulary.transform.scale
    for target, code in (("batch_2", 1), ("average", -1)):
        rows = found[(found.obs["kind"] == "as_if") & (found.obs["target_batch"] == target)]
        expected = model.decode(latent, np.full(3, code, np.int32)) / scale
        np.testing.assert_allclose(rows.X, expected, rtol=1e-4, atol=1e-4)
    own = run.project(cells, "all", atlas=atlas, progress=False)
    as_own = own[own.obs["is_own_batch"] & (own.obs["kind"] == "as_if")]
    np.testing.assert_array_equal(as_own.X, own[own.obs["kind"] == "reconstruction"].X)
    assert np.isfinite(found.layers["lower"][found.obs["target_batch"] == "batch_2"][-1]).all()


def test_its_sketch_is_what_projecting_gives(run, atlas, tmp_path):
    made = run.sketch(tmp_path / "s.zarr", atlas=atlas, progress=False)
    query = "cell_type == 'type_1' and batch == 'batch_3'"
    moments = made.moments("type_1", "batch_3", "batch_2")
    projected = run.project(query, "batch_2", atlas=atlas, progress=False,
                            with_reconstructions=False)  # fmt: skip
    np.testing.assert_allclose(moments["mean"], projected.X.mean(axis=0), atol=1e-4)
    assert medl_scale.open_sketch(made.path).n_cells.equals(made.n_cells)


def test_cells_without_the_embedding_are_refused(run, atlas):
    bare, other, torn = atlas.copy(), atlas.copy(), atlas.copy()
    del bare.obsm["X_other"]
    other.obsm["X_other"] = other.obsm["X_other"][:, :4]
    torn.obsm["X_other"] = torn.obsm["X_other"].copy()
    torn.obsm["X_other"][3, 0] = np.nan
    for adata, message in (
        (bare, r"decodes the embedding 'X_other' \(fe_rep\) and has no encoder: .* has: .*'X_pca'"),
        (other, r"has shape \(600, 4\); model 'me' of .* decodes \(600, 6\)"),
        (torn, r"must be finite numbers; some cells have NaN"),
    ):
        with pytest.raises(DataError, match=message):
            run.project([3], "all", atlas=adata, progress=False)
    with pytest.raises(DataError, match="decodes the embedding 'X_other'"):
        run.sketch(run.path / "none.zarr", atlas=bare, progress=False)
    with pytest.raises(RunError, match=r"decode an embedding from elsewhere \(fe_rep\)"):
        run.embed(bare, progress=False)


def test_latents_on_disk_come_in_any_order_and_in_blocks(tmp_path, monkeypatch):
    import zarr

    monkeypatch.setattr("medl_scale.pipeline.frozen.BLOCK_ROWS", 7)
    values = np.random.default_rng(0).normal(3, 2, (40, 3)).astype(np.float32)
    array = zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(16, 3))
    train = (slice(0, 9), slice(20, 40))
    kept = np.r_[values[:9], values[20:]]
    expected = (values - kept.mean(axis=0)) / kept.std(axis=0)
    for source in (array, values):
        latents = FrozenLatents(source, train)
        rows = np.array([39, 2, 2, 17])
        np.testing.assert_allclose(latents.of(rows), expected[rows], rtol=1e-4, atol=1e-5)
        whole = np.concatenate([block for _, block in latents.blocks()])
        np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-5)

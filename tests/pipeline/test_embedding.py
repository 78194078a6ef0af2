import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from medl_scale import Run, fit, prepare
from medl_scale.errors import DataError, RunError
from tests.tiny import KEYS, N_CELLS

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")


@pytest.fixture
def run(made):
    return Run.load(made.run)


def embed(run, adata, models=("re", "pca"), **options):
    return run.embed(adata, models=models, progress=False, **options)


def test_the_training_cells_get_their_latents_again(made, run, raw):
    embedded = run.embed(raw, progress=False)
    atlas = ad.read_zarr(made.atlas)
    order = np.argsort(atlas.obs["medl_original_row"].to_numpy())
    assert set(embedded.obsm) == KEYS
    for key in KEYS:
        np.testing.assert_allclose(embedded.obsm[key], atlas.obsm[key][order], atol=1e-5)
        np.testing.assert_array_equal(raw.obsm[key], embedded.obsm[key])
    assert embedded.obs.equals(raw.obs)
    assert embedded.uns["medl_scale"] == {"run": str(made.run), "fold": 0}


def test_genes_are_matched_by_name_and_others_count_as_measured(run, raw):
    expected = embed(run, raw.copy())
    order = np.random.default_rng(0).permutation(raw.n_vars)
    shuffled = embed(run, raw[:, order].copy())
    # Genes the model does not know belong to a cell's total, as when the atlas was prepared.
    known = np.asarray(raw.X.sum(axis=1)).ravel()
    more = ad.AnnData(
        sparse.csr_matrix(np.column_stack([raw.X.toarray(), known])),
        obs=raw.obs,
        var={"names": [*raw.var_names, "unknown gene"]},
    )
    more.var_names = more.var["names"]
    diluted = embed(run, more)
    for key in expected.obsm:
        np.testing.assert_array_equal(shuffled.obsm[key], expected.obsm[key])
        assert np.abs(diluted.obsm[key] - expected.obsm[key]).max() > 0.01


@pytest.mark.parametrize("layout", ["csc", "dense", "layer", "path"])
def test_the_layout_of_the_matrix_does_not_matter(run, raw, tmp_path, layout):
    expected = embed(run, raw.copy())
    new, layer = raw.copy(), None
    if layout == "csc":
        new.X = sparse.csc_matrix(raw.X)
    elif layout == "dense":
        new.X = raw.X.toarray().astype(np.float64)
    elif layout == "layer":
        new.layers["counts"], layer = raw.X.copy(), "counts"
        new.X = sparse.csr_matrix(raw.shape, dtype=np.float32)
    else:
        new.write_zarr(tmp_path / "new.zarr")
        new = tmp_path / "new.zarr"
    embedded = embed(run, new, layer=layer)
    for key in expected.obsm:
        np.testing.assert_array_equal(embedded.obsm[key], expected.obsm[key])


def test_missing_genes_count_as_zero_and_are_counted(run, raw):
    part = raw[:, 20:].copy()
    with pytest.warns(
        UserWarning, match=r"20 of the model's 80 genes are missing and count as zero,"
    ):
        embedded = embed(run, part)
    padded = raw.X.toarray()
    padded[:, :20] = 0
    whole = ad.AnnData(sparse.csr_matrix(padded), obs=raw.obs, var=raw.var)
    expected = embed(run, whole)
    for key in expected.obsm:
        np.testing.assert_allclose(embedded.obsm[key], expected.obsm[key], atol=1e-6)


def test_unknown_batches_take_the_prior_mean_and_are_listed(run, raw):
    expected = embed(run, raw.copy())
    batch = raw.obs["batch"].astype(str).replace({"batch_2": "new", "batch_3": "newer"})
    raw.obs["batch"] = batch
    with pytest.warns(
        UserWarning, match=r"2 batches are unknown to the run .* effects: 'new', 'newer'"
    ):
        embedded = embed(run, raw)
    known = batch.isin(["batch_1", "batch_4"]).to_numpy()
    key = "X_medl_re"
    np.testing.assert_array_equal(embedded.obsm[key][known], expected.obsm[key][known])
    assert np.abs(embedded.obsm[key][~known] - expected.obsm[key][~known]).max() > 1e-4

    del raw.obs["batch"]
    with pytest.warns(
        UserWarning, match=r"obs has no column 'batch': every cell takes the prior mean"
    ):
        nobody = embed(run, raw)
    np.testing.assert_allclose(nobody.obsm[key][~known], embedded.obsm[key][~known], atol=1e-6)


def test_me_and_fe_do_not_look_at_the_batch_of_a_new_cell(run, raw):
    expected = embed(run, raw.copy(), ("me", "fe"))
    raw.obs["batch"] = "new"
    with pytest.warns(UserWarning, match="1 batches are unknown to the run"):
        embedded = embed(run, raw, ("me", "fe"))
    for key in expected.obsm:
        np.testing.assert_array_equal(embedded.obsm[key], expected.obsm[key])


def test_a_handful_of_cells_is_enough(run, raw):
    expected = embed(run, raw.copy())
    one = embed(run, raw[[17]].copy())
    for key in expected.obsm:
        np.testing.assert_allclose(one.obsm[key], expected.obsm[key][[17]], atol=1e-5)


def test_cells_that_cannot_be_embedded_are_refused(run, raw):
    empty = raw.copy()
    counts = raw.X.toarray()
    counts[[3, 7]] = 0
    empty.X = sparse.csr_matrix(counts)
    with pytest.raises(
        DataError, match=r"2 cells of AnnData 1 have no counts at all\. Remove them\."
    ):
        embed(run, empty)
    logarithms = raw.copy()
    logarithms.X = raw.X.astype(np.float32).log1p()
    with pytest.raises(
        DataError, match="counts must be non-negative integers; AnnData 1 has values"
    ):
        embed(run, logarithms)
    renamed = raw.copy()
    renamed.var_names = [f"ENSG{i}" for i in range(raw.n_vars)]
    with pytest.raises(DataError, match=r"None of the 80 genes is among the model's 80: .*'ENSG0'"):
        embed(run, renamed)
    assert "X_pca" not in empty.obsm


def test_models_must_be_there_and_able_to_embed(made, run, raw, tmp_path):
    with pytest.raises(
        RunError, match=r"no finished model ae of fold 0; finished: me, fe, re, pca\."
    ):
        embed(run, raw, ("pca", "ae"))
    decoder = fit(made.atlas, output=tmp_path / "run", models="me", fe_rep="X_pca", max_epochs=1,
                  write_latents=False, progress=False, evaluate=False)  # fmt: skip
    with pytest.raises(
        RunError, match=r"decode an embedding from elsewhere \(fe_rep\) and cannot embed"
    ):
        decoder.embed(raw, progress=False)


def test_logarithms_are_embedded_as_they_were_prepared(raw, tmp_path):
    totals = np.asarray(raw.X.sum(axis=1))
    raw.X = sparse.csr_matrix(np.log1p(raw.X.toarray() / totals * 1e4).astype(np.float32))
    for units in ("lognorm", "log2p1"):
        atlas = tmp_path / f"{units}.zarr"
        prepare(raw, atlas, batch_key="batch", input_units=units, min_cells=1, progress=False)
        run = fit(
            atlas, output=tmp_path / units, models="pca", n_latent=4, progress=False, evaluate=False
        )
        order = np.argsort(ad.read_zarr(atlas).obs["medl_original_row"].to_numpy())
        again = run.embed(raw.copy(), progress=False).obsm["X_pca"]
        assert again.shape == (N_CELLS, 4)
        np.testing.assert_allclose(again, run.latent("pca")[order], atol=1e-5)

"""The genes chosen are scanpy's, on real sets and on random ones."""

import numpy as np
import pytest

from medl_scale.errors import DataError
from medl_scale.store.atlas import var_names
from medl_scale.store.hvg import rank_by_dispersion
from medl_scale.store.prepare import prepare
from tests.store.counts import config, make_counts, scanpy_genes

FLAVORS = ("seurat", "cell_ranger", "seurat_v3")


def chosen(tmp_path, source, **changes):
    output = tmp_path / "atlas.zarr"
    prepare([source], output, config(**changes), overwrite=True)
    return list(var_names(output))


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("hvg_batch_key", [None, "batch"])
def test_genes_of_a_real_set_are_scanpys(tmp_path, shared_data, flavor, hvg_batch_key):
    import anndata

    path = shared_data / "scmix_3cl5cl_5batches.h5ad"
    wanted = scanpy_genes(anndata.read_h5ad(path), 1500, flavor, hvg_batch_key)
    changes = {"batch_key": "batch", "labels_key": None, "min_genes": 10, "n_top_genes": 1500}
    found = chosen(tmp_path, path, hvg_flavor=flavor, hvg_batch_key=hvg_batch_key, **changes)
    assert found == list(wanted.index)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("hvg_batch_key", [None, "donor"])
@pytest.mark.parametrize("seed", range(4))
def test_genes_of_a_random_set_are_scanpys(tmp_path, flavor, hvg_batch_key, seed):
    adata = make_counts(400, 500, seed=seed)
    wanted = scanpy_genes(adata, 80, flavor, hvg_batch_key)
    changes = {"hvg_flavor": flavor, "hvg_batch_key": hvg_batch_key, "n_top_genes": 80}
    found = chosen(tmp_path, adata, min_genes=10, **changes)
    assert found == list(wanted.index)


@pytest.mark.parametrize(
    ("flavor", "dtype"),
    [("seurat", np.float64), ("cell_ranger", np.uint16), ("seurat_v3", np.int32)],
)
def test_genes_are_scanpys_for_other_types_of_counts(tmp_path, flavor, dtype):
    adata = make_counts(300, 200, seed=9)
    adata.X = adata.X.astype(dtype)
    wanted = scanpy_genes(adata, 50, flavor, None)
    found = chosen(tmp_path, adata, hvg_flavor=flavor, n_top_genes=50, min_genes=10)
    assert found == list(wanted.index)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("hvg_batch_key", [None, "donor"])
def test_statistics_of_genes_are_scanpys(tmp_path, flavor, hvg_batch_key):
    import anndata

    adata = make_counts(300, 200, seed=3)
    wanted = scanpy_genes(adata, 50, flavor, hvg_batch_key)
    chosen(
        tmp_path,
        adata,
        hvg_flavor=flavor,
        hvg_batch_key=hvg_batch_key,
        n_top_genes=50,
        min_genes=10,
    )
    var = anndata.read_zarr(tmp_path / "atlas.zarr").var
    statistics = set(wanted) - {"chromosome", "n_cells"}
    assert statistics <= set(var)
    for name in statistics:
        np.testing.assert_allclose(
            var[name].astype(float), wanted[name].astype(float), rtol=1e-5, err_msg=name
        )
    assert (var["n_cells"] == wanted["n_cells"]).all()


def test_genes_without_variance_cannot_be_ranked():
    with pytest.raises(DataError, match=r"None of the 3 genes varies between cells.*--hvg-flavor"):
        rank_by_dispersion(np.ones(3), np.zeros(3), 2, "seurat")


def test_alike_genes_cannot_be_binned_by_percentiles():
    with pytest.raises(DataError, match=r"of 40 genes too many have the same.*--hvg-flavor"):
        rank_by_dispersion(np.ones(40), np.ones(40), 2, "cell_ranger")


def test_a_loess_that_fails_says_so(tmp_path):
    adata = make_counts(30, 12)
    with pytest.raises(DataError, match=r"seurat_v3 cannot fit the variance of .* genes"):
        chosen(tmp_path, adata, hvg_flavor="seurat_v3", n_top_genes=3)


def test_a_level_of_one_cell_cannot_rank_genes(tmp_path):
    adata = make_counts()
    adata.obs["run"] = ["one"] + ["two"] * (adata.n_obs - 1)
    with pytest.raises(DataError, match=r"ranked within levels of 'run'.*these have one: 'one'"):
        chosen(tmp_path, adata, hvg_batch_key="run")

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from medl_scale.errors import DataError, StoreError
from medl_scale.store.annotations import Annotations


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"donor": pd.Categorical(["a", "b"] * 50), "age": np.arange(100.0)},
        index=[f"cell{i}" for i in range(100)],
    )
    obsm = {
        "X_pca": rng.normal(size=(100, 3)).astype(np.float32),
        "frame": pd.DataFrame({"u": np.zeros(100)}, index=obs.index),
    }
    return ad.AnnData(rng.poisson(1.0, (100, 4)).astype(np.float32), obs=obs, obsm=obsm)


@pytest.fixture(params=["memory", "h5ad", "zarr"])
def source(request, adata, tmp_path):
    if request.param == "memory":
        return adata
    path = tmp_path / f"cells.{request.param}"
    if request.param == "h5ad":
        adata.write_h5ad(path)
    else:
        adata.write_zarr(path)
    return path


def test_columns_and_embeddings_are_those_of_the_anndata(source, adata):
    found = Annotations(source)
    assert found.widths == {"X_pca": 3}
    assert found.column("donor", "--batch-key").tolist() == adata.obs["donor"].tolist()
    np.testing.assert_array_equal(found.embedding("X_pca"), adata.obsm["X_pca"])


def test_what_is_not_there_is_named_with_what_is(source):
    found = Annotations(source)
    with pytest.raises(DataError, match=r"no obs column 'donr'.*'donor', 'age'.*Did you mean"):
        found.column("donr", "--batch-key")
    with pytest.raises(DataError, match=r"no embedding in obsm 'X_umap'.*'X_pca'.*--use-rep"):
        found.embedding("X_umap")


def test_the_matrix_is_never_read(adata, tmp_path):
    adata.write_zarr(tmp_path / "cells.zarr")
    shutil.rmtree(tmp_path / "cells.zarr" / "X")
    assert Annotations(tmp_path / "cells.zarr").embedding("X_pca").shape == (100, 3)


def test_what_holds_no_anndata_is_refused(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Annotations(tmp_path / "none.h5ad")
    (tmp_path / "text.h5ad").write_text("no cells")
    with pytest.raises(DataError, match=r"neither an AnnData \.h5ad nor"):
        Annotations(tmp_path / "text.h5ad")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"neither an AnnData \.zarr store nor a run"):
        Annotations(tmp_path / "folder")


def test_an_embedding_that_lost_chunks_is_refused_rather_than_read_as_zeros(adata, tmp_path):
    path = tmp_path / "cells.zarr"
    adata.write_zarr(path)
    for chunk in (path / "obsm" / "X_pca").glob("c/**/*"):
        if chunk.is_file():
            chunk.unlink()
    for chunk in (path / "obsm" / "X_pca").glob("[0-9]*"):
        chunk.unlink()
    with pytest.raises(StoreError, match="chunks of"):
        Annotations(path).embedding("X_pca")


def test_a_truncated_file_is_named(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match=r"cells\.h5ad cannot be read"):
        Annotations(path)

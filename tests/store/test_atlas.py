"""A prepared atlas describes itself, on disk and in memory, and tells when it is not one."""

import dataclasses
import pickle
import shutil
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medl_scale.errors import AtlasError, ConfigError, StoreError
from medl_scale.store.atlas import Atlas, describe, is_prepared, obs_names, read_columns, var_names
from medl_scale.store.prepare import prepare
from tests.store.counts import config, make_counts


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared") / "atlas.zarr"
    prepare([make_counts()], path, config())
    return path


@pytest.fixture
def copy(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy.zarr")
    return tmp_path / "copy.zarr"


@given(st.lists(st.integers(1, 20), min_size=3, max_size=9))
def test_a_fold_uses_every_row_once(sizes):
    bounds = tuple(np.cumsum([0, *sizes]).tolist())
    atlas = Atlas(
        "p", bounds[-1], 1, "b", None, "Unknown", ("x", "y"), (), "counts", 1e4, bounds, {}
    )
    tested = []
    for fold in range(atlas.n_folds):
        split = atlas.split(fold)
        rows = [row for part in split.train for row in range(part.start, part.stop)]
        rows += [*range(split.val.start, split.val.stop), *range(split.test.start, split.test.stop)]
        assert sorted(rows) == list(range(atlas.n_obs))
        assert split.val == atlas.split((fold + 1) % atlas.n_folds).test
        assert 1 <= len(split.train) <= 2
        tested += range(split.test.start, split.test.stop)
    assert sorted(tested) == list(range(atlas.n_obs))


def test_a_fold_that_is_not_there_is_refused(prepared):
    with pytest.raises(ConfigError, match=r"fold must be one of 0 to 4; got 5"):
        describe(prepared).split(5)


def test_memory_and_disk_tell_the_same(prepared):
    adata = ad.read_zarr(prepared)
    on_disk, in_memory = describe(prepared), describe(adata)
    assert in_memory == dataclasses.replace(on_disk, path=None)
    assert pickle.loads(pickle.dumps(on_disk)) == on_disk
    for one, other in zip(read_columns(prepared), read_columns(adata), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert list(obs_names(prepared)) == list(obs_names(adata)) == list(adata.obs_names)
    assert list(var_names(prepared)) == list(var_names(adata)) == list(adata.var_names)
    assert is_prepared(prepared)
    assert is_prepared(adata)


def test_columns_are_codes_of_sorted_levels(prepared):
    adata, atlas, columns = ad.read_zarr(prepared), describe(prepared), read_columns(prepared)
    assert atlas.batch_levels == ("a", "b", "c")
    assert atlas.label_levels == ("B", "T")
    assert [atlas.batch_levels[code] for code in columns.batch_codes] == list(adata.obs["donor"])
    labels = [*atlas.label_levels, "Unknown"]
    assert [labels[code] for code in columns.label_codes] == list(adata.obs["cell_type"])


def test_describing_imports_no_heavy_library(prepared):
    program = (
        "import sys; from medl_scale.store.atlas import describe, read_columns, var_names\n"
        f"describe({str(prepared)!r}); read_columns({str(prepared)!r}); var_names({str(prepared)!r})\n"
        "print([name for name in ('anndata', 'scanpy', 'pandas', 'dask') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_other_things_are_no_atlas(tmp_path):
    adata = make_counts()
    adata.write_zarr(tmp_path / "raw.zarr")
    adata.write_h5ad(tmp_path / "raw.h5ad")
    message = r"raw\.zarr is not a prepared atlas: uns\['medl_scale'\] holds no manifest.*medl-scale prepare"
    with pytest.raises(AtlasError, match=message):
        describe(tmp_path / "raw.zarr")
    with pytest.raises(AtlasError, match=r"This AnnData is not a prepared atlas"):
        describe(adata)
    with pytest.raises(AtlasError, match=r"raw\.h5ad is not a prepared atlas: no Zarr v3 store"):
        describe(tmp_path / "raw.h5ad")
    with pytest.raises(AtlasError, match=r"gone\.zarr does not exist"):
        describe(tmp_path / "gone.zarr")
    assert not any(
        map(is_prepared, (tmp_path / "raw.zarr", tmp_path / "raw.h5ad", tmp_path / "no", adata))
    )


@pytest.mark.parametrize(
    "lost", ["X/data/c/0", "X/indices/c/0", "X/indptr/c/0", "obs/medl_size_factor/c/0"]
)
@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_store_that_lost_files_is_named(copy, lost, how):
    file = copy / lost
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        StoreError, match=rf"copy\.zarr is truncated: 1 of its files .* such as {lost}"
    ):
        describe(copy)


def test_a_store_without_its_matrix_or_manifest_is_named(copy):
    shutil.rmtree(copy / "X")
    with pytest.raises(StoreError, match=r"copy\.zarr cannot be read"):
        describe(copy)
    shutil.rmtree(copy / "uns" / "medl_scale" / "batch_levels")
    with pytest.raises((StoreError, AtlasError), match=r"copy\.zarr"):
        describe(copy)
    shutil.rmtree(copy / "uns")
    with pytest.raises(AtlasError, match=r"copy\.zarr is not a prepared atlas"):
        describe(copy)


def test_changed_atlases_are_refused(prepared):
    adata = ad.read_zarr(prepared)
    with pytest.raises(
        AtlasError, match=r"was changed since it was prepared: its manifest describes 120 cells"
    ):
        describe(adata[:50].copy())
    renamed = adata.copy()
    renamed.obs["donor"] = renamed.obs["donor"].cat.rename_categories({"a": "z"})
    with pytest.raises(AtlasError, match=r"obs\['donor'\] has levels unknown to the manifest: 'z'"):
        read_columns(renamed)
    del renamed.obs["donor"]
    with pytest.raises(AtlasError, match=r"it has no obs\['donor'\]"):
        read_columns(renamed)
    zeroed = adata.copy()
    zeroed.obs["medl_size_factor"] = 0.0
    with pytest.raises(AtlasError, match=r"medl_size_factor'\] has values that are not positive"):
        read_columns(zeroed)

import anndata as ad
import numpy as np
import pytest

from medl_scale import prepare
from medl_scale.errors import OutputExistsError
from medl_scale.store.atlas import describe
from tests.tiny import N_CELLS


def test_one_or_several_inputs_from_anywhere_become_one_atlas(made, raw, tmp_path):
    options = {"batch_key": "batch", "min_cells": 1, "progress": False}
    one = prepare(raw, tmp_path / "one.zarr", **options)
    path = prepare(str(made.raw), tmp_path / "path.zarr", **options)
    two = prepare([raw, made.raw], tmp_path / "two.zarr", **options)
    assert one.n_obs == path.n_obs == N_CELLS
    assert two.n_obs == 2 * N_CELLS
    assert describe(tmp_path / "two.zarr") == two
    first, second = ad.read_zarr(tmp_path / "one.zarr"), ad.read_zarr(tmp_path / "path.zarr")
    np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())
    assert list(first.obs_names) == list(second.obs_names)


def test_the_original_order_can_be_had_back(made, raw):
    atlas = ad.read_zarr(made.atlas)
    order = np.argsort(atlas.obs["medl_original_row"].to_numpy())
    back = atlas[order, raw.var_names]
    assert list(back.obs_names) == list(raw.obs_names)
    np.testing.assert_array_equal(back.X.toarray(), raw.X.toarray())
    assert list(back.obs["batch"].astype(str)) == list(raw.obs["batch"].astype(str))


def test_an_atlas_is_not_replaced_unasked(raw, tmp_path):
    options = {"batch_key": "batch", "progress": False}
    prepare(raw, tmp_path / "atlas.zarr", **options)
    with pytest.raises(OutputExistsError, match=r"atlas\.zarr exists already"):
        prepare(raw, tmp_path / "atlas.zarr", **options)
    assert prepare(raw, tmp_path / "atlas.zarr", folds=4, overwrite=True, **options).n_folds == 4

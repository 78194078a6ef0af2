import datetime as dt

import numpy as np
import pandas as pd
import pytest

from medl_scale.store.frames import concatenated, storable


def test_any_table_can_be_stored_and_comes_back(tmp_path):
    import zarr
    from anndata.io import read_elem, write_elem

    frame = pd.DataFrame(
        {
            "text": ["a", None, "b"],
            "number": [1.5, np.nan, 2],
            "whole": [1, 2, 3],
            "flag": [True, False, True],
            "mixed": ["a", 1, None],
            "day": [dt.date(2026, 1, day) for day in (1, 2, 3)],
            "level": pd.Categorical(["x", None, "y"], ["y", "x"], ordered=True),
            "numbered": pd.Categorical([3, 1, 3]),
            "optional": pd.array([1, None, 3], dtype="Int64"),
            "path/like": ["p", "q", "r"],
        },
        index=["c1", "c2", "c3"],
    )
    frame.index.name = "barcode"
    write_elem(zarr.open_group(tmp_path / "s.zarr", mode="w"), "obs", storable(frame))
    back = read_elem(zarr.open_group(tmp_path / "s.zarr")["obs"])
    assert list(back.index) == ["c1", "c2", "c3"]
    assert list(back["text"].astype(object).fillna("-")) == ["a", "-", "b"]
    assert list(back["mixed"].astype(object).fillna("-")) == ["a", "1", "-"]
    assert back["day"].iloc[0] == "2026-01-01"
    assert list(back["level"].cat.categories) == ["y", "x"]
    assert back["level"].cat.ordered
    assert list(back["numbered"]) == [3, 1, 3]
    assert back["optional"].isna().tolist() == [False, True, False]
    assert list(back["path_like"]) == ["p", "q", "r"]
    for name in ("number", "whole", "flag"):
        np.testing.assert_array_equal(back[name], frame[name])


@pytest.mark.parametrize("other", [pd.Categorical(["b", "c"]), ["b", "c"]])
def test_categories_below_one_another_stay_categories(other):
    first = pd.DataFrame({"x": pd.Categorical(["a", None])}, index=["1", "2"])
    second = pd.DataFrame({"x": other}, index=["3", "4"])
    both = concatenated([first, second])["x"]
    assert list(both.cat.categories) == ["a", "b", "c"]
    assert list(both.astype(object).fillna("-")) == ["a", "-", "b", "c"]


def test_numbers_that_one_input_lacks_are_missing():
    first = pd.DataFrame({"n": [1, 2], "t": ["u", "v"]}, index=["1", "2"])
    second = pd.DataFrame({"t": ["w"]}, index=["3"])
    both = storable(concatenated([first, second]))
    assert both["n"].isna().tolist() == [False, False, True]
    assert both["n"].dtype == np.float64
    assert list(both["t"]) == ["u", "v", "w"]

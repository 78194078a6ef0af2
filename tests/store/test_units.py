"""Values that are not of their unit are counted, and the first is named."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from medl_scale.errors import DataError
from medl_scale.store.inputs import Block
from medl_scale.store.units import check_values, looks_like_counts, natural_values

CELLS = np.array([f"cell{number}" for number in range(10)])
GENES = pd.Index([f"gene{number}" for number in range(4)])


def check(values, units, dtype=np.float64):
    block = Block(slice(4, 6), sp.csr_matrix(np.array(values, dtype)), "a.h5ad")
    check_values(block, units, CELLS, GENES)


@pytest.mark.parametrize(
    ("values", "units", "message"),
    [
        ([[1, 0, 0, 2], [0, 3, np.nan, 0]], "counts", r"1 NaN among cells 5 to 6, the first nan in cell 'cell5', gene 'gene2'"),
        ([[1, -2, 0, -1], [0, 3, 1, 0]], "counts", r"2 negative .*the first -2 in cell 'cell4', gene 'gene1'"),
        ([[1, 0, np.inf, 2], [0.5, 3, 1, 0]], "counts", r"1 infinite, 1 fractional .* gene 'gene2'"),
        ([[1, 0, 0, 2], [0.5, 3, 1, 0]], "counts", r"counts must be non-negative integers.*They look like logarithms.*--layer.*--input-units lognorm"),
        ([[1, 0, 0, 2], [0.5, 3000, 1, 0]], "counts", r"1 fractional.*say what they are with --input-units"),
        ([[1.5, 0, 0, -2], [0, 3, 1, 0]], "lognorm", r"lognorm values must be finite logarithms >= 0; a.h5ad has .* 1 negative"),
        ([[1.5, 0, 0, 900], [0, 3, 1, 0]], "log2p1", r"1 above 50 .*the first 900 .*If they are counts"),
    ],
)  # fmt: skip
def test_wrong_values_are_counted_and_the_first_is_named(values, units, message):
    with pytest.raises(DataError, match=message):
        check(values, units)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_counts(dtype):
    check([[1, 0, 0, 200], [0, 3, 1, 0]], "counts", dtype)


def test_negative_integers_are_found():
    with pytest.raises(DataError, match="1 negative"):
        check([[1, 0, 0, -2], [0, 3, 1, 0]], "counts", np.int16)


def test_logarithms_are_told_from_counts():
    assert looks_like_counts(np.array([1.0, 2, 5]))
    assert not looks_like_counts(np.array([1.0, 1, 1]))
    assert not looks_like_counts(np.array([1.0, 2.5]))


def test_log2_is_undone():
    values = np.array([0.5, 3, 10.25], np.float32)
    natural = natural_values(np.log2(values + 1), "log2p1")
    assert natural.dtype == np.float32
    np.testing.assert_allclose(natural, values, rtol=1e-6)
    assert natural_values(values, "lognorm") is values

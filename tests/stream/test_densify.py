from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from medl_scale.errors import DataError, StoreError
from medl_scale.stream.contract import CsrRows
from medl_scale.stream.densify import Transform, densify, transformed

COUNTS = Transform("counts", 1e4)


def dense_of(stored: CsrRows, n_vars: int, transform: Transform, factors, positions=None):
    """Densify rows into an array full of rubbish."""
    n_rows = stored.indptr.size - 1
    positions = np.arange(n_rows) if positions is None else positions
    out = np.full((positions.size, n_vars), np.nan, np.float32)
    densify(stored, positions, positions, factors, transform, out)
    return out


def rows_of(dense: np.ndarray, indices=np.uint16) -> CsrRows:
    matrix = sparse.csr_array(dense)
    return CsrRows(matrix.data, matrix.indices.astype(indices), matrix.indptr.astype(np.int64))


@pytest.mark.parametrize("sizes", ["small", "huge"])
def test_the_logarithm_is_right_to_three_ten_millionths_of_its_value(sizes):
    largest = 1e-30 if sizes == "small" else 1e30
    x = np.geomspace(1, largest, 300_000).astype(np.float32)
    x = np.concatenate([x, np.linspace(0, 3, 300_001, dtype=np.float32)[1:]])
    stored = CsrRows(x, np.zeros(x.size, np.uint16), np.arange(x.size + 1))
    one = Transform("counts", 1.0)
    found = transformed(stored, np.arange(x.size), np.ones(x.size, np.float32), one, 1)
    expected = np.log1p(x.astype(np.float64))
    assert np.max(np.abs(found - expected) / expected) < 1.5e-7


counts = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 12), st.integers(1, 9)),
    elements=st.sampled_from([0, 0, 0, 1, 2, 5, 31, 32, 33, 255, 256, 65_535]),
)


@given(counts, st.integers(0, 99))
def test_counts_become_logarithms_of_normalised_counts(dense, seed):
    factors = np.random.default_rng(seed).uniform(1, 1e5, dense.shape[0]).astype(np.float32)
    found = dense_of(rows_of(dense), dense.shape[1], COUNTS, factors)
    expected = np.log1p(dense * (1e4 / factors.astype(np.float64))[:, None])
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=4e-7, atol=0)


@given(counts, st.sampled_from([1.0, 0.1]))
def test_every_stored_type_gives_the_same_bits(dense, scale):
    transform = Transform("counts", 1e4, scale)
    factors = np.linspace(3, 7_777, dense.shape[0]).astype(np.float32)
    expected = dense_of(rows_of(dense), dense.shape[1], transform, factors)
    for values in (np.uint32, np.int64, np.float32):
        for indices in (np.uint16, np.int32):
            stored = rows_of(dense.astype(values), indices)
            assert np.array_equal(dense_of(stored, dense.shape[1], transform, factors), expected)


@pytest.mark.parametrize("units", ["counts", "lognorm", "log2p1"])
@pytest.mark.parametrize("values", [np.uint8, np.float32])
def test_values_as_they_lie_are_bitwise_the_dense_ones(units, values):
    random = np.random.default_rng(0)
    dense = random.poisson(2, (30, 20)).astype(values)
    factors = random.uniform(1, 99, 30).astype(np.float32)
    stored, transform = rows_of(dense), Transform(units, 1e4, 0.3)
    found = transformed(stored, np.arange(30), factors, transform, 20)
    whole = dense_of(stored, 20, transform, factors)
    assert np.array_equal(sparse.csr_array((found, *stored[1:]), dense.shape).toarray(), whole)


def test_log_normalised_values_stay_but_for_the_scale():
    dense = np.array([[0, 1.5, 0], [2.25, 0, 3]], np.float32)
    factors = np.full(2, np.nan, np.float32)  # of no consequence
    found = dense_of(rows_of(dense), 3, Transform("lognorm", 1e4, 0.5), factors)
    assert np.array_equal(found, dense / 2)


def test_log2p1_is_normalised_as_counts_are():
    dense = np.array([[0, 1.5, 3], [2.25, 0, 0]], np.float32)
    factors = dense.sum(axis=1)
    found = dense_of(rows_of(dense), 3, Transform("log2p1", 100.0), factors)
    assert np.allclose(found, np.log1p(dense / factors[:, None] * 100), rtol=4e-7)


def test_positions_choose_rows_in_any_order_and_rows_their_size_factors():
    dense = np.arange(12, dtype=np.uint8).reshape(4, 3)
    factors = np.array([9, 9, 9, 9, 9, 1, 2, 3, 4], np.float32)
    out = np.empty((3, 3), np.float32)
    positions = np.array([3, 0, 3])
    densify(rows_of(dense), positions, positions + 5, factors, COUNTS, out)
    expected = np.log1p(dense[positions] * (1e4 / factors[positions + 5])[:, None])
    assert np.allclose(out, expected, rtol=4e-7)


def test_no_rows_are_no_error():
    empty = CsrRows(np.empty(0, np.uint8), np.empty(0, np.uint16), np.zeros(1, np.int64))
    for units in ("counts", "lognorm"):
        assert dense_of(empty, 5, Transform(units, 1e4), np.ones(3, np.float32)).shape == (0, 5)


BAD_VALUES = [
    ("counts", np.array([1, -1, 2], np.int32)),
    ("counts", np.array([1, -0.5, 2], np.float32)),
    ("counts", np.array([1, np.nan, 2], np.float32)),
    ("counts", np.array([1, np.inf, 2], np.float32)),
    ("lognorm", np.array([1, np.nan, 2], np.float32)),
    ("lognorm", np.array([1, -np.inf, 2], np.float32)),
    ("log2p1", np.array([1, np.nan, 2], np.float32)),
]


@pytest.mark.parametrize(("units", "values"), BAD_VALUES)
def test_a_value_that_is_no_number_is_an_error_that_names_the_row(units, values):
    stored = CsrRows(values, np.zeros(3, np.uint16), np.arange(4))
    factors, rows = np.ones(2_000, np.float32), np.array([7, 1_234, 8])
    message = r"Values must be finite, and counts not negative; row 1,234 of the atlas"
    out = np.empty((3, 5), np.float32)
    with pytest.raises(DataError, match=message):
        densify(stored, np.arange(3), rows, factors, Transform(units, 1e4), out)
    with pytest.raises(DataError, match=message):
        transformed(stored, rows, factors, Transform(units, 1e4), 5)


@pytest.mark.parametrize("values", [np.uint8, np.float32])
@pytest.mark.parametrize("column", [5, -1, 60_000])
def test_a_column_that_does_not_exist_is_an_error_and_is_not_written_to(values, column):
    stored = CsrRows(np.ones(3, values), np.array([0, column, 0], np.int32), np.arange(4))
    factors, rows = np.ones(20, np.float32), np.array([7, 12, 8])
    out = np.zeros((3, 5), np.float32)
    with pytest.raises(StoreError, match="Row 12 of the atlas names a gene that does not exist"):
        densify(stored, np.arange(3), rows, factors, COUNTS, out)
    assert np.count_nonzero(out) == 1
    with pytest.raises(StoreError, match="Row 12 of the atlas names a gene that does not exist"):
        transformed(stored, rows, factors, COUNTS, 5)


def test_a_row_with_more_values_than_genes_is_an_error():
    stored = CsrRows(np.ones(9, np.float32), np.zeros(9, np.uint16), np.array([0, 9]))
    with pytest.raises(StoreError, match="Row 0 of the atlas names a gene"):
        dense_of(stored, 5, COUNTS, np.ones(1, np.float32))


@pytest.mark.parametrize("total", [0, -1, np.nan, np.inf])
def test_a_size_factor_that_is_not_positive_is_an_error_that_names_the_row(total):
    factors = np.array([1, 1, total, 1], np.float32)
    with pytest.raises(
        DataError, match=r"Size factors must be positive numbers; that of row 2 of the atlas is"
    ):
        dense_of(rows_of(np.ones((4, 2), np.uint8)), 2, COUNTS, factors)

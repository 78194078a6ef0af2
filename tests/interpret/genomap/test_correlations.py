"""Sums of genes over cells that stream by, and the correlations made of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from medl_scale.errors import DataError
from medl_scale.interpret.genomap.correlations import (
    GeneSums,
    correlations_of,
    stream_gene_sums,
)
from medl_scale.store.atlas import Columns
from medl_scale.stream import CsrRows, Transform
from medl_scale.stream.source import MemorySource

PLAIN = Transform("lognorm", 1.0)


def some_cells(seed: int, n: int = 60, n_genes: int = 7, n_batches: int = 3):
    """Sparse values whose batches differ in mean, and the batch of each cell."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, n_batches, n, dtype=np.int32)
    values = random.gamma(2.0, 1.0, (n, n_genes)) + codes[:, None] * random.random(n_genes)
    values[random.random(values.shape) < 0.6] = 0
    return sparse.csr_array(values.astype(np.float32)), codes


def sums_of(matrix, codes, n_batches: int = 3) -> GeneSums:
    sums = GeneSums.empty(n_batches, matrix.shape[1])
    sums.add(
        matrix.data, CsrRows(matrix.data, matrix.indices, matrix.indptr.astype(np.int64)), codes
    )
    return sums


def in_pandas(matrix, codes) -> np.ndarray:
    """Correlations of values from which the mean of their batch was taken, by pandas."""
    import pandas as pd

    frame = pd.DataFrame(matrix.toarray().astype(np.float64))
    return (frame - frame.groupby(codes).transform("mean")).corr().to_numpy()


def test_correlations_are_those_of_cells_centred_in_their_batch():
    matrix, codes = some_cells(0, n=3000)
    expected = in_pandas(matrix, codes)
    assert np.allclose(sums_of(matrix, codes).correlations(), expected, atol=1e-10)
    assert np.allclose(correlations_of(matrix.toarray(), codes), expected, atol=1e-10)


def test_a_difference_between_batches_is_no_correlation():
    random = np.random.default_rng(1)
    codes = np.repeat([0, 1], 2000).astype(np.int32)
    values = random.random((4000, 2)) + 5.0 * codes[:, None]
    assert correlations_of(values)[0, 1] > 0.95
    assert abs(correlations_of(values, codes)[0, 1]) < 0.06


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 60))
def test_sums_of_two_parts_merge_to_those_of_the_whole(seed, cut):
    matrix, codes = some_cells(seed)
    whole = sums_of(matrix, codes)
    merged = sums_of(matrix[:cut], codes[:cut]).merged(sums_of(matrix[cut:], codes[cut:]))
    assert merged.n_cells == whole.n_cells == 60
    assert np.array_equal(merged.batch_n, whole.batch_n)
    assert np.allclose(merged.correlations(), whole.correlations(), atol=1e-12)


def test_rows_whose_columns_are_in_any_order_count_the_same():
    matrix, codes = some_cells(2)
    expected = sums_of(matrix, codes).correlations()
    shuffled = matrix.copy()
    for row in range(matrix.shape[0]):
        inside = slice(matrix.indptr[row], matrix.indptr[row + 1])
        shuffled.data[inside] = matrix.data[inside][::-1]
        shuffled.indices[inside] = matrix.indices[inside][::-1]
    assert np.allclose(sums_of(shuffled, codes).correlations(), expected, atol=1e-12)


def test_constant_genes_correlate_with_nothing_and_are_told_by_the_diagonal():
    matrix, codes = some_cells(3)
    dense = matrix.toarray()
    dense[:, 2] = 0
    dense[:, 4] = 0.1 + codes  # constant in each batch
    for found in (
        sums_of(sparse.csr_array(dense), codes).correlations(),
        correlations_of(dense, codes),
    ):
        assert np.flatnonzero(np.diagonal(found) == 0).tolist() == [2, 4]
        assert not found[[2, 4]].any()
        assert not found[:, [2, 4]].any()


def test_only_the_rows_asked_for_are_streamed():
    matrix, codes = some_cells(4, n=5000)
    columns = Columns(codes, np.full(5000, -1, np.int32), np.ones(5000, np.float32))
    rows = np.r_[0:1500, 3000:4999]
    found = stream_gene_sums(
        MemorySource(matrix), columns, (slice(0, 1500), slice(3000, 4999)), PLAIN, 3
    )
    assert found.n_cells == rows.size
    expected = in_pandas(matrix[rows], codes[rows])
    assert np.allclose(found.correlations(), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: GeneSums.empty(2, 5).correlations(), "at least 2 cells; got 0. Choose more cells"),
        (
            lambda: GeneSums.empty(2, 5).merged(GeneSums.empty(3, 5)),
            r"same batches and genes; got \(2, 5\) and \(3, 5\)",
        ),
        (lambda: sums_of(*some_cells(0), n_batches=2), "Batch codes must be 0 to 1; found 0 to 2"),
        (lambda: correlations_of(np.array([[1.0, np.nan], [0, 1]])), "found 1 that are not"),
        (
            lambda: correlations_of(np.ones((3, 2)), np.zeros(4, int)),
            r"got shapes \(3, 2\) and \(4,\)",
        ),
    ],
)
def test_what_cannot_be_summed_is_said(act, text):
    with pytest.raises(DataError, match=text):
        act()

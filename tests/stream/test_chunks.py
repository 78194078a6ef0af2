"""Rows in pieces hold what the store holds, and are refused for what `densify` refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from medl_scale.errors import DataError, StoreError
from medl_scale.stream.chunks import CHUNK, bucket_size, chunked
from medl_scale.stream.contract import CsrRows
from medl_scale.stream.densify import Transform
from medl_scale.stream.minibatches import chunked_blocks, dense_rows, stream
from medl_scale.stream.plan import EpochPlan
from medl_scale.stream.runs import Places, row_numbers
from medl_scale.stream.source import open_source

COUNTS = Transform("counts", 1e4, 0.5)


def stored_rows(matrix):
    rows = sparse.csr_array(matrix)
    return CsrRows(rows.data, rows.indices.astype(np.uint16), rows.indptr.astype(np.int64))


def dense_of(chunks, transform, n_vars):
    """Add every value to its place, one by one, in float64."""
    dense = np.zeros((len(chunks.counts), n_vars))
    chunk = 0
    for row, count in enumerate(chunks.counts):
        for _ in range(count):
            values = chunks.data[chunk].astype(np.float64) * chunks.factors[row]
            values = np.log1p(values) if transform.takes_log else values
            np.add.at(dense[row], chunks.indices[chunk], values * transform.scale)
            chunk += 1
    assert not chunks.data[chunk:].any()
    assert not chunks.indices[chunk:].any()
    return dense


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32])
def test_pieces_hold_the_rows_asked_for(dtype):
    random = np.random.default_rng(0)
    matrix = random.poisson(0.5, (40, 150)).astype(dtype)
    matrix[7] = 0
    matrix[8, : 2 * CHUNK] = 3
    totals = matrix.sum(axis=1).astype(np.float32) + 2
    positions = random.permutation(40)[:25]
    positions[:2] = 7, 8
    found = chunked(stored_rows(matrix), positions, positions, totals, COUNTS, 150)
    expected = np.log1p(matrix[positions] * (1e4 / totals[positions])[:, None]) * 0.5
    np.testing.assert_allclose(dense_of(found, COUNTS, 150), expected, rtol=1e-6)
    assert found.counts[0] == 0
    assert found.data.dtype.itemsize <= 4
    assert found.indices.dtype == np.uint16


def test_log_normalised_values_are_only_scaled():
    matrix = np.random.default_rng(1).random((6, 50)).astype(np.float32)
    lognorm = Transform("lognorm", 1e4, 2.0)
    positions = np.arange(6)
    found = chunked(stored_rows(matrix), positions, positions, np.zeros(6, np.float32), lognorm, 50)
    np.testing.assert_allclose(dense_of(found, lognorm, 50), 2 * matrix, rtol=1e-6)


@pytest.mark.parametrize("units", ["counts", "lognorm"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_what_a_device_could_not_refuse_is_refused_before_it_is_sent(units, bad):
    matrix = np.ones((3, 5), np.float32)
    matrix[1, 2] = bad
    positions = np.array([2, 1])
    transform = Transform(units, 1e4)
    totals = np.ones(3, np.float32)
    if units == "lognorm" and bad == -1.0:
        chunked(stored_rows(matrix), positions, positions, totals, transform, 5)
        return
    with pytest.raises(DataError, match="row 1 of the atlas holds another"):
        chunked(stored_rows(matrix), positions, positions, totals, transform, 5)


def test_a_gene_that_does_not_exist_and_a_total_of_nothing_are_refused():
    stored, rows = stored_rows(np.ones((2, 5), np.uint8)), np.array([0, 1])
    with pytest.raises(StoreError, match="Row 0 of the atlas names a gene that does not exist"):
        chunked(stored, rows, rows, np.ones(2, np.float32), COUNTS, 4)
    with pytest.raises(DataError, match=r"that of row 1 of the atlas is 0\.0"):
        chunked(stored, rows, rows, np.array([1, 0], np.float32), COUNTS, 5)


@given(n=st.integers(0, 10**7))
def test_buckets_are_few_and_hardly_larger_than_what_they_hold(n):
    size = bucket_size(n)
    assert n <= size <= max(1.125 * n + 64, 64)
    assert bucket_size(size) == size


def test_few_sizes_are_compiled_for_minibatches_that_differ_by_a_tenth():
    assert len({bucket_size(n) for n in range(9_500, 10_500)}) <= 2


def test_a_stream_in_pieces_or_by_row_numbers_has_the_cells_of_the_dense_one(
    in_memory, columns, counts
):
    plan = EpochPlan(
        train=(slice(0, 240), slice(470, 701)),
        minibatch_size=64,
        run_size=16,
        window_size=128,
        seed=1,
        epoch=2,
    )
    with open_source(in_memory) as source:
        dense = list(stream(source, columns, plan, COUNTS, start=2))
        sent = list(
            stream(
                source, columns, plan, COUNTS, start=2, form="chunks", send=lambda c: ("sent", c)
            )
        )
        numbers = list(stream(source, columns, plan, COUNTS, start=2, form="rows"))
        some = dense_rows(source, columns, dense[0].rows, COUNTS)
    assert len(dense) == len(sent) == len(numbers)
    np.testing.assert_array_equal(some, dense[0].x)
    for a, b, c in zip(dense, sent, numbers, strict=True):
        for name in ("batch_codes", "label_codes", "rows"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_array_equal(getattr(a, name), getattr(c, name))
        assert b.x.shape == c.x.shape == (0, counts.shape[1])
        assert b.cells[0] == "sent"
        np.testing.assert_allclose(
            dense_of(b.cells[1], COUNTS, counts.shape[1]), a.x, rtol=1e-6, atol=1e-12
        )


def test_blocks_to_keep_are_the_train_rows_in_order_without_padding(in_memory, columns, counts):
    train = (slice(3, 200), slice(300, 701))
    with open_source(in_memory) as source:
        blocks = list(chunked_blocks(source, columns, train, COUNTS))
    assert sum(len(block.counts) for block in blocks) == 598
    for block in blocks:
        assert block.counts.sum() == len(block.data)
    found = np.concatenate([dense_of(block, COUNTS, counts.shape[1]) for block in blocks])
    rows = row_numbers(train)
    expected = np.log1p(counts.toarray()[rows] * (1e4 / columns.size_factors[rows])[:, None]) * 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(Places(train).of(rows), np.arange(598))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_places_follow_the_slices_as_given(order):
    slices = [(slice(5, 9), slice(20, 21), slice(30, 44))[i] for i in order]
    rows = row_numbers(slices)
    chosen = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(Places(slices).of(rows[chosen]), chosen)

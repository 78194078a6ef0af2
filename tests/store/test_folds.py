import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medl_scale.errors import DataError
from medl_scale.store.folds import deal_parts, row_order

BATCH_SIZES = st.lists(st.integers(2, 30), min_size=2, max_size=8)


def codes(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def deal(sizes, labels, n_parts, seed):
    levels = [f"batch{number}" for number in range(len(sizes))]
    return deal_parts(codes(sizes), labels, levels, n_parts=n_parts, seed=seed)


@given(BATCH_SIZES, st.integers(3, 9), st.integers(0, 2**31), st.data())
def test_parts_are_balanced_and_every_batch_trains_in_every_fold(sizes, n_parts, seed, data):
    if n_parts == 3:
        sizes = [max(3, size) for size in sizes]
    sizes[0] = max(sizes[0], n_parts)
    batches = codes(sizes)
    labels = np.array(
        data.draw(st.lists(st.integers(-1, 3), min_size=len(batches), max_size=len(batches)))
    )
    parts = deal(sizes, labels, n_parts, seed)
    for batch in range(len(sizes)):
        inside = parts[batches == batch]
        counts = np.bincount(inside, minlength=n_parts)
        assert np.ptp(counts) <= 1
        for label in range(-1, 4):
            shares = np.bincount(inside[labels[batches == batch] == label], minlength=n_parts)
            assert np.ptp(shares) <= 1
        for fold in range(n_parts):
            training = ~np.isin(inside, (fold, (fold + 1) % n_parts))
            assert training.any(), (sizes[batch], n_parts, fold)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.integers(0, 2**31))
def test_rows_go_part_by_part_and_each_cell_once(parts, seed):
    parts = np.array(parts)
    order = row_order(parts, seed=seed)
    assert sorted(order) == list(range(len(parts)))
    assert (np.diff(parts[order]) >= 0).all()


def test_the_seed_decides_parts_and_order():
    sizes, labels = [40, 30], np.zeros(70, int)
    first, again, other = (deal(sizes, labels, 5, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (row_order(first, seed=1) == row_order(first, seed=1)).all()
    assert (row_order(first, seed=1) != row_order(first, seed=2)).any()


def test_rows_of_a_part_are_mixed():
    parts = np.zeros(10_000, int)
    order = row_order(parts, seed=0)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


def test_a_batch_that_is_too_small_is_named():
    with pytest.raises(
        DataError, match=r"needs 2 cells.*of 5 folds; .* 1 are smaller: 'batch1' has 1"
    ):
        deal([9, 1], np.zeros(10, int), 5, 0)
    with pytest.raises(
        DataError,
        match=r"needs 3 cells.*\(with 4 folds or more 2 cells are enough\).*'batch0' has 2",
    ):
        deal([2, 9], np.zeros(11, int), 3, 0)


def test_more_folds_than_cells_are_refused():
    with pytest.raises(DataError, match=r"4 cells are too few for 9 folds.*Lower --folds"):
        deal([2, 2], np.zeros(4, int), 9, 0)

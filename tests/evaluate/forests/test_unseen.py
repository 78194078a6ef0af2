"""Parts that batches are dealt to: laws, and the cases that go wrong elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.evaluate.forests.unseen import deal_batches, is_constant_in_batches, split_by_batch


@st.composite
def tables(draw):
    n_batches, n_classes = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    cells = st.lists(st.integers(0, 50), min_size=n_classes, max_size=n_classes)
    table = draw(st.lists(cells, min_size=n_batches, max_size=n_batches))
    return np.array(table), draw(st.integers(2, n_batches))


@given(tables())
@settings(max_examples=100, deadline=None)
def test_every_part_gets_batches(case):
    counts, n_parts = case
    part_of = deal_batches(counts, n_parts)
    assert part_of.shape == (len(counts),)
    assert set(part_of.tolist()) == set(range(n_parts))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=15), st.integers(2, 6), st.data())
@settings(max_examples=100, deadline=None)
def test_no_forest_lacks_a_class_of_whole_batches_that_it_could_have(classes, n_parts, data):
    sizes = data.draw(st.lists(st.integers(1, 500), min_size=len(classes), max_size=len(classes)))
    n_parts = min(n_parts, len(classes))
    counts = np.zeros((len(classes), 4), int)
    counts[np.arange(len(classes)), classes] = sizes
    part_of = deal_batches(counts, n_parts)
    for name in set(classes):
        own = np.flatnonzero(np.array(classes) == name)
        if len(own) >= 2:
            assert len(set(part_of[own].tolist())) >= 2


def test_equal_batches_make_equal_parts():
    counts = np.full((10, 3), 20)
    assert np.bincount(deal_batches(counts, 5)).tolist() == [2] * 5


def test_parts_hold_classes_more_evenly_than_dealing_in_turn():
    rng = np.random.default_rng(0)
    uneven = []
    for _ in range(30):
        counts = np.array([rng.multinomial(rng.integers(20, 300), rng.dirichlet(np.full(4, 0.3)))
                           for _ in range(16)])  # fmt: skip

        def unevenness(part_of, counts=counts):
            held = np.stack([counts[part_of == part].sum(axis=0) for part in range(4)])
            return np.square(held / held.sum(axis=0)).sum()

        uneven.append(unevenness(deal_batches(counts, 4)) / unevenness(np.arange(16) % 4))
    assert np.mean(uneven) < 0.85
    assert np.max(uneven) < 1.05


@given(st.integers(0, 10_000), st.integers(2, 8))
@settings(max_examples=60, deadline=None)
def test_every_test_cell_is_asked_of_one_forest_that_has_not_seen_its_batch(seed, n_parts):
    rng = np.random.default_rng(seed)
    n = 120
    codes, batches = rng.integers(0, 3, n), rng.integers(0, rng.integers(2, 9), n)
    order = rng.permutation(n)
    train, test = np.sort(order[:70]), np.sort(order[70:100])
    pairs = split_by_batch(codes, batches, train, test, n_parts)
    asked = np.concatenate([theirs for _, theirs in pairs])
    assert sorted(asked.tolist()) == test.tolist()
    for own, theirs in pairs:
        assert set(own.tolist()) <= set(train.tolist())
        assert not set(batches[own].tolist()) & set(batches[theirs].tolist())


def test_as_many_parts_as_batches_leaves_one_batch_out_at_a_time():
    batches = np.repeat([0, 1, 2], 20)
    codes = np.tile([0, 1], 30)
    train, test = np.arange(0, 60, 2), np.arange(1, 60, 2)
    pairs = split_by_batch(codes, batches, train, test, 10)
    assert sorted(set(batches[theirs].tolist()).pop() for _, theirs in pairs) == [0, 1, 2]
    for own, theirs in pairs:
        assert len(own) == 20
        assert len(theirs) == 10


@pytest.mark.parametrize(
    ("codes", "batches"),
    [
        ([0, 1, 0, 1], [0, 0, 0, 0]),
        ([0, 0, 1, 1], [0, 0, 1, 1]),
        ([0, 1, 2, 2], [0, 0, 1, 1]),
    ],
    ids=["one batch", "class is batch", "each class in one batch"],
)
def test_nothing_is_asked_where_no_class_can_be_learnt_elsewhere(codes, batches):
    rows = np.arange(4)
    assert split_by_batch(np.array(codes), np.array(batches), rows[::2], rows[1::2], 5) == []


@pytest.mark.parametrize(
    ("codes", "batches", "expected"),
    [
        ([0, 0, 1, 1], [0, 1, 2, 2], True),
        ([0, 1, 1, 1], [0, 0, 1, 1], False),
        ([3, 3], [5, 7], True),
    ],
)
def test_a_target_is_constant_in_batches_when_none_holds_two_classes(codes, batches, expected):
    found = is_constant_in_batches(np.array(codes, np.int32), np.array(batches, np.int32))
    assert found is expected

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medl_scale.errors import ConfigError
from medl_scale.stream.plan import EpochPlan
from medl_scale.stream.runs import row_numbers


@st.composite
def train_slices(draw: st.DrawFn) -> tuple[slice, ...]:
    bounds = draw(st.lists(st.integers(0, 900), min_size=2, max_size=6, unique=True))
    bounds = sorted(bounds)[: len(bounds) // 2 * 2]
    return tuple(slice(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=True))


@st.composite
def plans(draw: st.DrawFn) -> EpochPlan:
    return EpochPlan(
        train=draw(train_slices()),
        minibatch_size=draw(st.sampled_from([2, 3, 16, 20, 32, 48, 64])),
        run_size=draw(st.sampled_from([1, 3, 8, 16, 25])),
        window_size=draw(st.sampled_from([25, 64, 128, 300, 512])),
        seed=draw(st.integers(0, 3)),
        epoch=draw(st.integers(0, 3)),
    )


def minibatches(plan: EpochPlan, rank: int = 0, world_size: int = 1, start: int = 0) -> list:
    """Return the rows of a rank's minibatches, by way of what it reads."""
    found = []
    for load in plan.loads(rank, world_size, start=start):
        assert load.first == start + len(found)
        rows = row_numbers(load.runs)
        found += [rows[positions] for positions in load.positions]
    return found


@given(plans(), st.integers(1, 16))
def test_every_train_row_comes_once_an_epoch_for_any_number_of_ranks(plan, world_size):
    world_size = min(world_size, plan.n_lanes)
    rows = [minibatches(plan, rank, world_size) for rank in range(world_size)]
    every = np.sort(np.concatenate([part for of_rank in rows for part in of_rank]))
    assert np.array_equal(every, row_numbers(plan.train))
    assert {len(of_rank) for of_rank in rows} == {plan.n_minibatches}


@given(plans(), st.integers(2, 16))
def test_the_content_of_a_minibatch_does_not_depend_on_the_number_of_ranks(plan, world_size):
    world_size = min(world_size, plan.n_lanes)
    alone = minibatches(plan)
    shared = [minibatches(plan, rank, world_size) for rank in range(world_size)]
    for t, rows in enumerate(alone):
        assert np.array_equal(np.concatenate([of_rank[t] for of_rank in shared]), rows)


@given(plans(), st.data())
def test_starting_at_a_minibatch_gives_the_tail_of_the_epoch(plan, data):
    start = data.draw(st.integers(0, plan.n_minibatches - 1))
    world_size = data.draw(st.integers(1, plan.n_lanes))
    rank = data.draw(st.integers(0, world_size - 1))
    whole = minibatches(plan, rank, world_size)
    tail = minibatches(plan, rank, world_size, start)
    assert len(tail) == len(whole) - start
    assert all(np.array_equal(a, b) for a, b in zip(tail, whole[start:], strict=True))
    assert np.array_equal(plan.minibatch_rows(start, rank, world_size), whole[start])


@given(plans(), st.data())
def test_starting_late_reads_no_more_than_the_windows_that_hold_the_rest(plan, data):
    start = data.draw(st.integers(0, plan.n_minibatches - 1))
    whole = [load.runs for load in plan.loads()]
    tail = [load.runs for load in plan.loads(start=start)]
    assert tail == whole[len(whole) - len(tail) :]
    assert next(plan.loads(start=start)).first == start
    starts = [load.first for load in plan.loads()]
    assert len(tail) == sum(first > start for first in starts) + 1


@given(plans())
def test_minibatches_have_two_sizes_at_most_and_none_is_small(plan):
    lengths = [rows.size for rows in minibatches(plan)]
    size, n = plan.minibatch_size, plan.n_rows
    assert lengths == [plan.length(t) for t in range(plan.n_minibatches)]
    assert max(lengths) == plan.longest
    assert set(lengths[:-1]) <= {size}
    if n >= size:
        assert math.ceil(size / 4) <= lengths[-1] < size * 5 / 4


@given(plans())
def test_a_window_holds_little_more_than_its_size(plan):
    for load in plan.loads():
        read = sum(rows.stop - rows.start for rows in load.runs)
        assert read == sum(positions.size for positions in load.positions)
        assert read <= max(plan.window_size, plan.minibatch_size) + plan.minibatch_size / 4


@given(plans())
def test_the_same_seed_gives_the_same_order_even_after_pickling(plan):
    again = pickle.loads(pickle.dumps(plan))
    assert all(
        np.array_equal(a, b) for a, b in zip(minibatches(plan), minibatches(again), strict=True)
    )


def plan_of(n: int, **changes) -> EpochPlan:
    settings = {"minibatch_size": 512, "run_size": 256, "window_size": 16_384, "seed": 0}
    return EpochPlan((slice(0, n),), **(settings | {"epoch": 0} | changes))


@pytest.mark.parametrize("n", [600, 5_000, 40_000])
def test_epochs_and_seeds_differ(n):
    orders = [
        np.concatenate(minibatches(plan_of(n, seed=seed, epoch=epoch)))
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    for i, first in enumerate(orders):
        for second in orders[i + 1 :]:
            assert np.mean(first == second) < 0.05


def test_a_minibatch_mixes_rows_of_many_runs():
    plan = plan_of(100_000)
    runs = [np.unique(rows // plan.run_size).size for rows in minibatches(plan)]
    assert np.mean(runs[:-30]) > 60


def test_rows_share_minibatches_with_others_in_the_next_epoch():
    first, second = (minibatches(plan_of(40_000, epoch=epoch)) for epoch in (0, 1))
    where = np.empty(40_000, np.int64)
    for t, rows in enumerate(second):
        where[rows] = t
    spread = [np.unique(where[rows]).size for rows in first]
    assert np.mean(spread) > 50  # of the 79 minibatches of an epoch


def test_windows_of_the_default_sizes_consist_of_whole_aligned_runs():
    plan = EpochPlan((slice(100, 70_000), slice(90_000, 200_000)), 512, 256, 16_384, 0, 0)
    *early, _, _ = list(plan.loads())
    assert len(early) == 9
    for load in early:
        assert len(load.runs) == 64
        assert {(rows.start % 256, rows.stop % 256) for rows in load.runs} == {(0, 0)}


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (10, [10]),
        (63, [63]),
        (64, [64]),
        (79, [79]),
        (80, [64, 16]),
        (128, [64, 64]),
        (143, [64, 79]),
        (144, [64, 64, 16]),
    ],
)
def test_a_tail_of_less_than_a_quarter_joins_the_minibatch_before(n, expected):
    plan = plan_of(n, minibatch_size=64, run_size=16, window_size=64)
    assert [rows.size for rows in minibatches(plan)] == expected


@pytest.mark.parametrize(
    ("minibatch_size", "lanes"), [(512, 16), (24, 8), (4, 4), (6, 2), (511, 1)]
)
def test_lanes_depend_on_the_minibatch_size_alone(minibatch_size, lanes):
    assert plan_of(3_000, minibatch_size=minibatch_size).n_lanes == lanes


def test_ranks_get_equal_shares_where_lanes_divide():
    plan = plan_of(50_000)
    shares = [[rows.size for rows in minibatches(plan, rank, 4)] for rank in range(4)]
    assert {tuple(share[:-1]) for share in shares} == {(128,) * (plan.n_minibatches - 1)}
    assert max(share[-1] for share in shares) - min(share[-1] for share in shares) <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minibatch_size": 0}, "minibatch_size must be at least 1; got 0"),
        ({"run_size": -1}, "run_size must be at least 1; got -1"),
        ({"window_size": 0}, "window_size must be at least 1; got 0"),
        ({"train": ()}, "train must be slices that hold at least one row"),
        ({"train": (slice(3, 3),)}, "train must be slices that hold at least one row"),
        ({"train": (slice(3, 1), slice(4, 9))}, "train must be slices"),
        ({"train": (slice(3, 9), slice(0, 4))}, "must not overlap"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    fields = {
        "train": (slice(0, 10),),
        "minibatch_size": 4,
        "run_size": 2,
        "window_size": 8,
        "seed": 0,
        "epoch": 0,
    }
    with pytest.raises(ConfigError, match=message):
        EpochPlan(**(fields | changes))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda plan: plan.loads(0, 17), "shared by 1 to 16 ranks; got 17"),
        (lambda plan: plan.loads(0, 0), "shared by 1 to 16 ranks; got 0"),
        (lambda plan: plan.loads(2, 2), "rank must be 0 to 1; got 2"),
        (lambda plan: plan.loads(start=2), "has 2 minibatches, 0 to 1; got 2"),
        (lambda plan: plan.minibatch_rows(-1), "has 2 minibatches, 0 to 1; got -1"),
    ],
)
def test_ranks_and_minibatches_that_do_not_exist_are_refused_at_once(ask, message):
    with pytest.raises(ConfigError, match=message):
        ask(plan_of(1_000))


def test_slices_may_come_in_any_order():
    forward = EpochPlan((slice(0, 50), slice(80, 99)), 16, 8, 64, 0, 0)
    backward = EpochPlan((slice(80, 99), slice(0, 50)), 16, 8, 64, 0, 0)
    for plan in (forward, backward):
        rows = np.sort(np.concatenate(minibatches(plan)))
        assert all(a < b for a, b in pairwise(rows.tolist()))
        assert rows.size == 69

"""Stratified samples: who is in which stratum, how many to draw, and what the interval promises."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medl_scale.evaluate.silhouettes.strata import LEAST_DRAWS, Design, cut_by_bound

BOUNDS = arrays.arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.one_of(st.just(0.0), st.floats(0, 2, width=32)),
)


def design(sizes, spreads, reaches):
    sizes = np.asarray(sizes, float)
    return Design(
        sizes, sizes / sizes.sum(), np.asarray(spreads, float), np.asarray(reaches, float)
    )


@given(BOUNDS, st.integers(1, 8))
def test_every_cell_that_can_be_off_is_in_one_stratum(bounds, n_strata):
    strata = cut_by_bound(bounds, n_strata)
    assert len(strata) <= n_strata
    found = np.concatenate([*strata, np.empty(0, np.int64)])
    np.testing.assert_array_equal(np.sort(found), np.flatnonzero(bounds > 0))
    for lower, upper in itertools.pairwise(strata):
        assert bounds[lower].max() <= bounds[upper].min()


def test_strata_share_out_the_sum_of_bounds():
    bounds = np.random.default_rng(0).exponential(size=100_000).astype(np.float32)
    sums = [float(bounds[cells].sum()) for cells in cut_by_bound(bounds, 5)]
    np.testing.assert_allclose(sums, np.mean(sums), rtol=1e-3)


def test_a_whole_stratum_leaves_no_doubt():
    whole = design([100, 50], [0.1, 0.2], [0.5, 0.5])
    assert whole.half_width(np.array([100, 50]), 0.99) == 0.0
    assert whole.half_width(np.array([100, 49]), 0.99) > 0.0


def test_one_stratum_of_wide_spread_has_the_interval_of_student():
    one = design([1e9], [0.2], [0.0])
    # t of 99 % and 99 degrees of freedom is 2.62641.
    assert one.half_width(np.array([100]), 0.99) == pytest.approx(2.62641 * 0.2 / 10, rel=1e-5)


def test_a_sample_without_differences_still_allows_for_rare_ones():
    same = design([1e6], [0.0], [0.3])
    assert same.half_width(np.array([400]), 0.99) == pytest.approx(2.588 * 0.3 / 400, rel=1e-3)


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 2)), min_size=1, max_size=6
    ),
    st.floats(1e-5, 0.5),
)
@example([(33, 0.0, 5e-147)], 0.5)
def test_planned_draws_reach_the_half_width(strata, wanted):
    plan = design(*zip(*strata, strict=True))
    draws = plan.draws_for(wanted, 0.99)
    assert (draws <= plan.sizes).all()
    assert (draws >= np.minimum(plan.sizes, LEAST_DRAWS)).all()
    assert plan.half_width(draws, 0.99) <= wanted


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 2)), min_size=1, max_size=6
    ),
    st.integers(1, 10**6),
)
def test_draws_are_shared_out_to_the_last(strata, n_draws):
    plan = design(*zip(*strata, strict=True))
    draws = plan.draws_within(n_draws)
    assert (draws <= plan.sizes).all()
    least = np.minimum(plan.sizes, LEAST_DRAWS).sum()
    if n_draws >= plan.sizes.sum():
        np.testing.assert_array_equal(draws, plan.sizes)
    else:
        assert n_draws <= draws.sum() <= max(least, 1.01 * n_draws + 2 * len(strata))


def test_the_noisy_stratum_is_drawn_most():
    draws = design([1000, 1000], [0.5, 0.01], [0.0, 0.0]).draws_within(500)
    assert draws[0] > 10 * draws[1]


@pytest.mark.parametrize("tail", ["normal", "one in a thousand"])
def test_intervals_cover_the_mean_of_populations(tail):
    rng = np.random.default_rng(1)
    n = 20_000
    if tail == "normal":
        residuals = rng.normal(0, 0.01, n)
        reach = 0.05
    else:
        # A sample of 300 sees none of these in most cases.
        residuals = np.where(rng.random(n) < 1e-3, 0.3, rng.normal(0, 1e-4, n))
        reach = 0.3
    covered = 0
    for _ in range(400):
        drawn = rng.choice(residuals, 300, replace=False)
        width = design([n], [drawn.std(ddof=1)], [reach]).half_width(np.array([300]), 0.99)
        covered += abs(drawn.mean() - residuals.mean()) <= width
    assert covered >= 0.97 * 400

"""Swaps lower the sum over pairs, and end where no swap does."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.interpret.genomap.swaps import improve_by_swaps, pair_sum


def symmetric(random, n):
    matrix = random.standard_normal((n, n))
    return matrix + matrix.T


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shares=st.booleans())
def test_no_single_swap_is_left_that_lowers_the_sum(seed, shares):
    random = np.random.default_rng(seed)
    n = 12
    places = np.sort(random.integers(0, 5, n)) if shares else random.permutation(n)
    m = 5 if shares else n
    related, costs = symmetric(random, n), symmetric(random, m)
    found = improve_by_swaps(related, costs, places)
    assert sorted(found) == sorted(places)
    total = pair_sum(related, costs, found)
    assert total <= pair_sum(related, costs, places) + 1e-9
    for i, k in combinations(range(n), 2):
        swapped = found.copy()
        swapped[[i, k]] = found[[k, i]]
        assert pair_sum(related, costs, swapped) >= total - 1e-3


def test_genes_move_only_where_they_may():
    random = np.random.default_rng(0)
    group = np.arange(20) % 4
    places = random.permutation(20)
    found = improve_by_swaps(
        symmetric(random, 20), symmetric(random, 20), places, group[:, None] == group
    )
    assert np.array_equal(group[found], group[places])
    assert not np.array_equal(found, places)


def test_the_sum_over_pairs_is_the_plain_one():
    random = np.random.default_rng(1)
    related, costs = symmetric(random, 6), symmetric(random, 3)
    places = np.array([0, 1, 2, 2, 1, 0])
    expected = sum(
        related[i, k] * costs[places[i], places[k]] for i in range(6) for k in range(6) if i != k
    )
    assert pair_sum(related, costs, places) == pytest.approx(expected)

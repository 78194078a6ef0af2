"""Bounds on shares and medians, which must cover as often as they say."""

import numpy as np
import pytest

from medl_scale.evaluate.neighbours.sampled_error import median_error, share_error


def test_the_share_bound_is_that_of_clopper_and_pearson():
    none = np.zeros(500, bool)
    # Nothing seen in 500: the share p with (1 - p)^500 = 0.005.
    assert share_error(none, none) == pytest.approx(1 - 0.005 ** (1 / 500), rel=1e-9)
    all_wrong = share_error(none, ~none)
    assert all_wrong == 1.0


def test_intervals_cover_the_exact_share_and_median_at_least_as_often_as_they_say():
    rng = np.random.default_rng(0)
    exact = rng.gamma(3.0, size=20_000)
    nearly = exact + np.where(rng.random(20_000) < 0.2, rng.normal(0.3, 0.5, 20_000), 0.0)
    off = np.median(nearly) - np.median(exact)
    share_off = np.mean(nearly > 2) - np.mean(exact > 2)
    n_covered = n_shares = 0
    for _ in range(300):
        rows = rng.choice(20_000, 500, replace=False)
        n_covered += median_error(nearly, nearly[rows], exact[rows]) >= abs(off)
        n_shares += share_error(nearly[rows] > 2, exact[rows] > 2) >= abs(share_off)
    assert n_covered >= 297 - 3
    assert n_shares >= 297 - 3
    assert abs(off) > 0.05


def test_equal_values_leave_only_what_500_cells_cannot_tell():
    values = np.random.default_rng(1).normal(size=50_000)
    error = median_error(values, values[:500], values[:500])
    # One per cent of the cells around the median.
    assert 0.01 < error < 0.05
    assert median_error(np.ones(100), np.ones(50), np.ones(50)) == 0.0

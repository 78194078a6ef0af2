"""Baselines from sums of cells, against least squares on the cells themselves."""

from __future__ import annotations

import numpy as np
import pytest

from medl_scale.interpret.baselines import RIDGE, GroupSums, TrainSums

N_LABELS, N_BATCHES, N_VARS = 3, 4, 5


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(3)
    labels = rng.integers(-1, N_LABELS - 1, 400)  # the last type has no train cell
    batches = rng.integers(0, N_BATCHES, 400)
    batches[labels == 1] %= 2  # and one type is missing from two batches
    values = rng.normal(size=(400, N_VARS)) + labels[:, None] + 0.3 * batches[:, None] ** 2
    return values.astype(np.float32), labels, batches


@pytest.fixture(scope="module")
def baselines(cells):
    values, labels, batches = cells
    sums = TrainSums(N_LABELS, N_BATCHES, N_VARS)
    for start in range(0, 400, 90):
        rows = slice(start, start + 90)
        sums.add(values[rows], labels[rows], batches[rows])
    return sums.fit()


def test_the_two_way_fit_is_least_squares_on_the_cells(cells, baselines):
    values, labels, batches = cells
    known = labels >= 0
    design = np.hstack([np.eye(2)[labels[known]], np.eye(N_BATCHES)[batches[known]]])
    # A batch without an effect, seen with little weight, tells apart what else is one constant.
    prior = np.hstack([np.zeros((N_BATCHES, 2)), np.sqrt(RIDGE) * np.eye(N_BATCHES)])
    found, *_ = np.linalg.lstsq(
        np.vstack([design, prior]),
        np.vstack([values[known].astype(np.float64), np.zeros((N_BATCHES, N_VARS))]),
    )
    np.testing.assert_allclose(baselines.profile[:2], found[:2], atol=1e-9)
    np.testing.assert_allclose(baselines.effect, found[2:], atol=1e-9)


def test_predictions_shift_what_was_measured_or_put_type_and_batch_together(cells, baselines):
    values, labels, batches = cells
    measured = np.arange(N_VARS, dtype=np.float64)
    told = baselines.predict(1, 0, 3, measured)
    assert list(told) == ["no_shift", "batch_shift", "two_way_shift", "two_way_profile"]
    np.testing.assert_array_equal(told["no_shift"], measured)
    # Cells without a label count towards the means of batches.
    means = [values[batches == batch].mean(axis=0, dtype=np.float64) for batch in (0, 3)]
    np.testing.assert_allclose(told["batch_shift"], measured + means[1] - means[0])
    effect = baselines.effect
    np.testing.assert_allclose(told["two_way_shift"] - measured, effect[3] - effect[0])
    np.testing.assert_allclose(told["two_way_profile"], baselines.profile[1] + effect[3])
    assert np.isnan(baselines.predict(2, 0, 3, measured)["two_way_profile"]).all()
    assert baselines.n.sum() == np.count_nonzero(labels >= 0)


def test_group_sums_give_means_and_their_squared_standard_errors(cells):
    values, labels, _ = cells
    sums = GroupSums(N_LABELS, N_VARS, with_squares=True)
    for start in range(0, 400, 77):
        sums.add(values[start : start + 77], labels[start : start + 77])
    for label in range(2):
        own = values[labels == label].astype(np.float64)
        assert sums.n[label] == len(own)
        np.testing.assert_allclose(sums.mean[label], own.mean(axis=0))
        np.testing.assert_allclose(sums.mean_variance[label], own.var(axis=0, ddof=1) / len(own))
    assert np.isnan(sums.mean_variance[2]).all()

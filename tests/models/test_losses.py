"""Loss terms against plain NumPy and against what their names promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.models.losses import (
    between_batch_trace,
    cross_entropy,
    gaussian_kl,
    mean_squared_error,
)
from tests.models import formulas


@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_cross_entropy_is_that_of_the_labelled_cells(seed, n_classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (9, n_classes)).astype(np.float32)
    codes = rng.integers(-1, n_classes, 9).astype(np.int32)
    found = float(cross_entropy(logits, codes))
    assert found == pytest.approx(formulas.cross_entropy(logits.astype(float), codes), rel=1e-5)
    kept = codes >= 0
    if kept.any():
        assert found == pytest.approx(float(cross_entropy(logits[kept], codes[kept])), rel=1e-5)


def test_a_sure_mistake_costs_no_more_than_the_clipped_probability():
    logits = np.array([[0.0, 500.0]], np.float32)
    wrong = float(cross_entropy(logits, np.array([0], np.int32)))
    assert wrong == pytest.approx(-np.log(1e-7), rel=1e-6)
    assert float(cross_entropy(logits, np.array([1], np.int32))) == pytest.approx(0.0, abs=1e-6)


def test_cross_entropy_without_any_label_is_zero():
    logits = np.ones((3, 2), np.float32)
    assert float(cross_entropy(logits, np.full(3, -1, np.int32))) == 0.0


def test_squared_error_is_a_mean_over_cells_and_genes():
    x = np.zeros((2, 3), np.float32)
    assert float(mean_squared_error(x, x + 2.0)) == 4.0


def test_gaussian_kl_sums_units_and_averages_cells():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(5, 3)).astype(np.float32)
    log_variance = rng.normal(size=(5, 3)).astype(np.float32)
    sd = np.exp(log_variance / 2)
    expected = np.mean(np.sum(-np.log(sd) + (sd**2 + mean**2) / 2 - 0.5, axis=1))
    assert float(gaussian_kl(mean, log_variance)) == pytest.approx(expected, rel=1e-5)
    assert float(gaussian_kl(np.zeros((2, 3)), np.zeros((2, 3)))) == 0.0


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_between_batch_trace_equals_linear_algebra_and_is_bounded(seed):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(40, 3)).astype(np.float32)
    codes = rng.integers(0, 4, 40).astype(np.int32)
    found = float(between_batch_trace(latent, codes, 6))
    assert found == pytest.approx(formulas.trace(latent.astype(float), codes), rel=1e-3, abs=1e-5)
    assert 0 <= found <= 3


def test_between_batch_trace_tells_mixed_from_apart():
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(60, 2)).astype(np.float32)
    codes = np.repeat([0, 1, 2], 20).astype(np.int32)
    means = np.array([latent[codes == c].mean(axis=0) for c in range(3)])
    assert float(between_batch_trace(latent - means[codes], codes, 3)) == pytest.approx(0, abs=1e-5)
    apart = np.array([[0, 0], [50, 0], [0, 50]], np.float32)[codes] + 0.01 * latent
    assert float(between_batch_trace(apart, codes, 3)) == pytest.approx(2, abs=0.01)

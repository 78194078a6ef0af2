"""Layers against NumPy, and what batch normalisation leaves behind."""

import numpy as np
import pytest

from medl_scale.models.scope import Scope, dense_values, norm_statistics, norm_values


def norm(rng: np.random.Generator, width: int) -> dict[str, np.ndarray]:
    values = norm_values("n", width) | norm_statistics([("n", width)])
    return {k: np.asarray(v + rng.uniform(0, 1, v.shape), np.float32) for k, v in values.items()}


def test_training_normalises_by_the_minibatch_and_inference_by_moving_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (20, 4)).astype(np.float32)
    values = norm(rng, 4)
    for training in (True, False):
        mean = x.mean(axis=0) if training else values["n/mean"]
        variance = x.var(axis=0) if training else values["n/variance"]
        expected = (x - mean) / np.sqrt(variance + 1e-3) * values["n/gain"] + values["n/offset"]
        scope = Scope(values, training=training)
        np.testing.assert_allclose(scope.batch_norm("n", x), expected, rtol=1e-4, atol=1e-5)
        assert bool(scope.updates) == training


def test_moving_statistics_are_the_plain_mean_of_the_first_hundred_minibatches():
    rng = np.random.default_rng(1)
    values = norm_values("n", 3) | norm_statistics([("n", 3)])
    means = []
    for _ in range(100):
        x = rng.normal(size=(8, 3)).astype(np.float32)
        scope = Scope(values, training=True)
        scope.batch_norm("n", x)
        values |= {name: np.asarray(value) for name, value in scope.updates.items()}
        means.append(x.mean(axis=0))
    np.testing.assert_allclose(values["n/mean"], np.mean(means, axis=0), rtol=1e-4, atol=1e-6)
    for _ in range(2):
        x = rng.normal(size=(8, 3)).astype(np.float32)
        scope = Scope(values, training=True)
        scope.batch_norm("n", x)
        expected = 0.99 * values["n/mean"] + 0.01 * x.mean(axis=0)
        np.testing.assert_allclose(scope.updates["n/mean"], expected, rtol=1e-4, atol=1e-6)
        values |= {name: np.asarray(value) for name, value in scope.updates.items()}


def test_a_published_momentum_holds_from_the_first_minibatch():
    rng = np.random.default_rng(2)
    x = rng.normal(5, 2, (10, 2)).astype(np.float32)
    values = norm_values("n", 2) | norm_statistics([("n", 2)])
    scope = Scope(values, training=True, momentum=0.99)
    scope.batch_norm("n", x)
    np.testing.assert_allclose(scope.updates["n/mean"], 0.01 * x.mean(axis=0), rtol=1e-5)
    expected = 0.99 + 0.01 * x.var(axis=0)
    np.testing.assert_allclose(scope.updates["n/variance"], expected, rtol=1e-5)


def test_a_layer_without_effects_passes_unchanged():
    x = np.ones((3, 2), np.float32)
    effects = {"known": (np.full_like(x, 0.5), np.full_like(x, 2.0))}
    scope = Scope({}, effects=effects)
    assert scope.random_effect("other", x) is x
    np.testing.assert_array_equal(scope.random_effect("known", x), 1.5 * x + 2.0)


def test_a_tied_layer_takes_the_transposed_kernel_and_its_own_bias():
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(4, 2)).astype(np.float32)
    values = {"e/kernel": kernel, "e/bias": np.ones(2), "d/bias": np.arange(4, dtype=np.float32)}
    latent = rng.normal(size=(5, 2)).astype(np.float32)
    expected = latent @ kernel.T + np.arange(4)
    np.testing.assert_allclose(Scope(values).tied("d", "e", latent), expected, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_kernels_start_glorot_uniform(bias):
    values = dense_values(np.random.default_rng(4), "a", 300, 200, bias=bias)
    kernel = values["a/kernel"]
    limit = np.sqrt(6 / 500)
    assert kernel.dtype == np.float32
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.01)
    assert ("a/bias" in values) == bias
    x = np.ones((1, 300), np.float32)
    np.testing.assert_allclose(Scope(values).dense("a", x), x @ kernel, rtol=1e-4)

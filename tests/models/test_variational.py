"""The posterior of the random effects against TensorFlow Probability, and where it starts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.models.posteriors import posterior, prior
from medl_scale.models.variational import (
    EffectTable,
    gather_effects,
    initial_table,
    posterior_scale,
    row_kl,
    softplus_inverse,
    table_kl,
)


def random_table(seed: int, n_batches: int = 3, width: int = 4) -> EffectTable:
    rng = np.random.default_rng(seed)
    size = (2, n_batches, width)
    return EffectTable(
        rng.normal(0, 0.5, size).astype(np.float32), rng.uniform(-9, 2, size).astype(np.float32)
    )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_closed_form_kl_equals_tensorflow_probability(seed):
    from tensorflow_probability import distributions as tfd

    table = random_table(seed)
    per_batch = [float(tfd.kl_divergence(posterior(table, code), prior(4))) for code in range(3)]
    assert table_kl(table) == pytest.approx(sum(per_batch), rel=1e-5)
    rows = np.asarray(row_kl(table.loc, table.scale)).sum(axis=(0, 2))
    np.testing.assert_allclose(rows, per_batch, rtol=1e-4)


def test_kl_is_zero_at_the_prior_alone():
    at_prior = EffectTable(
        np.zeros((2, 1, 1), np.float32),
        np.full((2, 1, 1), softplus_inverse(0.25 - 1e-5), np.float32),
    )
    assert table_kl(at_prior) == pytest.approx(0.0, abs=1e-6)
    moved = EffectTable(at_prior.loc + np.float32(0.1), at_prior.untransformed)
    assert table_kl(moved) == pytest.approx(2 * 0.5 * (0.1 / 0.25) ** 2, rel=1e-4)


def test_first_standard_deviations_lie_where_the_papers_mean_them_to():
    table = initial_table(np.random.default_rng(0), 20, 300, loc_sd=0.1)
    assert table.scale.min() >= 0.010
    assert table.scale.max() <= 0.015 + 2e-5
    # Uniform in natural units.
    np.testing.assert_allclose(
        np.quantile(table.scale, [0.25, 0.5, 0.75]), [0.01126, 0.01251, 0.01376], rtol=0.01
    )
    np.testing.assert_allclose(table.loc.std(), 0.1, rtol=0.05)


def test_published_standard_deviations_start_where_the_papers_code_puts_them():
    table = initial_table(np.random.default_rng(0), 20, 300, loc_sd=0.1, published_scales=True)
    assert table.untransformed.max() <= -4.60
    assert table.untransformed.min() >= -9.91
    assert 5e-5 < table.scale.min() < 7e-5
    assert 0.0095 < table.scale.max() <= 0.0101
    assert np.median(table.scale) == pytest.approx(7e-4, rel=0.1)


def test_given_shifts_start_there_with_scales_at_zero():
    shift = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    table = initial_table(np.random.default_rng(0), 3, 4, loc_sd=0.1, shift=shift)
    np.testing.assert_array_equal(table.loc[0], 0)
    np.testing.assert_array_equal(table.loc[1], shift)


@given(value=st.floats(1e-4, 30))
def test_softplus_inverse_undoes_softplus(value):
    assert np.log1p(np.exp(softplus_inverse(value))) == pytest.approx(value, rel=1e-9)


def test_both_softplus_agree():
    table = random_table(2)
    np.testing.assert_allclose(posterior_scale(table.untransformed), table.scale, rtol=1e-5)


def test_each_cell_is_given_the_row_of_its_batch():
    table = random_table(3)
    codes = np.array([2, 0, 0, 1], np.int32)
    scale, shift = gather_effects({"layer": table.loc}, codes)["layer"]
    np.testing.assert_array_equal(scale, table.loc[0][codes])
    np.testing.assert_array_equal(shift, table.loc[1][codes])

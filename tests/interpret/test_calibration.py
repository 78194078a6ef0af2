"""Factors for intervals, where the right ones are known."""

from __future__ import annotations

import numpy as np
import pytest

from medl_scale.interpret.calibration import (
    LEVELS,
    Calibration,
    OwnIntervals,
    Residuals,
    calibrate,
    coverage,
)


def drawn(seed: int, factor: float, noise: float, n_pairs: int = 60) -> Residuals:
    """Errors whose s.d. is `factor` times the posterior's, beside noise that is known."""
    rng = np.random.default_rng(seed)
    sd = rng.uniform(0.5, 2.0, (n_pairs, 400))
    spread = noise * rng.uniform(0.5, 2.0, sd.shape)
    error = factor * sd * rng.normal(size=sd.shape) + spread * rng.normal(size=sd.shape)
    return Residuals(error, sd, np.square(spread))


@pytest.mark.parametrize("factor", [1.5, 8.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_too_narrow_a_posterior_is_found_out_whatever_the_sampling_noise(factor, noise):
    found = calibrate(drawn(0, factor, noise))
    np.testing.assert_allclose(found[1:4], factor, rtol=0.1)
    fresh = drawn(1, factor, noise)
    for level, widened in zip(LEVELS, found, strict=True):
        assert coverage(fresh, level, widened) == pytest.approx(level, abs=0.02)
        assert coverage(fresh, level) < level - (0.003 if level == 0.99 else 0.03)
        # What is asked for is the truth behind the noise: without it the intervals hold as often.
        assert coverage(drawn(2, factor, 0.0), level, widened) == pytest.approx(level, abs=0.03)


def test_intervals_are_never_narrower_than_the_posterior_says_and_wider_levels_are_wider():
    assert calibrate(drawn(0, 0.2, 1.0)) == pytest.approx((1.0,) * len(LEVELS))
    # All errors are as large: a wide level needs no more than a narrow one.
    alike = drawn(0, 1.0, 0.0)
    alike = Residuals(np.sign(alike.error) * 3, np.ones_like(alike.error), alike.noise_variance)
    found = np.array(calibrate(alike))
    reach = found * [0.674, 1.282, 1.645, 1.960, 2.576]
    assert (np.diff(reach) >= -1e-3).all()


def test_errors_of_heavy_tails_get_a_factor_for_each_level():
    rng = np.random.default_rng(0)
    error = rng.standard_t(2, (80, 400))
    tails = Residuals(error, np.ones_like(error), np.zeros_like(error))
    found = calibrate(tails)
    assert found[-1] > 1.5 * found[0]
    fresh = Residuals(rng.standard_t(2, (80, 400)), tails.posterior_sd, tails.noise_variance)
    for level, widened in zip(LEVELS, found, strict=True):
        assert coverage(fresh, level, widened) == pytest.approx(level, abs=0.01)


def test_a_calibration_is_kept_as_text_interpolates_and_says_what_it_is(tmp_path):
    made = Calibration("me", 1, "validation", 40, 12, (2.0, 3.0, 4.0, 5.0, 9.0), (1.0,) * 5)
    made.write(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json") == made
    assert made.factor(0.95) == 5.0
    assert made.factor(0.85) == pytest.approx(3.5)
    assert (made.factor(0.2), made.factor(0.999)) == (2.0, 9.0)
    assert made.factor(0.95, "difference") == 1.0
    words = made.words(0.95)
    assert "calibrated on 40 moves of 12 types in batches by validation cells: 5.00 times" in words
    own = OwnIntervals("no labels")
    assert own.factor(0.95) == 1.0
    assert "held-out cells lie outside more often than the level says (no labels)" in own.words(0.9)

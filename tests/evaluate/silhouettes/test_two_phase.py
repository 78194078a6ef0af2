"""The estimated mean silhouette: its interval covers, its bounds hold, its sampling ends in time."""

import pickle

import numpy as np
import pytest

from benchmarks.latents import make_latent
from medl_scale.errors import ConfigError
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.layout import sort_by_label
from medl_scale.evaluate.silhouettes.pruned import pruned_samples
from medl_scale.evaluate.silhouettes.subclusters import build_subclusters
from medl_scale.evaluate.silhouettes.two_phase import two_phase


def layout(latent, labels):
    return sort_by_label(latent, encode_labels(labels, len(labels)))


def heavy_tails(n, d, n_labels):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, n_labels, n)
    return rng.standard_t(1.5, (n, d)) + rng.normal(0, 3, (n_labels, d))[codes], codes


def rare_labels(n, d, n_labels):
    latent, codes = make_latent("celltype", n, d, n_labels, 5)
    moved = np.random.default_rng(4).choice(n, 60, replace=False)
    codes[moved] = n_labels + np.arange(60) // 3
    return latent, codes


CASES = {
    "celltype": lambda: make_latent("celltype", 8000, 10, 12, 0),
    "mixed": lambda: make_latent("mixed", 8000, 10, 30, 0),
    "null": lambda: make_latent("null", 8000, 10, 20, 0),
    "re": lambda: make_latent("re", 8000, 10, 20, 0),
    "heavy tails": lambda: heavy_tails(8000, 8, 10),
    "rare labels": lambda: rare_labels(8000, 10, 12),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Return sorted cells, their sub-clusters, and their exact silhouettes."""
    clusters = layout(*CASES[request.param]())
    return clusters, build_subclusters(clusters), pruned_samples(clusters).values


def test_intervals_of_99_percent_cover_at_least_97_of_100_times(case):
    clusters, sub, exact = case
    misses = np.array(
        [
            [found.value - exact.mean(), found.half_width]
            for found in (
                two_phase(clusters, tol=2e-3, seed=seed, subclusters=sub) for seed in range(100)
            )
        ]
    )
    error, half_width = misses.T
    assert (half_width <= 2e-3).all()
    assert (np.abs(error) <= half_width).sum() >= 97
    # Unbiased: the mean of 100 estimates is within 4 of its standard errors.
    assert abs(error.mean()) <= 4 * error.std(ddof=1) / 10 + 1e-6


def test_values_of_cells_are_within_their_bounds(case):
    clusters, sub, exact = case
    found = two_phase(clusters, tol=1e-3, subclusters=sub)
    assert found.kind == "confidence"
    assert (np.abs(found.values - exact) <= found.bounds + 1e-6).all()
    assert (np.abs(found.values) <= 1).all()


def test_absolute_values_have_their_own_mean(case):
    clusters, sub, exact = case
    found = two_phase(clusters, tol=1e-3, subclusters=sub, absolute=True)
    assert abs(found.value - np.abs(exact).mean()) <= found.half_width <= 1e-3
    assert (np.abs(found.values - np.abs(exact)) <= found.bounds + 1e-6).all()


def test_a_narrow_interval_takes_all_cells_and_is_exact():
    clusters = layout(*make_latent("mixed", 2500, 6, 10, 1))
    found = two_phase(clusters, tol=1e-9)
    exact = pruned_samples(clusters)
    assert (found.kind, found.limit, found.n_queries) == ("exact", "cells", 2500)
    assert found.method == "two_phase (2,500 exact queries, all cells)"
    np.testing.assert_allclose(found.value, exact.values.mean(), atol=1e-6)
    np.testing.assert_allclose(found.values, exact.values, atol=1e-6)
    assert found.half_width < 1e-5


def test_bounds_alone_are_enough_where_little_is_asked():
    clusters = layout(*make_latent("celltype", 5000, 8, 6, 2))
    found = two_phase(clusters, tol=0.2)
    exact = pruned_samples(clusters).values
    assert (found.kind, found.n_queries, found.method) == (
        "certified",
        0,
        "two_phase (bounds alone)",
    )
    assert abs(found.value - exact.mean()) <= found.half_width <= 0.2
    assert (np.abs(found.values - exact) <= found.bounds + 1e-6).all()


def test_time_ends_the_sampling_with_an_honest_interval():
    clusters = layout(*make_latent("mixed", 20_000, 10, 20, 3))
    found = two_phase(clusters, tol=1e-7, max_seconds=1e-3)
    assert found.limit == "time"
    assert found.method.endswith("time was up)")
    assert found.half_width > 1e-7
    assert found.n_queries < 3000
    assert abs(found.value - pruned_samples(clusters).values.mean()) <= found.half_width


def test_figures_depend_on_the_seed_and_not_on_who_works():
    clusters = layout(*make_latent("mixed", 6000, 5, 8, 4))

    def elsewhere(function, shared, items):
        """Carry everything to another process and back."""
        for item in items:
            copy, at, what = pickle.loads(pickle.dumps((function, shared, item)))
            yield pickle.loads(pickle.dumps(copy(at, what)))

    here = two_phase(clusters, tol=1e-3, seed=1)
    there = two_phase(clusters, tol=1e-3, seed=1, map_blocks=elsewhere)
    other = two_phase(clusters, tol=1e-3, seed=2)
    assert (here.value, here.half_width) == (there.value, there.half_width)
    np.testing.assert_array_equal(here.values, there.values)
    assert here.value != other.value


def test_cells_without_company_need_no_sample():
    rng = np.random.default_rng(0)
    # Two cells share a label, all others are alone: silhouettes of 0, and no more to say.
    latent = rng.normal(size=(500, 3))
    labels = np.append(np.arange(499), 0)
    found = two_phase(layout(latent, labels), tol=1e-6)
    exact = pruned_samples(layout(latent, labels)).values
    assert found.value == pytest.approx(exact.mean(), abs=1e-6)
    assert found.n_queries <= 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tol": 0.0}, "tol must be greater than 0; got 0.0"),
        ({"tol": -1.0}, "tol must be greater than 0; got -1.0"),
        ({"tol": float("nan")}, "tol must be greater than 0; got nan"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1, such as 0.99; got 1.0"),
        ({"confidence": 0.0}, "confidence must lie between 0 and 1"),
        ({"max_seconds": 0}, "max_seconds must be greater than 0, or None; got 0"),
    ],
)
def test_options_out_of_range_are_named(options, text):
    clusters = layout(*make_latent("null", 100, 2, 3, 0))
    with pytest.raises(ConfigError, match=text):
        two_phase(clusters, **options)

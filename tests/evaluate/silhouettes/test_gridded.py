"""Gridded silhouettes: the certificate is never violated, whatever the latent looks like."""

import pickle
import re

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples

from medl_scale.errors import ConfigError
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.gridded import gridded_samples
from medl_scale.evaluate.silhouettes.gridded.survey import make_survey
from medl_scale.evaluate.silhouettes.layout import sort_by_label


def clusters_of(latent, labels):
    return sort_by_label(latent, encode_labels(labels, len(latent)))


def exact(latent, labels):
    """Silhouettes from differences in float64, which no offset disturbs."""
    x = np.asarray(latent, np.float64) - np.mean(latent, axis=0, dtype=np.float64)
    x /= max(np.abs(x).max(), np.finfo(float).tiny)
    member = labels[:, None] == np.unique(labels)
    counts = member.sum(axis=0)
    values = np.empty(len(x))
    for start in range(0, len(x), 500):
        rows = slice(start, start + 500)
        sums, own = cdist(x[rows], x) @ member.astype(float), member[rows]
        a = sums[own] / np.maximum(counts[own.argmax(axis=1)] - 1, 1)
        b = np.where(own, np.inf, sums / counts).min(axis=1)
        largest = np.maximum(a, b)
        values[rows] = np.where(largest > 0, (b - a) / np.where(largest > 0, largest, 1), 0)
        values[rows][counts[own.argmax(axis=1)] == 1] = 0
    return values


def errors_of(result, latent, labels):
    clusters = clusters_of(latent, labels)
    return np.abs(exact(latent, labels)[clusters.order] - result.values)


def blobs(n, n_labels, *, width=0.3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, n)
    centres = rng.normal(0, 3, (n_labels, 2))
    return centres[labels] + width * rng.normal(size=(n, 2)), labels


def adversary(kind, n, n_labels, seed):
    """A latent that defeats a grid without a certificate."""
    rng = np.random.default_rng(seed)
    x, labels = blobs(n, n_labels, seed=seed)
    match kind:
        case "heavy tails":
            x = x + rng.standard_t(1.2, (n, 2))
        case "cauchy":
            x = rng.standard_cauchy((n, 2))
        case "three far outliers":
            x[:3] = 1e4 * rng.normal(size=(3, 2))
        case "nested compact labels":
            x = rng.normal(size=(n, 2))
            x[labels == 0] *= 1e-3
            x[labels == 1] = 0.5 + 1e-5 * x[labels == 1]
        case "duplicates":
            x[: n // 2] = x[n // 2 : 2 * (n // 2)]
        case "one label identical":
            x[labels == 0] = 1.0
        case "collapsed dimension":
            x[:, 1] = 7.0
        case "few positions":
            x = rng.integers(0, 5, (n, 2)).astype(float)
        case "far compact clumps":
            clump = rng.integers(0, 3, n)
            x = np.array([[0, 0], [100, 0], [0, 1000]])[clump] + 1e-3 * rng.normal(size=(n, 2))
        case "tiny labels":
            labels[:40] = n_labels + np.arange(40) // 2
        case "singletons":
            labels[:10] = n_labels + np.arange(10)
        case "no structure":
            x = rng.normal(size=(n, 2))
        case "uneven labels":
            labels = np.minimum(labels, 1)
            labels[:50] = 2
    return x, labels


KINDS = [
    "blobs",
    "heavy tails",
    "cauchy",
    "three far outliers",
    "nested compact labels",
    "duplicates",
    "one label identical",
    "collapsed dimension",
    "few positions",
    "far compact clumps",
    "tiny labels",
    "singletons",
    "no structure",
    "uneven labels",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
def test_every_cell_is_within_its_bound_and_every_bound_within_the_tolerance(kind, tol):
    latent, labels = adversary(kind, 5000, 4, seed=1)
    result = gridded_samples(clusters_of(latent, labels), tol=tol, size=64)
    assert (errors_of(result, latent, labels) <= result.bounds).all()
    assert result.bounds.max() <= tol


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    n_labels=st.integers(2, 6),
    size=st.sampled_from([16, 24, 32, 64]),
    tol=st.sampled_from([1e-1, 1e-2, 1e-3]),
    exponent=st.integers(-8, 15),
    offset=st.sampled_from([0.0, 1.0, -1e6]),
)
def test_the_certificate_holds_for_any_latent(kind, seed, n_labels, size, tol, exponent, offset):
    latent, labels = adversary(kind, 900, n_labels, seed)
    latent = (latent + offset) * 10.0**exponent
    result = gridded_samples(clusters_of(latent, labels), tol=tol, size=size)
    # The reference itself is off by as much as an offset costs float64.
    assert (errors_of(result, latent, labels) <= result.bounds + 1e-9).all()
    assert result.bounds.max() <= tol


@pytest.mark.slow  # thousands of cases: minutes
@pytest.mark.timeout(1800)
def test_the_certificate_is_never_violated_over_thousands_of_random_cases():
    random = np.random.default_rng(20261120)
    worst = 0.0
    for case in range(3_000):
        kind, n_labels = KINDS[case % len(KINDS)], int(random.integers(2, 12))
        latent, labels = adversary(kind, int(random.integers(100, 1_200)), n_labels, case)
        latent = latent * 10.0 ** random.integers(-8, 16)
        result = gridded_samples(
            clusters_of(latent, labels),
            tol=float(10.0 ** random.uniform(-5, -0.5)),
            size=int(2 ** random.integers(4, 8)),
        )
        excess = errors_of(result, latent, labels) - result.bounds
        assert excess.max() <= 1e-12, (case, kind)
        used = errors_of(result, latent, labels) / np.maximum(result.bounds, 1e-9)
        worst = max(worst, float(used.max()))
    # Cases that come near their bound show that the bound is not merely huge.
    assert worst > 0.2


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_latents_far_from_the_origin_are_as_certain(offset):
    latent, labels = blobs(4000, 5)
    latent = (latent + offset).astype(np.float32)
    result = gridded_samples(clusters_of(latent, labels), size=64)
    assert (errors_of(result, latent, labels) <= result.bounds).all()


def test_values_are_those_of_scikit_learn():
    latent, labels = blobs(3000, 6, width=1.0)
    clusters = clusters_of(latent, labels)
    result = gridded_samples(clusters, tol=1e-4, size=64)
    np.testing.assert_allclose(
        result.values, silhouette_samples(latent, labels)[clusters.order], atol=1e-4
    )


def test_identical_cells_have_silhouette_0_exactly():
    result = gridded_samples(clusters_of(np.full((50, 2), 0.1), np.arange(50) % 3))
    assert not result.values.any()
    assert not result.bounds.any()
    assert result.method == "gridded (one point)"


def test_two_labels_at_one_point_are_told_apart_from_nothing():
    latent = np.repeat([[0.1, 0.2], [0.1, 0.2], [3.0, 4.0]], 100, axis=0)
    labels = np.repeat([0, 1, 2], 100)
    result = gridded_samples(clusters_of(latent, labels), size=32)
    assert (result.values[:200] == 0).all()
    assert (np.abs(exact(latent, labels) - result.values) <= result.bounds).all()


def test_grids_of_their_own_spare_sums():
    latent, labels = blobs(30_000, 4, width=0.05)
    survey = make_survey(clusters_of(latent, labels), 96, map_here)
    assert survey.n_fields == 4
    result = gridded_samples(clusters_of(latent, labels))
    refined, summed = map(float, re.findall(r"([\d.]+)%", result.method))
    assert refined > 90
    assert summed < 1


def test_cells_between_nested_grids_are_gridded_too():
    latent, labels = adversary("cauchy", 20_000, 3, seed=0)
    clusters = clusters_of(latent, labels)
    survey = make_survey(clusters, 64, map_here)
    assert len(survey.grids) > 2
    assert sum(inner is not None for inner in survey.inner) > 1
    result = gridded_samples(clusters, size=64, tol=1e-2)
    few = np.random.default_rng(0).choice(len(latent), 300, replace=False)
    x = latent[clusters.order]
    codes = clusters.codes
    for i in few:
        distances = np.hypot(*(x - x[i]).T)
        sums = np.bincount(codes, distances)
        a = sums[codes[i]] / (clusters.counts[codes[i]] - 1)
        b = min(sums[k] / clusters.counts[k] for k in range(3) if k != codes[i])
        assert abs((b - a) / max(a, b) - result.values[i]) <= result.bounds[i]


def test_labels_too_many_or_cells_too_few_for_fields_are_summed():
    rng = np.random.default_rng(0)
    latent, labels = rng.normal(size=(2500, 2)), rng.integers(0, 1100, 2500)
    result = gridded_samples(clusters_of(latent, labels))
    assert result.method == "gridded (all pairs summed)"
    assert (errors_of(result, latent, labels) <= result.bounds).all()


def test_labels_of_few_cells_are_summed_beside_the_fields_of_others():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(3000, 2))
    labels = np.where(np.arange(3000) < 2800, 0, rng.integers(1, 40, 3000))
    clusters = clusters_of(latent, labels)
    assert make_survey(clusters, 64, map_here).n_fields == 1
    result = gridded_samples(clusters, size=64)
    assert (errors_of(result, latent, labels) <= result.bounds).all()


def test_figures_do_not_depend_on_threads_or_on_who_does_the_work():
    latent, labels = adversary("heavy tails", 30_000, 5, seed=2)
    clusters = clusters_of(latent, labels)

    def elsewhere(function, shared, items):
        for item in items:
            there = pickle.loads(pickle.dumps((function, shared, item)))
            yield pickle.loads(pickle.dumps(there[0](*there[1:])))

    here = gridded_samples(clusters)
    away = gridded_samples(clusters, map_blocks=elsewhere)
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        alone = gridded_samples(clusters)
    finally:
        numba.set_num_threads(n_threads)
    for other in (away, alone):
        np.testing.assert_array_equal(other.values, here.values)
        np.testing.assert_array_equal(other.bounds, here.bounds)
        assert other.method == here.method


def test_what_cannot_be_gridded_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="a latent of 2 dimensions; this one has 3"):
        gridded_samples(clusters_of(rng.normal(size=(20, 3)), np.arange(20) % 2))
    with pytest.raises(ConfigError, match="tol"):
        gridded_samples(clusters_of(rng.normal(size=(20, 2)), np.arange(20) % 2), tol=-1.0)

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from medl_scale.evaluate.silhouettes.brute import brute_samples
from medl_scale.evaluate.silhouettes.distance_sums import relative_rounding
from medl_scale.evaluate.silhouettes.symmetric_sums import own_sums, row_blocks_of
from tests.evaluate.silhouettes.exact_cases import (
    CASES,
    blobs,
    clusters_of,
    errors_of,
    map_elsewhere,
)


@pytest.mark.parametrize("name", CASES)
def test_silhouettes_are_those_of_the_definition(name):
    latent, labels = CASES[name]
    clusters = clusters_of(latent, labels)
    result = brute_samples(clusters)
    errors = errors_of(result, clusters, latent, labels)
    assert (errors <= result.errors).all()
    assert errors.max() < 1e-6
    assert (np.abs(result.values) <= 1).all()
    assert (result.share, result.method) == (1.0, "brute")


def test_the_bound_is_of_the_size_of_float32_whatever_lies_far_away():
    for name, (latent, labels) in CASES.items():
        d = np.shape(latent)[1]
        errors = brute_samples(clusters_of(latent, labels)).errors
        assert errors.max() <= 2.2 * relative_rounding(d) + 1e-7, name


@given(
    n=st.integers(3, 300),
    d=st.integers(1, 12),
    n_labels=st.integers(2, 40),
    power=st.floats(0, 6),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_no_spread_of_magnitudes_breaks_the_bound(n, d, n_labels, power, seed):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, d)) * np.exp(power * rng.normal(size=(n, 1)))
    labels = rng.integers(0, min(n_labels, n - 1), n)
    labels[:2] = 0, 1
    labels[2:3] = 0
    clusters = clusters_of(latent, labels)
    result = brute_samples(clusters)
    assert (errors_of(result, clusters, latent, labels) <= result.errors).all()


def test_cells_alone_in_their_label_have_silhouette_0_and_no_error():
    latent, labels = CASES["singletons"]
    clusters = clusters_of(latent, labels)
    result = brute_samples(clusters)
    alone = clusters.counts[clusters.codes] == 1
    assert alone.sum() == 3
    assert not result.values[alone].any()
    assert not result.errors[alone].any()


def test_large_labels_are_cut_and_small_ones_gathered_without_a_gap():
    counts = np.array([5, 9000, 1, 1, 130, 64, 4096, 4097, 2])
    starts = np.concatenate([[0], np.cumsum(counts)])
    blocks = row_blocks_of(starts)
    covered = np.concatenate([np.arange(block.start, block.stop) for block in blocks])
    np.testing.assert_array_equal(covered, np.arange(starts[-1]))
    for block in blocks:
        is_whole = (block.start, block.stop) == (
            starts[block.first_label],
            starts[block.last_label],
        )
        assert is_whole or block.last_label == block.first_label + 1
        assert starts[block.first_label] <= block.start < block.stop <= starts[block.last_label]
    assert max(block.stop - block.start for block in blocks) <= 4096


@pytest.mark.parametrize("sizes", [(1, 2), (5000, 40), (40, 5000, 300), (3,) * 700, (6000,)])
def test_sums_within_labels_agree_with_float64(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    latent = np.random.default_rng(0).normal(size=(len(labels), 3))
    clusters = clusters_of(latent, labels)
    found = own_sums(clusters)
    points = clusters.points(slice(None))
    for start, stop in zip(clusters.starts[:-1], clusters.starts[1:], strict=True):
        exact = cdist(points[start:stop], points[start:stop]).sum(axis=1)
        np.testing.assert_allclose(found[start:stop], exact, rtol=relative_rounding(3), atol=1e-14)


def test_labels_that_span_several_blocks_are_summed_over_all_of_them():
    latent, labels = blobs(9000, 2, 2)
    clusters = clusters_of(latent, labels)
    assert len(row_blocks_of(clusters.starts)) > 2
    result = brute_samples(clusters)
    assert errors_of(result, clusters, latent, labels).max() < 2e-7


def test_figures_do_not_depend_on_threads_or_on_who_does_the_work():
    clusters = clusters_of(*blobs(4000, 3, 30))
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        single = brute_samples(clusters)
    finally:
        numba.set_num_threads(before)
    for result in (brute_samples(clusters), brute_samples(clusters, map_blocks=map_elsewhere)):
        np.testing.assert_array_equal(result.values, single.values)
        np.testing.assert_array_equal(result.errors, single.errors)

import pickle

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from medl_scale.evaluate.silhouettes.distance_sums import (
    absolute_rounding,
    distance_sums,
    distance_sums_to,
    pair_sums,
    relative_rounding,
)
from tests.evaluate.silhouettes.exact_cases import CASES, blobs, clusters_of


def sums_in_float64(queries, clusters):
    """The same sums from float64 coordinates."""
    distances = cdist(queries, clusters.points(slice(None)))
    return np.add.reduceat(distances, clusters.starts[:-1], axis=1)


def within_bounds(found, exact, counts, d):
    """Whether each sum is as near the exact one as is promised."""
    allowed = relative_rounding(d) * exact + absolute_rounding(d) * counts
    return bool((np.abs(found - exact) <= allowed).all())


@pytest.mark.parametrize("name", CASES)
def test_sums_are_within_their_rounding_bound(name):
    clusters = clusters_of(*CASES[name])
    queries = clusters.points(slice(None))
    found = distance_sums(queries, clusters)
    assert found.shape == (clusters.n, clusters.n_labels)
    assert within_bounds(found, sums_in_float64(queries, clusters), clusters.counts, clusters.d)


@given(
    d=st.integers(1, 70),
    n=st.integers(2, 120),
    n_labels=st.integers(1, 20),
    m=st.integers(1, 30),
    power=st.floats(0.5, 12),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_no_spread_of_magnitudes_breaks_the_rounding_bound(d, n, n_labels, m, power, seed):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, d)) * np.exp(power * rng.normal(size=(n, 1)))
    clusters = clusters_of(latent, rng.integers(0, n_labels, n))
    queries = np.vstack([rng.uniform(-1, 1, (m, d)), clusters.points(rng.integers(0, n, m))])
    found = distance_sums(queries, clusters)
    assert within_bounds(found, sums_in_float64(queries, clusters), clusters.counts, d)


def test_errors_are_those_of_float32_not_of_its_sums():
    latent, labels = blobs(30_000, 2, 2)
    clusters = clusters_of(latent, labels)
    queries = clusters.points(slice(0, 50))
    exact = sums_in_float64(queries, clusters)
    assert np.abs(distance_sums(queries, clusters) / exact - 1).max() < 1e-7


def test_labels_can_be_chosen_in_any_order():
    clusters = clusters_of(*blobs(500, 4, 9))
    queries = clusters.points(slice(100, 140))
    every = distance_sums(queries, clusters)
    np.testing.assert_array_equal(distance_sums(queries, clusters, [7, 2]), every[:, [7, 2]])
    assert distance_sums(queries[:0], clusters).shape == (0, 9)


@pytest.mark.parametrize("d", [1, 2, 3, 16, 50])
def test_sums_to_any_points_agree_with_float64(d):
    rng = np.random.default_rng(d)
    for m, r in ((1, 1), (3, 15), (5, 16), (70, 1000)):
        queries, points = rng.uniform(-1, 1, (m, d)), rng.uniform(-1, 1, (r, d)).astype(np.float32)
        exact = cdist(queries, points).sum(axis=1)
        np.testing.assert_allclose(
            distance_sums_to(queries, points), exact, rtol=relative_rounding(d)
        )


def test_a_cell_is_at_no_distance_from_itself_or_from_its_copies():
    latent = np.tile([[0.3, 0.7, -1.1], [4.0, 1.0, 1e-5]], (20, 1))
    clusters = clusters_of(latent, np.tile([0, 1], 20))
    rows = np.arange(40)
    sums = pair_sums(
        clusters, clusters.offsets, clusters.centres, clusters.codes, rows,
        np.array([0, 1]), np.array([0, 20, 40]),
    )  # fmt: skip
    np.testing.assert_array_equal(sums, 0.0)


def test_pairs_are_the_entries_of_the_full_table():
    clusters = clusters_of(*blobs(900, 6, 12))
    rng = np.random.default_rng(1)
    table = distance_sums(clusters.points(slice(None)), clusters)
    wanted = rng.random((clusters.n_labels, clusters.n)) < 0.2
    wanted[4] = False
    labels, rows = np.nonzero(wanted)
    chosen, starts = np.unique(labels, return_index=True)
    found = pair_sums(
        clusters, clusters.offsets, clusters.centres, clusters.codes, rows,
        chosen, np.append(starts, len(rows)),
    )  # fmt: skip
    np.testing.assert_allclose(found, table[rows, labels], rtol=2 * relative_rounding(6))


@pytest.mark.parametrize("n_labels", [1, 3, 200])
def test_figures_do_not_depend_on_the_number_of_threads(n_labels):
    clusters = clusters_of(*blobs(3000, 3, n_labels))
    queries = clusters.points(slice(0, 1500))
    before = numba.get_num_threads()
    try:
        found = []
        for n_threads in (1, min(2, before)):
            numba.set_num_threads(n_threads)
            found.append(distance_sums(queries, clusters))
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])


def test_figures_do_not_depend_on_what_else_is_asked_for():
    clusters = clusters_of(*blobs(1000, 5, 4))
    queries = clusters.points(slice(0, 203))
    together = distance_sums(queries, clusters)
    alone = np.vstack([distance_sums(query[None], clusters) for query in queries])
    np.testing.assert_array_equal(together, alone)


def test_groups_hold_every_cell_and_stay_behind_when_pickled():
    clusters = clusters_of(*blobs(70_003, 2, 3))
    flat = clusters.groups.transpose(0, 2, 1).reshape(-1, 2)
    np.testing.assert_array_equal(flat[: clusters.n], clusters.offsets)
    assert not flat[clusters.n :].any()
    assert clusters.groups is clusters.groups
    copy = pickle.loads(pickle.dumps(clusters))
    assert "groups" not in copy.__dict__
    np.testing.assert_array_equal(copy.groups, clusters.groups)

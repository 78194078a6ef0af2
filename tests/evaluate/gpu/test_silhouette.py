"""The very kernel, compiled for the CPU: its logic, order and bounds; see `host.py`."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from medl_scale.errors import MissingExtraError
from medl_scale.evaluate.backend import gpu_problem
from medl_scale.evaluate.gpu.silhouette import (
    gpu_samples,
    label_moments,
    sum_on,
)
from medl_scale.evaluate.silhouettes.distance_sums import absolute_rounding, relative_rounding
from medl_scale.evaluate.silhouettes.exact import silhouettes_from_sums
from tests.evaluate.gpu.cells import KINDS, draw_cells, sorted_cells, sums_by_pairs
from tests.evaluate.gpu.host import HostDevice

DIMENSIONS = (1, 2, 4, 5, 8, 9, 10, 17, 50)


def silhouettes(clusters, sums):
    counts = clusters.counts[clusters.codes]
    return silhouettes_from_sums(sums.own, sums.nearest, counts, clusters.d)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_sums_are_those_of_all_pairs_within_the_proven_rounding(d):
    latent, labels = draw_cells("blobs", 700, d, 5, seed=d)
    clusters = sorted_cells(latent, labels)
    found = sum_on(HostDevice(), clusters, label_moments(clusters), slice(0, 700))
    own, nearest = sums_by_pairs(clusters)
    np.testing.assert_allclose(
        found.own, own, rtol=relative_rounding(d), atol=700 * absolute_rounding(d)
    )
    np.testing.assert_allclose(
        found.nearest, nearest, rtol=relative_rounding(d), atol=absolute_rounding(d)
    )


@pytest.mark.parametrize("d", [2, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_silhouettes_are_scikit_learn_s_within_their_own_bounds(kind, d):
    latent, labels = draw_cells(kind, 500, d, 6, seed=1)
    clusters = sorted_cells(latent, labels)
    sums = sum_on(HostDevice(), clusters, label_moments(clusters), slice(0, 500))
    values, errors = silhouettes(clusters, sums)
    oracle = silhouette_samples(clusters.points(slice(None)), clusters.codes)
    assert np.all(np.abs(values - oracle) <= errors + 1e-9)
    assert errors.max() < 1e-5


@pytest.mark.parametrize("d", [2, 5, 10, 17])
def test_figures_are_the_same_whatever_the_memory_and_the_processors_and_whoever_comes_first(d):
    latent, labels = draw_cells("overlapping", 900, d, 4, seed=2)
    clusters = sorted_cells(latent, labels)
    moments = label_moments(clusters)

    def found(device, **options):
        return sum_on(device, clusters, moments, slice(0, 900), segment=70, **options)

    plain = found(HostDevice())
    many, backwards, shards = HostDevice(n_processors=9), HostDevice(backwards=True), HostDevice()
    for other in (
        found(many),
        found(backwards),
        found(shards, most_references=150),
        found(HostDevice(backwards=True), most_references=1),
    ):
        np.testing.assert_array_equal(other.own, plain.own)
        np.testing.assert_array_equal(other.nearest, plain.nearest)
        assert other.n_pairs == plain.n_pairs
    assert len(many.launches) == 1
    assert many.launches[0][1] > 1
    assert len(shards.launches) > 4
    assert {n_groups for _, n_groups in shards.launches} == {1}


@pytest.mark.parametrize("d", [2, 9])
def test_some_cells_have_the_figures_they_have_among_all(d):
    latent, labels = draw_cells("blobs", 1300, d, 7, seed=3)
    clusters = sorted_cells(latent, labels)
    moments, device = label_moments(clusters), HostDevice()
    every = sum_on(device, clusters, moments, slice(0, 1300))
    some = np.array([0, 1, 400, 401, 990, 1299])
    for rows in (some, slice(700, 1300)):
        found = sum_on(device, clusters, moments, rows)
        np.testing.assert_array_equal(found.own, every.own[rows])
        np.testing.assert_array_equal(found.nearest, every.nearest[rows])


@pytest.mark.parametrize("d", [2, 10])
def test_labels_out_of_reach_are_skipped_and_no_bit_changes(d):
    latent, labels = draw_cells("blobs", 2000, d, 12, seed=4)
    clusters = sorted_cells(latent, labels)
    # Rounded up without end, the moments bound nothing.
    unbounded = np.full((12, 3), 1e30)
    skipping = sum_on(HostDevice(), clusters, label_moments(clusters), slice(0, 2000))
    taking_all = sum_on(HostDevice(), clusters, unbounded, slice(0, 2000))
    assert skipping.n_pairs < 0.9 * taking_all.n_pairs
    assert taking_all.n_pairs == 2000**2
    np.testing.assert_array_equal(skipping.own, taking_all.own)
    np.testing.assert_array_equal(skipping.nearest, taking_all.nearest)


def test_a_cell_is_at_no_distance_from_itself_far_from_the_origin():
    latent = np.array([[1e6 + 1 / 3, 7.0], [1e6 + 1 / 3, 7.0], [-3.0, 2.0], [-3.0, 2.0]])
    clusters = sorted_cells(latent, np.array(["a", "a", "b", "b"]))
    found = sum_on(HostDevice(), clusters, label_moments(clusters), slice(0, 4))
    np.testing.assert_array_equal(found.own, np.zeros(4))


def test_many_labels_of_few_cells_each():
    latent, labels = draw_cells("overlapping", 900, 2, 800, seed=5)
    clusters = sorted_cells(latent, labels)
    found = sum_on(HostDevice(n_processors=50), clusters, label_moments(clusters), slice(0, 900))
    own, nearest = sums_by_pairs(clusters)
    np.testing.assert_allclose(found.own, own, rtol=2e-6, atol=1e-12)
    np.testing.assert_allclose(found.nearest, nearest, rtol=2e-6, atol=1e-12)


def test_where_cupy_is_missing_the_error_says_what_to_install():
    if not isinstance(gpu_problem("cupy"), MissingExtraError):
        pytest.skip("CuPy is installed")
    clusters = sorted_cells(*draw_cells("blobs", 40, 2, 3, seed=6))
    with pytest.raises(MissingExtraError, match=r"pip install 'medl-scale\[cu12\]'"):
        gpu_samples(clusters)

"""The kernel on a GPU: its figures are those of the CPU, and the same whenever they are computed."""

import numpy as np
import pytest

from medl_scale.evaluate.gpu.plan import kernel_for
from medl_scale.evaluate.gpu.silhouette import (
    gpu_samples,
    label_moments,
    sum_on,
)
from medl_scale.evaluate.silhouettes.brute import brute_samples
from medl_scale.evaluate.silhouettes.layout import Clusters
from tests.evaluate.gpu.cells import KINDS, draw_cells, sorted_cells

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8, 9, 10, 30, 50, 128])
def test_silhouettes_are_those_of_the_cpu_within_both_bounds(cuda, d):
    clusters = sorted_cells(*draw_cells("blobs", 6000, d, 17, seed=d))
    found, expected = gpu_samples(clusters), brute_samples(clusters)
    assert np.all(np.abs(found.values - expected.values) <= found.errors + expected.errors)
    assert np.abs(found.values - expected.values).max() < 2e-6
    assert found.share <= 1.0


@pytest.mark.parametrize("d", [2, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_hard_cases_are_those_of_the_cpu(cuda, kind, d):
    clusters = sorted_cells(*draw_cells(kind, 3000, d, 9, seed=1))
    found, expected = gpu_samples(clusters), brute_samples(clusters)
    assert np.all(np.abs(found.values - expected.values) <= found.errors + expected.errors)


@pytest.mark.parametrize("d", [2, 6, 50])
def test_no_bit_depends_on_the_run_the_memory_or_the_labels_skipped(cuda, d):
    n = 20_000
    clusters = sorted_cells(*draw_cells("overlapping", n, d, 23, seed=2))
    moments = label_moments(clusters)
    unbounded = np.full((23, 3), 1e30)
    plain = sum_on(cuda, clusters, moments, slice(0, n), segment=500)
    for other in (
        sum_on(cuda, clusters, moments, slice(0, n), segment=500),
        sum_on(cuda, clusters, moments, slice(0, n), segment=500, most_references=900),
        sum_on(cuda, clusters, unbounded, slice(0, n), segment=500),
    ):
        np.testing.assert_array_equal(other.own, plain.own)
        np.testing.assert_array_equal(other.nearest, plain.nearest)


@pytest.mark.parametrize("d", [2, 50])
def test_some_cells_have_the_figures_they_have_among_all(cuda, d):
    clusters = sorted_cells(*draw_cells("blobs", 5000, d, 12, seed=3))
    moments = label_moments(clusters)
    every = sum_on(cuda, clusters, moments, slice(0, 5000))
    rows = np.sort(np.random.default_rng(0).choice(5000, 300, replace=False))
    found = sum_on(cuda, clusters, moments, rows)
    np.testing.assert_array_equal(found.own, every.own[rows])
    np.testing.assert_array_equal(found.nearest, every.nearest[rows])


def test_more_than_2_to_the_31_cells_times_labels(cuda):
    # 50,000 cells of 45,000 labels; most labels have one cell.
    clusters = sorted_cells(*draw_cells("blobs", 50_000, 2, 45_000, seed=4))
    assert clusters.n * clusters.n_labels > 2**31
    found, expected = gpu_samples(clusters), brute_samples(clusters)
    assert np.all(np.abs(found.values - expected.values) <= found.errors + expected.errors)


@pytest.mark.parametrize("d", [8, 64])
def test_more_than_2_to_the_31_coordinates(cuda, d):
    n = 2**31 // d + 1000
    if cuda.free_bytes() < 3 * 4 * n * d:
        pytest.skip("the device has too little memory for 2^31 coordinates")
    # All cells but those of the last label, 0 and 2 by turns in one coordinate, lie at one place.
    offsets = np.zeros((n, d), np.float32)
    last = n - 10
    offsets[last::2, 0], offsets[last + 1 :: 2, 0] = -1.0, 1.0
    starts = np.array([0, last // 2, last, n], np.int64)
    centres = np.zeros((3, d))
    centres[1, 0], centres[2, 0] = 3.0, 10.0
    codes = np.repeat(np.arange(3, dtype=np.int32), np.diff(starts))
    clusters = Clusters(offsets, centres, starts, codes, np.arange(n), 1.0)
    rows = np.array([0, last // 2 - 1, last // 2, last - 1, last, n - 1])
    unbounded = np.full((3, 3), 1e30)
    found = sum_on(cuda, clusters, unbounded, rows)
    np.testing.assert_allclose(found.own, [0, 0, 0, 0, 10, 10], rtol=1e-6)
    np.testing.assert_allclose(found.nearest, [3, 3, 3, 3, 6, 8], rtol=1e-6)
    assert kernel_for(d).is_wide == (d == 64)

"""Bounds of mean distances hold for every cell, whatever the data."""

import pickle

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from medl_scale.errors import ConfigError
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.layout import sort_by_label
from medl_scale.evaluate.silhouettes.subclusters import (
    build_subclusters,
    estimates,
    intervals,
    silhouette_bounds,
)


def normal(rng, n, d, codes):
    return rng.normal(size=(n, d)) + rng.normal(0, 2, (codes.max() + 1, d))[codes]


def mixed(rng, n, d, codes):
    types = rng.integers(0, 5, n)
    return rng.normal(0, 4, (5, d))[types] + 0.3 * rng.normal(size=(n, d))


def heavy_tails(rng, n, d, codes):
    return rng.standard_t(1.2, (n, d)) + codes[:, None]


def far_outliers(rng, n, d, codes):
    found = normal(rng, n, d, codes)
    found[:3] *= 1e4
    return found


def nested(rng, n, d, codes):
    return rng.normal(size=(n, d)) * 10.0 ** -(2 * (codes[:, None] % 4))


def duplicates(rng, n, d, codes):
    return rng.integers(0, 3, (n, d)).astype(float)


def identical(rng, n, d, codes):
    return np.full((n, d), 0.1)


def points_of_labels(rng, n, d, codes):
    return rng.normal(size=(codes.max() + 1, d))[codes]


def collapsed(rng, n, d, codes):
    found = normal(rng, n, d, codes)
    found[:, 1:] = 7.0
    return found


def offset(rng, n, d, codes):
    return normal(rng, n, d, codes) + 1e6


def tiny_scale(rng, n, d, codes):
    return normal(rng, n, d, codes) * 1e-8


def huge_scale(rng, n, d, codes):
    return normal(rng, n, d, codes) * 1e15


KINDS = [
    normal, mixed, heavy_tails, far_outliers, nested, duplicates, identical, points_of_labels,
    collapsed, offset, tiny_scale, huge_scale,
]  # fmt: skip


def make(kind, seed, n, d, n_labels):
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_labels), rng.integers(0, n_labels, n - n_labels)])
    return sort_by_label(np.asarray(kind(rng, n, d, codes)), encode_labels(codes, n))


def mean_distances(clusters):
    """Return (n, n_labels) in float64."""
    cells = clusters.points(slice(None))
    parts = np.split(cells, clusters.starts[1:-1])
    return np.stack([cdist(cells, part).mean(axis=1) for part in parts], axis=1)


def silhouettes(clusters):
    means, here = mean_distances(clusters), np.arange(clusters.n)
    counts = clusters.counts[clusters.codes]
    own = means[here, clusters.codes] * counts / np.maximum(counts - 1, 1)
    means[here, clusters.codes] = np.inf
    other = means.min(axis=1)
    larger = np.maximum(own, other)
    scored = (counts > 1) & (larger > 0)
    return np.where(scored, (other - own) / np.where(scored, larger, 1), 0.0)


SHAPES = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 10**6),
    st.integers(30, 400),
    st.sampled_from([1, 2, 3, 7, 20]),
    st.integers(2, 12),
    st.sampled_from([1, 4, 32]),
)


@given(SHAPES)
@settings(max_examples=250, deadline=None)
def test_the_mean_distance_to_every_label_lies_in_its_interval(shape):
    *layout, n_sub = shape
    clusters = make(*layout)
    sub = build_subclusters(clusters, n_sub=n_sub, seed=layout[1])
    truth = mean_distances(clusters)
    cells = clusters.points(slice(None))
    for own in (None, clusters.codes):
        lower, upper = intervals(cells, clusters, sub, own)
        assert (lower <= truth).all()
        assert (truth <= upper).all()


@given(SHAPES)
@settings(max_examples=250, deadline=None)
def test_every_silhouette_lies_in_its_bounds(shape):
    *layout, n_sub = shape
    clusters = make(*layout)
    sub = build_subclusters(clusters, n_sub=n_sub)
    found = silhouette_bounds(clusters.points(slice(None)), clusters.codes, clusters, sub)
    truth = silhouettes(clusters)
    assert (found[:, 2] <= truth).all()
    assert (truth <= found[:, 3]).all()
    assert (np.abs(found) <= 1).all()


@given(SHAPES)
@settings(max_examples=60, deadline=None)
def test_sub_clusters_share_out_the_cells_of_their_label(shape):
    *layout, n_sub = shape
    clusters = make(*layout)
    sub = build_subclusters(clusters, n_sub=n_sub)
    sizes = np.bincount(sub.assigned, minlength=sub.n_subclusters)
    assert sizes.min() > 0
    assert (np.diff(sub.starts) >= 1).all()
    assert (np.diff(sub.starts) <= n_sub).all()
    label_of_sub = np.repeat(np.arange(clusters.n_labels), np.diff(sub.starts))
    np.testing.assert_array_equal(label_of_sub[sub.assigned], clusters.codes)
    np.testing.assert_allclose(sub.moments[:, 0] * clusters.counts[label_of_sub], sizes, rtol=1e-6)


def test_moments_are_those_of_the_cells():
    clusters = make(mixed, 3, 2000, 6, 3)
    sub = build_subclusters(clusters)
    for t in range(sub.n_subclusters):
        cells = clusters.offsets[sub.assigned == t].astype(np.float64)
        mean = cells.mean(axis=0)
        squares = np.square(cells - mean).sum(axis=1)
        values = np.linalg.eigvalsh(np.cov(cells.T, bias=True))
        np.testing.assert_allclose(sub.means[t], mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(sub.moments[t, 1], squares.mean(), rtol=1e-5)
        np.testing.assert_allclose(sub.moments[t, 2], squares.std(), rtol=1e-5)
        np.testing.assert_allclose(sub.moments[t, 3], np.sqrt(values[-1]), rtol=1e-5)
        np.testing.assert_allclose(sub.moments[t, 4], (values**2).sum() / values.sum(), rtol=1e-5)


def test_moments_of_labels_are_those_of_their_cells():
    clusters = make(mixed, 4, 1500, 5, 4)
    sub = build_subclusters(clusters)
    for label in range(clusters.n_labels):
        cells = clusters.offsets[clusters.codes == label].astype(np.float64)
        squares = np.square(cells - cells.mean(axis=0)).sum(axis=1)
        values = np.linalg.eigvalsh(np.cov(cells.T, bias=True))
        expected = [
            1.0, squares.mean(), squares.std(), np.sqrt(values[-1]), (values**2).sum() / values.sum()
        ]  # fmt: skip
        np.testing.assert_allclose(sub.label_moments[label], expected, rtol=1e-5)


def test_few_cells_at_one_point_are_bounded_without_a_gap():
    clusters = make(points_of_labels, 1, 300, 4, 5)
    sub = build_subclusters(clusters)
    truth = mean_distances(clusters)
    lower, upper = intervals(clusters.points(slice(None)), clusters, sub)
    np.testing.assert_allclose(lower, truth, rtol=1e-5, atol=1e-14)
    np.testing.assert_allclose(upper, truth, rtol=1e-5, atol=1e-14)


def test_labels_of_single_cells_are_bounded():
    clusters = make(normal, 2, 60, 3, 58)
    sub = build_subclusters(clusters)
    truth = mean_distances(clusters)
    lower, upper = intervals(clusters.points(slice(None)), clusters, sub)
    assert ((lower <= truth) & (truth <= upper)).all()
    assert (silhouette_bounds(clusters.points([0]), clusters.codes[[0]], clusters, sub)).shape == (
        1,
        4,
    )


def test_labels_that_share_their_types_are_told_apart_by_sub_clusters():
    clusters = make(mixed, 5, 20_000, 8, 6)
    rows = np.arange(0, clusters.n, 20)
    cells, own = clusters.points(rows), clusters.codes[rows]
    truth = np.stack(
        [
            cdist(cells, part).mean(axis=1)
            for part in np.split(clusters.points(slice(None)), clusters.starts[1:-1])
        ],
        axis=1,
    )
    gaps, misses = {}, {}
    for n_sub in (1, 32):
        sub = build_subclusters(clusters, n_sub=n_sub)
        lower, upper = intervals(cells, clusters, sub)
        gaps[n_sub] = np.median((upper - lower) / truth)
        misses[n_sub] = np.median(np.abs(estimates(cells, clusters, sub) - truth) / truth)
    assert gaps[1] > 0.1
    assert gaps[32] < 0.02
    assert misses[32] < 1e-3 < misses[1]
    # Labels that surely are not the nearest keep coarse intervals; the others' are as tight.
    fine, coarse = intervals(cells, clusters, sub), intervals(cells, clusters, sub, own)
    here = np.arange(len(rows))
    np.testing.assert_array_equal(fine[0][here, own], coarse[0][here, own])
    nearest = np.where(np.arange(6) == own[:, None], np.inf, truth).argmin(axis=1)
    np.testing.assert_array_equal(fine[1][here, nearest], coarse[1][here, nearest])


def test_tables_depend_on_the_seed_alone():
    clusters = make(mixed, 6, 3000, 5, 4)
    first = build_subclusters(clusters, seed=1)
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again = build_subclusters(clusters, seed=1)
        alone = intervals(clusters.points(slice(None)), clusters, again, clusters.codes)
    finally:
        numba.set_num_threads(n_threads)
    together = intervals(clusters.points(slice(None)), clusters, first, clusters.codes)
    for name in ("means", "moments", "label_moments", "starts", "assigned"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    np.testing.assert_array_equal(alone, together)
    other = build_subclusters(clusters, seed=2)
    assert other.means.shape != first.means.shape or (other.means != first.means).any()


def test_tables_travel_to_other_processes():
    clusters = make(normal, 7, 500, 3, 3)
    sub = build_subclusters(clusters)
    copy = pickle.loads(pickle.dumps(sub))
    cells = clusters.points(slice(None))
    np.testing.assert_array_equal(intervals(cells, clusters, copy), intervals(cells, clusters, sub))


def test_no_sub_clusters_are_refused():
    clusters = make(normal, 8, 100, 3, 3)
    with pytest.raises(ConfigError, match="n_sub must be at least 1; got 0"):
        build_subclusters(clusters, n_sub=0)

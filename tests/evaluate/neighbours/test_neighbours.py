"""Neighbours against brute force, ties and duplicates included, and whoever finds them."""

import pickle

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medl_scale.errors import ConfigError, DataError
from medl_scale.evaluate.neighbours.neighbours import ExactSample, Neighbours, nearest_neighbours
from medl_scale.evaluate.neighbours.search import choose_method

EXACT = ("tree", "tiles")


def brute_force(latent, k):
    """All pairs in float64, ties by row."""
    points = np.asarray(latent, np.float64)
    squares = np.zeros((len(points), len(points)))
    for axis in range(points.shape[1]):
        squares += np.square(points[:, None, axis] - points[None, :, axis])
    np.fill_diagonal(squares, np.inf)
    indices = np.argsort(squares, axis=1, kind="stable")[:, : min(k, len(points) - 1)]
    return indices, np.sqrt(np.take_along_axis(squares, indices, axis=1))


def hard_cases():
    rng = np.random.default_rng(0)
    blobs = rng.normal(size=(8, 30))[rng.integers(0, 8, 1500)] * 4 + rng.normal(size=(1500, 30))
    plane = rng.normal(size=(1300, 2))
    far = plane.copy()
    far[:3] *= 1e6
    nested = plane * np.repeat([1.0, 1e-3, 1e-5], [500, 500, 300])[:, None]
    return {
        "line": rng.normal(size=(700, 1)),
        "plane": plane,
        "blobs": blobs,
        "float32": blobs.astype(np.float32),
        "far from the origin": (plane + 1e6).astype(np.float32),
        "far outliers": far,
        "nested": nested,
        "heavy tails": rng.standard_cauchy(size=(1200, 12)),
        "collapsed": np.column_stack([plane, np.zeros(1300), np.full(1300, 7.0)]),
        "half duplicated": np.repeat(plane[:600], 2, axis=0),
        "tiny": plane * 1e-170,
        "huge": plane * 1e160,
        "integers": rng.integers(0, 3, (900, 4)),
        "two cells": np.array([[0.0, 1.0], [2.0, 3.0]]),
    }


CASES = hard_cases()


@pytest.mark.parametrize("name", CASES)
def test_neighbours_equal_brute_force(name):
    latent = CASES[name]
    # A power of two, so that squares fit and no digit changes.
    scale = float(2.0 ** np.ceil(np.log2(np.abs(latent).max())))
    indices, distances = brute_force(latent / scale, 20)
    for method in EXACT:
        found = nearest_neighbours(latent, 20, method=method)
        np.testing.assert_array_equal(found.indices, indices)
        np.testing.assert_array_equal(found.distances, distances * scale)
        assert (found.recall, found.is_exact) == (1.0, True)
        assert found.method.startswith("exact")


@given(
    latent=st.integers(1, 3).flatmap(
        lambda d: arrays(
            np.float64, st.tuples(st.integers(2, 80), st.just(d)), elements=st.integers(0, 2)
        )
    ),
    k=st.integers(1, 90),
)
@settings(max_examples=60, deadline=None)
def test_ties_are_broken_by_row_in_both_ways(latent, k):
    indices, distances = brute_force(latent, k)
    for method in EXACT:
        found = nearest_neighbours(latent, k, method=method)
        np.testing.assert_array_equal(found.indices, indices)
        np.testing.assert_array_equal(found.distances, distances)


@pytest.mark.parametrize("method", EXACT)
def test_identical_cells_are_neighbours_by_row_and_none_is_its_own(method):
    found = nearest_neighbours(np.full((5000, 3), 0.1, np.float32), 10, method=method)
    assert (found.indices != np.arange(5000)[:, None]).all()
    np.testing.assert_array_equal(found.indices[10:], np.tile(np.arange(10), (4990, 1)))
    np.testing.assert_array_equal(found.indices[3], [0, 1, 2, 4, 5, 6, 7, 8, 9, 10])
    assert (found.distances == 0).all()


def test_many_blocks_equal_scipy_and_either_way_finds_the_same():
    from scipy.spatial import cKDTree

    latent = np.random.default_rng(1).normal(size=(40_000, 2))
    found = nearest_neighbours(latent, 30, method="tree")
    distances, indices = cKDTree(latent).query(latent, 31)
    np.testing.assert_array_equal(found.indices, indices[:, 1:])
    np.testing.assert_allclose(found.distances, distances[:, 1:], rtol=1e-14)
    few = latent[:9000]
    tree, tiles = (nearest_neighbours(few, 30, method=method) for method in EXACT)
    np.testing.assert_array_equal(tree.indices, tiles.indices)
    np.testing.assert_array_equal(tree.distances, tiles.distances)


def elsewhere(function, shared, items):
    """Run blocks backwards, each with a copy of what they share, as other processes would."""
    results = [
        pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(shared)), item)))
        for item in reversed(items)
    ]
    yield from reversed(results)


@pytest.mark.parametrize("method", EXACT)
def test_neighbours_depend_neither_on_who_finds_them_nor_on_threads(method):
    latent = np.random.default_rng(2).normal(size=(34_000, 2)).astype(np.float32)
    latent = latent if method == "tree" else np.repeat(latent[:5000], 3, axis=1)
    here = nearest_neighbours(latent, 15, method=method)
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        there = nearest_neighbours(latent, 15, method=method, map_blocks=elsewhere)
    finally:
        numba.set_num_threads(n_threads)
    np.testing.assert_array_equal(here.indices, there.indices)
    np.testing.assert_array_equal(here.distances, there.distances)


@pytest.mark.parametrize("shape", [(50, 1), (50, 4)])
def test_the_latent_is_left_as_it_was(shape):
    latent = np.random.default_rng(3).normal(size=shape) * 100
    before = latent.copy()
    for method in EXACT:
        nearest_neighbours(latent, 5, method=method)
    np.testing.assert_array_equal(latent, before)


def test_few_cells_have_all_others_as_neighbours():
    found = nearest_neighbours(np.arange(4.0)[:, None], 90)
    assert (found.n, found.k) == (4, 3)
    np.testing.assert_array_equal(found.indices[0], [1, 2, 3])


def test_the_nearest_of_them_are_those_of_a_smaller_search():
    latent = np.random.default_rng(4).normal(size=(300, 3))
    many, few = nearest_neighbours(latent, 40), nearest_neighbours(latent, 15)
    np.testing.assert_array_equal(many.first(15).indices, few.indices)
    np.testing.assert_array_equal(many.first(15).distances, few.distances)
    assert many.first(99) is many


def test_recall_is_the_share_of_true_neighbours_among_the_nearest_ones():
    indices = np.array([[1, 2], [0, 2], [1, 0]], np.int32)
    distances = np.array([[1.0, 5.0], [1.0, 2.0], [2.0, 3.0]])
    sample = ExactSample(np.array([0, 1]), indices[:2], np.array([[1.0, 3.0], [1.0, 2.0]]))
    found = Neighbours(indices, distances, 0.75, "nearly, recall 0.7500", sample)
    assert found.first(1).recall == 1.0
    assert found.first(1).method == "nearly, recall 1.0000"
    assert not found.is_exact


def test_the_cheapest_way_is_chosen():
    assert choose_method(10_000_000, 2) == "tree"
    assert choose_method(1000, 2) == "tree"
    assert choose_method(40_000, 50) == "tiles"
    assert choose_method(200_000, 50) == "tiles"
    assert choose_method(2_000_000, 50) == "pynndescent"
    assert choose_method(500, 2000) == "tiles"


@pytest.mark.parametrize(
    ("latent", "options", "error", "text"),
    [
        (np.zeros((1, 2)), {}, DataError, "from 2 to 2,147,483,647 cells.*it has 1"),
        (np.zeros(5), {}, DataError, r"must be a matrix.*\(5,\)"),
        (
            np.array([[0.0], [np.nan], [np.inf]]),
            {},
            DataError,
            "NaN in 1 cells and infinite values in 1",
        ),
        (np.zeros((5, 2)), {"method": "ball"}, ConfigError, "'auto', 'tree', 'tiles'.*got 'ball'"),
        (
            np.zeros((5, 2)),
            {"n_neighbours": 0},
            ConfigError,
            "n_neighbours must be at least 1; got 0",
        ),
    ],
)
def test_what_cannot_have_neighbours_is_refused(latent, options, error, text):
    with pytest.raises(error, match=text):
        nearest_neighbours(latent, **({"n_neighbours": 3} | options))


def test_indices_and_distances_must_have_one_shape():
    with pytest.raises(DataError, match=r"as many distances as indices.*\(3, 1\) and \(3, 2\)"):
        Neighbours(np.zeros((3, 2), np.int32), np.zeros((3, 1)), 1.0, "exact")


@pytest.mark.slow  # pynndescent compiles itself for half a minute
def test_pynndescent_finds_nearly_all_the_same_ones_each_time_and_says_how_many():
    latent = np.random.default_rng(5).normal(size=(3000, 15)).astype(np.float32)
    exact = nearest_neighbours(latent, 30)
    found = nearest_neighbours(latent, 30, method="pynndescent", seed=1)
    again = nearest_neighbours(latent, 30, method="pynndescent", seed=1)
    np.testing.assert_array_equal(found.indices, again.indices)
    share = np.mean(found.distances <= exact.distances[:, -1:])
    assert 0.95 < share <= 1.0
    assert found.recall == pytest.approx(share, abs=0.01)
    assert found.method == f"pynndescent, recall {found.recall:.4f}"
    assert (found.indices != np.arange(3000)[:, None]).all()
    points = latent.astype(np.float64)
    distances = np.linalg.norm(points[:, None] - points[found.indices], axis=2)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    assert len(found.sample.rows) == 500
    np.testing.assert_array_equal(found.sample.indices, exact.indices[found.sample.rows])
    # It finds too few neighbours for identical cells; those are found exactly.
    same = nearest_neighbours(np.zeros((2000, 3)), 30, method="pynndescent")
    assert (same.distances == 0).all()
    assert (same.indices != np.arange(2000)[:, None]).all()

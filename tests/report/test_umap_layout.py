"""UMAP's graph and layout: the graph against umap-learn's, the layout against what was embedded."""

import numba
import numpy as np
import pytest

from medl_scale.evaluate.neighbours.neighbours import nearest_neighbours
from medl_scale.report.umap_graph import membership_graph
from medl_scale.report.umap_layout import CURVE, MIN_DIST, lay_out, start_from_components


@pytest.fixture(scope="module")
def blobs():
    """Six groups of cells in eight dimensions, with a few duplicates."""
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.normal(size=(100, 8)) + 6 * rng.normal(size=8) for _ in range(6)])
    points[5:9] = points[4]
    return points.astype(np.float32), np.repeat(np.arange(6), 100)


def embed(points, seed=0, n_epochs=100):
    graph = membership_graph(nearest_neighbours(points, 14))
    return lay_out(graph, start_from_components(points, seed), n_epochs=n_epochs, seed=seed)


def test_weights_of_a_cell_sum_to_the_logarithm_of_its_neighbours(blobs):
    neighbours = nearest_neighbours(blobs[0], 14)
    graph = membership_graph(neighbours)
    dense = graph.toarray()
    assert (dense == dense.T).all()
    assert dense.max() <= 1
    assert graph.data.min() > 0
    # By hand for one cell: its nearest neighbour has weight 1, and all sum to log2(15).
    d = neighbours.distances[50]
    low, high = 1e-9, 100.0
    for _ in range(80):
        sigma = (low + high) / 2
        low, high = (
            (low, sigma) if np.exp(-(d - d[0]) / sigma).sum() > np.log2(15) else (sigma, high)
        )
    one_way = np.exp(-(d - d[0]) / sigma)
    for j, p in zip(neighbours.indices[50], one_way, strict=True):
        back = np.flatnonzero(neighbours.indices[j] == 50)
        if not back.size:
            assert dense[50, j] == pytest.approx(p, abs=1e-5)


def test_the_curve_is_that_of_its_min_dist():
    from scipy.optimize import curve_fit

    r = np.linspace(0, 3, 300)
    wanted = np.where(r < MIN_DIST, 1.0, np.exp(-(r - MIN_DIST)))
    (a, b), _ = curve_fit(lambda r, a, b: 1 / (1 + a * r ** (2 * b)), r, wanted)
    assert b == pytest.approx(1.0, abs=0.005)
    assert pytest.approx(a, abs=0.005) == CURVE


def test_groups_stay_together_and_apart(blobs):
    from sklearn.metrics import silhouette_score

    points, groups = blobs
    places = embed(points)
    assert places.shape == (600, 2)
    assert np.isfinite(places).all()
    assert silhouette_score(places, groups) > 0.6


def test_the_layout_is_the_same_on_any_number_of_threads_and_another_for_another_seed(blobs):
    rng = np.random.default_rng(1)
    # More than one block of cells.
    points = np.concatenate([blobs[0] + rng.normal(size=(600, 8)) for _ in range(5)])
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = embed(points, n_epochs=20)
        numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
        together = embed(points, n_epochs=20)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(alone, together)
    assert not np.array_equal(alone, embed(points, seed=1, n_epochs=20))


def test_identical_cells_and_one_dimension_are_laid_out():
    same = np.zeros((40, 3), np.float32)
    assert np.isfinite(embed(same, n_epochs=20)).all()
    line = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    assert np.isfinite(embed(line, n_epochs=20)).all()
    two = np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)
    assert np.isfinite(embed(two, n_epochs=20)).all()


@pytest.mark.slow  # umap-learn compiles for half a minute
@pytest.mark.filterwarnings("ignore")
def test_neighbours_are_kept_as_well_as_by_umap_learn():
    from sklearn.datasets import load_digits
    from sklearn.manifold import trustworthiness
    from umap import UMAP

    points = load_digits().data.astype(np.float32)
    # The published settings of this package, and the same of umap-learn.
    theirs = UMAP(n_neighbors=15, min_dist=MIN_DIST, n_epochs=200, random_state=0, n_jobs=1)
    expected = trustworthiness(points, theirs.fit_transform(points), n_neighbors=15)
    found = trustworthiness(points, embed(points, n_epochs=200), n_neighbors=15)
    assert found > expected - 0.005

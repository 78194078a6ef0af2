import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medl_scale.errors import DataError, MissingExtraError
from medl_scale.evaluate.backend import gpu_problem
from medl_scale.evaluate.gpu.neighbours import gpu_nearest_neighbours, nearest_of


def true_neighbours(cells, k):
    """Return rows of the k nearest other cells; ties by row."""
    distances = cdist(cells, cells)
    np.fill_diagonal(distances, np.inf)
    return np.lexsort((np.broadcast_to(np.arange(len(cells)), distances.shape), distances))[:, :k]


@pytest.mark.parametrize("with_self", [True, False])
def test_candidates_are_put_in_order_without_the_cell_itself(with_self):
    rng = np.random.default_rng(0)
    # On a grid there are many ties, and duplicates of the cell itself.
    cells = rng.integers(0, 4, (60, 2)).astype(np.float64)
    rows = slice(10, 40)
    every = np.stack([rng.permutation(60) for _ in range(30)])
    if not with_self:
        every = np.stack([line[line != 10 + i] for i, line in enumerate(every)])
    nearest, lengths = nearest_of(cells, rows, every, 7, xp=np)
    expected = true_neighbours(cells, 7)[rows]
    np.testing.assert_array_equal(nearest, expected)
    between = np.linalg.norm(cells[expected] - cells[rows][:, None], axis=2)
    np.testing.assert_allclose(lengths, between)


def test_where_cuml_is_missing_the_error_says_what_to_install():
    if not isinstance(gpu_problem("cuml"), MissingExtraError):
        pytest.skip("cuML is installed")
    with pytest.raises(MissingExtraError, match=r"nearest neighbours: .*medl-scale\[cu12\]"):
        gpu_nearest_neighbours(np.zeros((4, 2)), 2)


def test_bad_latents_are_refused_before_a_gpu_is_looked_for():
    with pytest.raises(DataError, match="NaN in 1 cells"):
        gpu_nearest_neighbours(np.array([[0.0], [np.nan]]), 1)


@pytest.mark.gpu
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_neighbours_found_on_a_gpu_are_the_nearest(cuml, offset):
    cells = np.random.default_rng(1).normal(size=(3000, 20)) + offset
    cells[1500:1600] = cells[:100]
    found = gpu_nearest_neighbours(cells, 30)
    expected = true_neighbours(cells - offset, 30)
    assert np.mean(found.indices == expected) > 0.999
    assert found.recall > 0.999
    assert f"recall {found.recall:.4f}" in found.method
    assert not np.any(found.indices == np.arange(3000)[:, None])
    np.testing.assert_array_equal(found.distances[:100, 0], 0.0)
    sums = np.linalg.norm(cells[found.indices] - cells[:, None], axis=2)
    np.testing.assert_allclose(found.distances, sums, rtol=1e-9, atol=1e-9 * max(offset, 1))


@pytest.mark.gpu
def test_few_cells_have_all_others_as_neighbours(cuml):
    cells = np.random.default_rng(2).normal(size=(12, 3))
    found = gpu_nearest_neighbours(cells, 50)
    np.testing.assert_array_equal(found.indices, true_neighbours(cells, 11))

"""The default layout puts genes that go together side by side, and maps of other cells agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from medl_scale.interpret.genomap.map2d import (
    gene_loadings,
    halve,
    neighbour_costs,
    neighbour_likeness,
    place_on_map,
)
from tests.interpret.genomap.modules import module_correlations


def moran(images: np.ndarray) -> float:
    """Mean Moran's I of images over pixels side by side or one above the other."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    across = (centred[:, :, :-1] * centred[:, :, 1:]).sum(axis=(1, 2))
    down = (centred[:, :-1] * centred[:, 1:]).sum(axis=(1, 2))
    h, w = images.shape[1:]
    return float(np.mean((across + down) / ((h * (w - 1) + w * (h - 1)) * images.var(axis=(1, 2)))))


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7), left_out=st.integers(0, 6))
def test_halving_gives_every_point_a_pixel_of_its_own(height, width, left_out):
    pixels = np.arange(max(1, height * width - left_out))
    points = np.random.default_rng(0).random((pixels.size, 2))
    assert sorted(halve(points, pixels, (height, width))) == pixels.tolist()


def test_points_on_a_grid_go_to_their_own_pixels():
    pixels = np.arange(48)
    rows, columns = np.divmod(pixels, 8)
    order = np.random.default_rng(0).permutation(48)
    points = np.stack([columns, rows], axis=1)[order].astype(float)
    assert np.array_equal(halve(points, pixels, (6, 8)), order)


@pytest.mark.parametrize("rank", [3, 40])
def test_loadings_reproduce_the_leading_part_of_the_correlations(rank):
    correlations = module_correlations(n_genes=30)
    values, vectors = np.linalg.eigh(correlations)
    top = np.argsort(-values)[:rank]
    expected = (vectors[:, top] * values[top]) @ vectors[:, top].T
    loadings = gene_loadings(correlations, rank)
    assert np.allclose(loadings @ loadings.T, expected, atol=1e-8)
    assert np.all(loadings.max(axis=0) >= -loadings.min(axis=0))


def test_closeness_is_that_of_a_gaussian_and_sums_to_one_in_the_open():
    pixels = np.arange(81)
    costs = neighbour_costs(pixels, (9, 9))
    assert np.allclose(costs, costs.T)
    assert costs[40].sum() == pytest.approx(-1, abs=1e-6)
    assert costs[40, 41] / costs[40, 42] == pytest.approx(np.exp((4 - 1) / (2 * 1.5**2)))
    assert costs[40, 40] == costs[40, 44] == 0


def test_likeness_counts_each_pair_of_neighbours_once_and_no_padding():
    correlations = module_correlations(n_genes=5)
    pixels = np.array([0, 1, 2, 3, 4])  # of 2 x 3: the last pixel is padding
    pairs = [(0, 1), (1, 2), (3, 4), (0, 3), (1, 4)]
    expected = np.mean([correlations[pair] for pair in pairs])
    assert neighbour_likeness(correlations, (2, 3), pixels) == pytest.approx(expected)


def test_neighbours_go_together_and_maps_of_two_halves_agree():
    shape, pixels = (12, 12), np.arange(144)
    maps = []
    for seed in (0, 1):
        correlations = module_correlations(1500, 144, 6, seed)
        maps.append(place_on_map(correlations, gene_loadings(correlations, 6), shape, pixels))
        likeness = neighbour_likeness(correlations, shape, maps[-1])
        chance = neighbour_likeness(correlations, shape, np.random.default_rng(0).permutation(144))
        assert likeness > 0.25 > 2.5 * chance
    # A held-out cell that is high in one module is a patch, not a scatter.
    image = np.zeros(144)
    image[maps[0][np.arange(144) % 6 == 2]] = 1
    assert moran(image.reshape(1, *shape)) > 0.4
    distances = [pdist(np.stack(np.divmod(found, 12), axis=1)) for found in maps]
    assert np.corrcoef(*distances)[0, 1] > 0.3

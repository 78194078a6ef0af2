"""The published objective and how rings reach it."""

import importlib.util

import numpy as np
import pytest

from medl_scale.interpret.genomap.map2d import gene_loadings
from medl_scale.interpret.genomap.ring import (
    assign_rings,
    place_on_rings,
    ring_objective,
    rings_of,
)
from tests.interpret.genomap.modules import module_correlations, module_values


def published_objective(correlations, pixels, side) -> float:
    """The objective over all pairs of pixels, as it is written down."""
    rows, columns = np.divmod(pixels, side)
    radii = np.hypot(rows - side // 2, columns - side // 2)
    distances = np.abs(radii[:, None] - radii)
    return -((1 - correlations) * np.log(distances + 1e-15)).sum() / len(pixels) ** 2


def full_steps(correlations, side, n_steps=60) -> np.ndarray:
    """The published iteration over all pixels, every step solved exactly; its pixels."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = np.divmod(np.arange(side * side), side)
    radii = np.hypot(rows - side // 2, columns - side // 2)
    costs = np.log(np.abs(radii[:, None] - radii) + 1e-15)
    n = len(costs)
    plan = np.full((n, n), 1 / n)
    best = (np.inf, np.arange(n))
    for _ in range(n_steps):
        _, pixels = linear_sum_assignment(-(1 - correlations) @ plan @ costs)
        value = published_objective(correlations, pixels, side)
        if value >= best[0]:
            break
        best = (value, pixels)
        plan = np.eye(n)[pixels]
    return best[1]


def test_rings_give_the_published_objective_of_their_pixels():
    correlations = module_correlations()
    rings = rings_of((8, 8), 64)
    order = np.random.default_rng(0).permutation(64)
    found = ring_objective(correlations, rings, rings.of_pixel[order])
    assert found == pytest.approx(published_objective(correlations, rings.pixels[order], 8))


@pytest.mark.parametrize("seed", range(3))
def test_swaps_end_below_the_published_iteration_and_far_below_chance(seed):
    correlations = module_correlations(n_genes=144, seed=seed)
    rings = rings_of((12, 12), 144)
    ours = ring_objective(correlations, rings, assign_rings(correlations, rings))
    published = published_objective(correlations, full_steps(correlations, 12), 12)
    random = np.random.default_rng(seed)
    chance = [
        ring_objective(correlations, rings, random.permutation(rings.of_pixel)) for _ in range(20)
    ]
    assert ours <= published < min(chance)


def test_a_place_on_the_ring_leaves_the_objective_as_it_is():
    correlations = module_correlations(n_genes=60)
    rings = rings_of((8, 8), 60)
    ring_of_gene = assign_rings(correlations, rings)
    loadings = gene_loadings(correlations, 5)
    pixels = place_on_rings(correlations, loadings, (8, 8), rings, ring_of_gene)
    assert sorted(pixels) == rings.pixels.tolist()
    assert np.array_equal(rings.of_pixel[np.searchsorted(rings.pixels, pixels)], ring_of_gene)


def test_the_pixels_left_over_are_the_corners():
    rings = rings_of((9, 9), 77)
    assert set(range(81)) - set(rings.pixels.tolist()) == {0, 8, 72, 80}


@pytest.mark.slow  # the package imports torch, TensorFlow and JAX
@pytest.mark.skipif(importlib.util.find_spec("genomap") is None, reason="needs the extra genomap")
@pytest.mark.filterwarnings("ignore")
def test_the_package_s_own_layout_is_no_better():
    from genomap.genomap import construct_genomap_returnT

    values = module_values(300, 400, 6, 1)
    scaled = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    _, plan = construct_genomap_returnT(scaled, 20, 20, epsilon=0.0, num_iter=100)
    pixels = plan.argmax(axis=1)
    assert len(set(pixels)) == 400
    correlations = np.corrcoef(values.T)
    rings = rings_of((20, 20), 400)
    ours = ring_objective(correlations, rings, assign_rings(correlations, rings))
    assert ours <= published_objective(correlations, pixels, 20)

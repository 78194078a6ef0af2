"""kBET within labels: which labels count, and what mixed and separate batches give."""

import numpy as np
import pytest

from medl_scale.errors import ConfigError, ScoreUndefinedError
from medl_scale.evaluate.neighbours.diffusion import connectivities, diffusion_space
from medl_scale.evaluate.neighbours.kbet_per_label import kbet_of_labels, kbet_per_label
from medl_scale.evaluate.neighbours.neighbours import nearest_neighbours


def cells(seed=0):
    """Three labels of 300 cells: mixed, half apart, and of one batch."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(["mixed", "shifted", "single"], 300)
    batches = rng.integers(0, 2, 900)
    batches[600:] = 0
    latent = rng.normal(size=(900, 3))
    latent[300:600] += 1.5 * batches[300:600, None]
    return latent + np.repeat([0.0, 40.0, 80.0], 300)[:, None], batches, labels


def test_mixed_labels_score_high_and_those_of_one_batch_are_left_out():
    latent, batches, labels = cells()
    near = nearest_neighbours(latent, 49)
    found = kbet_of_labels(near, batches, labels)
    assert found["mixed"][0] > 0.8
    assert found["shifted"][0] < 0.3
    assert np.isnan(found["single"][0])
    score = kbet_per_label(near, batches, labels)
    assert float(score) == pytest.approx((found["mixed"][0] + found["shifted"][0]) / 2)
    assert (score.n, score.kind, score.error) == (600, "exact", 1 / 300)
    assert score.method.startswith("2 of 3 labels, 49 neighbours (exact")
    again = kbet_per_label(near, batches, labels)
    assert float(again) == float(score)


def test_a_label_in_pieces_is_not_mixed_unless_one_piece_holds_three_quarters():
    latent, batches, labels = cells()
    pieces = latent.copy()
    pieces[:150] += 1000.0
    near = nearest_neighbours(pieces, 14)
    assert kbet_of_labels(near, batches, labels)["mixed"][0] > 0.5
    many = latent.copy()
    many[:300] += 1000.0 * (np.arange(300) // 20)[:, None]
    near = nearest_neighbours(many, 14)
    assert kbet_of_labels(near, batches, labels)["mixed"][0] == 0.0


def test_connectivities_are_symmetric_and_directions_unite_as_probabilities():
    latent, _, _ = cells()
    near = nearest_neighbours(latent, 14)
    graph = connectivities(near).toarray()
    np.testing.assert_allclose(graph, graph.T)
    assert graph.min() >= 0
    assert graph.max() <= 1 + 1e-12
    # The nearest neighbour of a cell has weight 1, whatever the way back says.
    np.testing.assert_allclose(graph[np.arange(900), near.indices[:, 0]], 1.0)
    assert (np.diag(graph) == 0).all()


def test_diffusion_distances_are_those_of_all_steps_summed():
    latent, _, _ = cells()
    graph = connectivities(nearest_neighbours(latent[:60], 10))
    space = diffusion_space(graph, 59)
    weights = graph.toarray()
    density = weights.sum(axis=0)
    kernel = weights / density[:, None] / density
    root = np.sqrt(kernel.sum(axis=0))
    transitions = kernel / root[:, None] / root
    stationary = root / np.linalg.norm(root)
    constant = np.outer(stationary, stationary)
    # The sum of all powers of the transitions, without the constant part, which has weight 1 here.
    steps = np.linalg.inv(np.eye(60) - transitions + constant) - np.eye(60)
    operator = steps + constant
    found = space @ space.T
    expected = operator @ operator.T
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_what_has_no_figure_is_refused():
    latent, batches, labels = cells()
    near = nearest_neighbours(latent, 14)
    with pytest.raises(
        ScoreUndefinedError, match="at least 10 cells from two batches; of 900 labels"
    ):
        kbet_per_label(near, batches, np.arange(900))
    with pytest.raises(ScoreUndefinedError, match="batches must have between 2 and 899"):
        kbet_per_label(near, np.zeros(900), labels)
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        kbet_per_label(near, batches, labels, alpha=2.0)

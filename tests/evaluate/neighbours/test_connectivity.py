"""Graph connectivity on graphs whose components are plain to see."""

import numpy as np
import pytest

from medl_scale.errors import DataError, ScoreUndefinedError
from medl_scale.evaluate.neighbours.connectivity import graph_connectivity
from medl_scale.evaluate.neighbours.neighbours import ExactSample, Neighbours, nearest_neighbours


def test_a_label_in_two_places_hangs_together_in_its_larger_one():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(100, 2))
    latent[:30] += 1000.0
    labels = np.array(["split"] * 100 + ["whole"] * 50)
    latent = np.concatenate([latent, rng.normal(size=(50, 2)) - 1000.0])
    found = graph_connectivity(nearest_neighbours(latent, 14), labels)
    assert float(found) == pytest.approx((0.7 + 1.0) / 2, abs=1e-12)
    assert (found.kind, found.n) == ("exact", 150)


def test_components_are_strong_and_edges_through_other_labels_do_not_count():
    # 0 -> 1 -> 2 -> 0 is a circle of label a; 3 leads into it and nobody leads back.
    indices = np.array([[1], [2], [0], [0], [5], [6], [4]], np.int32)
    near = Neighbours(indices, np.ones((7, 1)), 1.0, "given")
    assert float(graph_connectivity(near, list("aaaabbb"))) == (0.75 + 1.0) / 2
    # With 5 of another label, the circle of 4, 5 and 6 is broken.
    assert float(graph_connectivity(near, list("aaaabab"))) == pytest.approx((3 / 5 + 1 / 2) / 2)


def test_duplicates_are_joined_by_edges_of_length_0():
    found = graph_connectivity(nearest_neighbours(np.zeros((40, 2)), 5), np.repeat([0, 1], 20))
    # The first six cells are everybody's neighbours; label 1 has no edge within.
    assert float(found) == pytest.approx((6 / 20 + 1 / 20) / 2)


def test_nothing_is_certain_of_approximate_neighbours():
    near = nearest_neighbours(np.random.default_rng(1).normal(size=(60, 2)), 5)
    sample = ExactSample(np.arange(60), near.indices.astype(np.int64), near.distances)
    approximate = Neighbours(near.indices, near.distances, 1.0, "approximate", sample)
    found = graph_connectivity(approximate, np.arange(60) % 2)
    assert found.kind == "certified"
    assert found.error == max(found.value, 1 - found.value)


def test_what_has_no_figure_is_refused():
    near = nearest_neighbours(np.arange(9.0)[:, None], 3)
    with pytest.raises(ScoreUndefinedError, match="fewer different values than cells, 9"):
        graph_connectivity(near, np.arange(9))
    with pytest.raises(DataError, match="9 cells, but 8 labels"):
        graph_connectivity(near, np.zeros(8))
    assert float(graph_connectivity(near, np.zeros(9))) <= 1.0

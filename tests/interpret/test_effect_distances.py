"""Distances between batches by their random effects, against cells that are moved one by one."""

import numpy as np
import pytest

from medl_scale.interpret import effect_distances as module
from medl_scale.interpret.effect_distances import effect_distances
from tests.interpret.test_effects import drawn


def test_distances_are_those_of_cells_moved_by_both_batches():
    effects = drawn(n_batches=3, n_genes=5)
    rng = np.random.default_rng(0)
    h = effects.cell_mean + effects.cell_sd * rng.normal(size=(200_000, 5))
    moved = [h * (1 + effects.scale[b]) + effects.shift[b] for b in range(3)]
    found = effect_distances(effects)
    assert list(found.index) == list(found.columns) == list(effects.batches)
    for a in range(3):
        for b in range(3):
            expected = np.sqrt(np.square(moved[a] - moved[b]).mean())
            assert found.iloc[a, b] == pytest.approx(expected, rel=0.01)


def test_they_are_distances_whatever_the_block(monkeypatch):
    effects = drawn(n_batches=6, n_genes=30)
    whole = effect_distances(effects)
    assert (whole.to_numpy() == whole.to_numpy().T).all()
    assert (np.diagonal(whole) == 0).all()
    monkeypatch.setattr(module, "_BLOCK_VALUES", 24)
    np.testing.assert_allclose(effect_distances(effects), whole, atol=1e-12)

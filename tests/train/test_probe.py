"""The fresh probe on latents whose batch is plain or absent."""

import numpy as np
import pytest

from medl_scale.evaluate.neighbours.lisi import ilisi
from medl_scale.evaluate.neighbours.neighbours import nearest_neighbours
from medl_scale.train.probe import probe_batch


def test_a_plain_batch_is_seen_and_a_random_one_is_not():
    rng = np.random.default_rng(3)
    codes = rng.choice(3, 900, p=[0.5, 0.3, 0.2]).astype(np.int32)
    plain = (rng.normal(size=(900, 4)) + 6.0 * np.eye(4)[codes]).astype(np.float32)
    mixed = rng.normal(size=(900, 4)).astype(np.float32)
    train, test = slice(0, 600), slice(600, 900)

    def probe(latent):
        return probe_batch(
            latent[train], codes[train], latent[test], codes[test], seed=0, n_threads=1
        )

    seen, unseen = probe(plain), probe(mixed)
    assert seen.forest_accuracy > 0.99
    assert seen.ilisi < 1.05
    assert unseen.forest_accuracy < unseen.majority + 0.1
    assert unseen.ilisi > 2.3
    assert seen.majority == unseen.majority == pytest.approx(np.mean(codes[test] == 0))
    assert seen.n_cells == 900
    assert seen.ilisi == float(ilisi(nearest_neighbours(plain, 90), codes))
    assert probe(plain) == seen

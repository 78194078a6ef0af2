"""The fresh probe against brute force, and on latents whose batch is plain or absent."""

import numpy as np
import pytest

from medl_scale.train.probe import inverse_simpson, probe_batch


def brute_force_lisi(latent: np.ndarray, codes: np.ndarray, perplexity: float) -> np.ndarray:
    """Korsunsky et al. (2019), cell by cell: weights exp(-beta d) of the given perplexity."""
    n_neighbours = min(90, len(latent) - 1)
    found = []
    for cell in range(len(latent)):
        distance = np.sqrt(((latent - latent[cell]) ** 2).sum(axis=1))
        distance[cell] = np.inf
        nearest = np.argsort(distance)[:n_neighbours]
        low, high = -40.0, 40.0
        for _ in range(200):
            log_beta = (low + high) / 2
            weights = np.exp(-np.exp(log_beta) * (distance[nearest] - distance[nearest].min()))
            weights /= weights.sum()
            entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)))
            low, high = (log_beta, high) if entropy > np.log(perplexity) else (low, log_beta)
        shares = [weights[codes[nearest] == code].sum() for code in np.unique(codes)]
        found.append(1 / np.sum(np.square(shares)))
    return np.array(found)


def test_ilisi_equals_brute_force():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 300).astype(np.int32)
    latent = (rng.normal(size=(300, 5)) + 0.8 * codes[:, None]).astype(np.float32)
    expected = brute_force_lisi(latent.astype(float), codes, 30.0)
    np.testing.assert_allclose(inverse_simpson(latent, codes), expected, rtol=1e-3)


def test_ilisi_equals_that_of_scib_metrics_for_the_same_neighbours():
    scib = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, 250).astype(np.int32)
    latent = (rng.normal(size=(250, 4)) + 0.5 * codes[:, None]).astype(np.float32)
    # scib-metrics counts the cell itself among its neighbours and then leaves it out.
    distances, indices = NearestNeighbors(n_neighbors=91).fit(latent).kneighbors(latent)
    theirs = scib.lisi_knn(
        NeighborsResults(indices=indices, distances=distances), codes, perplexity=30.0
    )
    ours = inverse_simpson(latent, codes)
    np.testing.assert_allclose(ours, theirs, rtol=0.01)


def test_ilisi_spans_one_to_the_number_of_batches():
    rng = np.random.default_rng(2)
    codes = np.repeat([0, 1, 2], 120).astype(np.int32)
    apart = (100.0 * codes[:, None] + rng.normal(size=(360, 3))).astype(np.float32)
    mixed = rng.normal(size=(360, 3)).astype(np.float32)
    np.testing.assert_allclose(inverse_simpson(apart, codes), 1.0, rtol=1e-6)
    assert 2.5 < np.median(inverse_simpson(mixed, codes)) <= 3.0


@pytest.mark.parametrize("n_cells", [3, 20])
def test_few_cells_and_equal_cells_give_finite_values(n_cells):
    codes = np.arange(n_cells, dtype=np.int32) % 2
    for latent in (np.zeros((n_cells, 2), np.float32), np.eye(n_cells, dtype=np.float32)):
        found = inverse_simpson(latent, codes)
        assert np.isfinite(found).all()
        assert np.all((found >= 1 - 1e-9) & (found <= 2 + 1e-9))


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
    assert probe(plain) == seen

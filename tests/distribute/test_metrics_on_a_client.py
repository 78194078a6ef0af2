"""Metrics on real workers: the same bits as in one process, however many workers there are."""

import numpy as np
import pytest

from medl_scale import evaluate
from medl_scale.distribute import map_on_client
from medl_scale.distribute.clusters.local import local_client


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def on_workers(request):
    with local_client(request.param, 1) as client:
        yield map_on_client(client)


def mixed(n, d, n_labels):
    rng = np.random.default_rng([n, d])
    labels = rng.integers(n_labels, size=n)
    latent = rng.normal(size=(n, d)) + 0.5 * rng.normal(size=(n_labels, d))[labels]
    return latent.astype(np.float32), labels


@pytest.mark.parametrize(
    ("method", "n", "d"),
    [
        ("brute", 20_000, 3),
        ("pruned", 40_000, 5),
        ("gridded", 150_000, 2),
        ("two_phase", 70_000, 5),
    ],
)
def test_silhouettes_are_bitwise_those_of_one_process(on_workers, method, n, d):
    latent, labels = mixed(n, d, 7)
    here = evaluate.silhouette_samples(latent, labels, method=method)
    there = evaluate.silhouette_samples(latent, labels, method=method, map_blocks=on_workers)
    assert (there.value, there.error) == (here.value, here.error)
    np.testing.assert_array_equal(there.per_cell, here.per_cell)


def test_scores_of_neighbours_and_moments_are_bitwise_those_of_one_process(on_workers):
    latent, labels = mixed(70_000, 2, 9)
    (here,) = evaluate.lisi_of_latent(latent, {"batch": labels}).values()
    (there,) = evaluate.lisi_of_latent(latent, {"batch": labels}, map_blocks=on_workers).values()
    np.testing.assert_array_equal(there.per_cell, here.per_cell)
    for metric in (evaluate.calinski_harabasz, evaluate.davies_bouldin):
        assert metric(latent, labels, map_blocks=on_workers).value == metric(latent, labels).value
    clusters = labels // 2
    assert evaluate.ari(labels, clusters, map_blocks=on_workers).value == (
        evaluate.ari(labels, clusters).value
    )


def test_forests_are_tree_by_tree_those_of_one_process(on_workers):
    latent, labels = mixed(3_000, 4, 5)
    cells = latent[:2_000], labels[:2_000], latent[2_000:], labels[2_000:]
    here = evaluate.forest_accuracy(*cells)
    there = evaluate.forest_accuracy(*cells, map_blocks=on_workers)
    np.testing.assert_array_equal(there.predictions, here.predictions)
    np.testing.assert_array_equal(there.confusion, here.confusion)

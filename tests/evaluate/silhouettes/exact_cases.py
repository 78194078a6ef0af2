"""Latents that exact silhouettes must get right, and the answer by definition in float64."""

import pickle

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples

from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.layout import sort_by_label


def blobs(n, d, n_labels, *, seed=0, apart=2.0):
    """Cells around one centre a label."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_labels), rng.integers(0, n_labels, n - n_labels)])
    return rng.normal(size=(n_labels, d))[labels] * apart + rng.normal(size=(n, d)), labels


def _singletons():
    latent, labels = blobs(300, 3, 5)
    labels[[3, 50, 299]] = [70, 80, 90]
    return latent, labels


def _tiny_labels():
    latent, labels = blobs(420, 4, 4)
    for label, size in enumerate((1, 2, 3, 4, 5, 15, 16, 17, 31, 33), start=10):
        labels[np.flatnonzero(labels < 4)[:size]] = label
    return latent, labels


def _identical_points():
    return np.full((60, 3), 7.25), np.arange(60) % 3


def _one_collapsed_label():
    latent, labels = blobs(200, 2, 4)
    latent[labels == 2] = 1.5
    return latent, labels


def _duplicates():
    latent, labels = blobs(300, 5, 6)
    latent[150:] = latent[:150]
    return latent, labels


def _constant_dimensions():
    latent, labels = blobs(250, 6, 4)
    latent[:, [1, 4]] = 3.0
    return latent, labels


def _offset(by, dtype):
    latent, labels = blobs(300, 3, 4)
    return (latent + by).astype(dtype), labels


def _scale(by):
    latent, labels = blobs(300, 3, 4)
    return latent * by, labels


def _heavy_tails(df):
    latent, labels = blobs(400, 2, 4)
    rng = np.random.default_rng(5)
    return latent + rng.standard_t(df, size=latent.shape), labels


def _far_outliers():
    latent, labels = blobs(400, 2, 4)
    latent[[5, 77, 300]] *= 1e4
    return latent, labels


def _nested():
    latent, labels = blobs(450, 2, 3)
    latent[labels == 1] = latent[labels == 1] * 1e-3
    latent[labels == 2] = latent[labels == 2] * 1e-5
    return latent, labels


def _far_compact_labels():
    latent, labels = blobs(300, 3, 3)
    return latent * 1e-6 + np.array([0.0, 1.0, -3.0])[labels][:, None], labels


CASES = {
    "one dimension": blobs(300, 1, 3),
    "two dimensions": blobs(700, 2, 7),
    "ten dimensions": blobs(700, 10, 7),
    "fifty dimensions": blobs(600, 50, 5),
    "seventy-three dimensions": blobs(150, 73, 3),
    "two labels": blobs(333, 3, 2),
    "mixed labels": blobs(640, 3, 40, apart=0.0),
    "all but two cells alone": (np.arange(40.0)[:, None] ** 1.5, np.append(0, np.arange(39))),
    "three cells": (np.array([[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]]), np.array([0, 0, 1])),
    "singletons": _singletons(),
    "tiny labels": _tiny_labels(),
    "identical points": _identical_points(),
    "one collapsed label": _one_collapsed_label(),
    "duplicates": _duplicates(),
    "constant dimensions": _constant_dimensions(),
    "offset 1e4 in float32": _offset(1e4, np.float32),
    "offset 1e6": _offset(1e6, np.float64),
    "scale 1e-8": _scale(1e-8),
    "scale 1e15": _scale(1e15),
    "scale 1e150": _scale(1e150),
    "scale 1e-150": _scale(1e-150),
    "tails of t(1.5)": _heavy_tails(1.5),
    "Cauchy tails": _heavy_tails(1.0),
    "far outliers": _far_outliers(),
    "nested labels": _nested(),
    "far compact labels": _far_compact_labels(),
}
"""Name to (latent, labels)."""


def clusters_of(latent, labels):
    """Sort cells, as the public functions do."""
    return sort_by_label(np.asarray(latent), encode_labels(labels, len(latent)))


def by_definition(latent, labels):
    """Silhouettes by scikit-learn from float64 distances that cancel nothing."""
    latent = np.asarray(latent, np.float64)
    latent = latent / np.abs(latent).max()
    return silhouette_samples(cdist(latent, latent), labels, metric="precomputed")


def errors_of(result, clusters, latent, labels):
    """Return how far each silhouette is from the definition, in the order of the sorted cells."""
    return np.abs(result.values - by_definition(latent, labels)[clusters.order])


def map_elsewhere(function, shared, items):
    """Work as other processes would: on copies, last item first, on their own idea of the rest."""
    function, shared = pickle.loads(pickle.dumps((function, shared)))
    done = [
        pickle.dumps(function(shared, pickle.loads(pickle.dumps(item)))) for item in reversed(items)
    ]
    for result in reversed(done):
        yield pickle.loads(result)

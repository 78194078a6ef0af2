"""Cells with labels for the tests of GPU code, and float64 answers found another way."""

import numpy as np
from scipy.spatial.distance import cdist

from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.layout import sort_by_label

KINDS = (
    "blobs",
    "overlapping",
    "heavy tails",
    "far outliers",
    "nested",
    "duplicates",
    "constant dimensions",
    "far from the origin",
    "tiny",
    "huge",
    "singletons",
)


def draw_cells(kind, n, d, n_labels, seed):
    """Return a latent, float64, and labels; every label occurs."""
    rng = np.random.default_rng([KINDS.index(kind), n, d, n_labels, seed])
    labels = np.concatenate([np.arange(n_labels), rng.integers(0, n_labels, n - n_labels)])
    rng.shuffle(labels)
    centres = rng.normal(size=(n_labels, d)) * (0.3 if kind == "overlapping" else 3.0)
    cells = rng.normal(size=(n, d))
    if kind == "heavy tails":
        cells = rng.standard_t(1.5, size=(n, d))
    if kind == "nested":
        cells *= 10.0 ** -(labels % 3 * 2.0)[:, None]
        centres *= 0.1
    if kind == "duplicates":
        cells[n // 2 :] = cells[: n - n // 2]
        labels[n // 2 :] = labels[: n - n // 2]
        labels[:n_labels] = np.arange(n_labels)
    cells += centres[labels]
    if kind == "far outliers":
        cells[:3] *= 1e4
    if kind == "constant dimensions":
        cells[:, ::2] = 1.5
    if kind == "far from the origin":
        cells += 1e6
    if kind == "singletons":
        labels = np.concatenate([np.arange(n_labels), np.zeros(n - n_labels, int)])
    return cells * {"tiny": 1e-8, "huge": 1e15}.get(kind, 1.0), labels


def sorted_cells(latent, labels):
    """Return the cells sorted by label."""
    return sort_by_label(latent, encode_labels(labels, len(latent)))


def sums_by_pairs(clusters, rows=slice(None)):
    """Return sums to the own label and least means to another from all distances in float64."""
    every = clusters.points(slice(None))
    distances = cdist(every[rows], every)
    sums = np.add.reduceat(distances, clusters.starts[:-1], axis=1)
    own = clusters.codes[rows]
    means = sums / clusters.counts
    at = np.arange(len(own))
    means[at, own] = np.inf
    return sums[at, own], means.min(axis=1)

"""How much batch a latent still holds, seen by fresh eyes.

An adversary at chance is no evidence of mixing: the published one was measured at chance while a
forest read the batch from the same latent at 78 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.seeds import Purpose, framework_seed, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int32]

__all__ = ["BatchProbe", "inverse_simpson", "probe_batch"]

MOST_CELLS = 20_000
"""Cells of each side of the forest, and of the neighbourhoods; more would change little."""
PERPLEXITY = 30.0
NEIGHBOURS = 90


@dataclass(frozen=True)
class BatchProbe:
    """What a fresh probe reads from a latent."""

    forest_accuracy: float
    """Share of test cells whose batch a forest of 100 trees tells right."""
    majority: float
    """The same by always naming the largest batch."""
    ilisi: float
    """Median effective number of batches among a cell's neighbours, 1 to n_batches."""
    n_cells: int
    """Cells that iLISI was computed on."""


def probe_batch(
    train: Floats,
    train_codes: Codes,
    test: Floats,
    test_codes: Codes,
    *,
    seed: int,
    n_threads: int,
) -> BatchProbe:
    """Ask a random forest and local neighbourhoods for the batch of each cell.

    Parameters
    ----------
    train, test
        (n, n_latent) latents; at most 20,000 cells of each are used, drawn at random.
    train_codes, test_codes
        (n,) batch codes.
    """
    from sklearn.ensemble import RandomForestClassifier

    rng = generator(seed, Purpose.PROBE)
    train, train_codes = _at_most(rng, train, train_codes)
    test, test_codes = _at_most(rng, test, test_codes)
    forest = RandomForestClassifier(
        100, random_state=framework_seed(seed, Purpose.PROBE), n_jobs=n_threads
    )
    accuracy = forest.fit(train, train_codes).score(test, test_codes)
    majority = np.bincount(train_codes).argmax()
    everything, codes = np.concatenate([train, test]), np.concatenate([train_codes, test_codes])
    everything, codes = _at_most(rng, everything, codes)
    return BatchProbe(
        forest_accuracy=float(accuracy),
        majority=float(np.mean(test_codes == majority)),
        ilisi=float(np.median(inverse_simpson(everything, codes))),
        n_cells=len(codes),
    )


def inverse_simpson(latent: Floats, codes: Codes) -> NDArray[np.float64]:
    """Return the local inverse Simpson index of each cell, (n,) from 1 to the number of codes.

    Notes
    -----
    Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0: neighbours are weighted by a Gaussian
    whose width gives each cell a perplexity of 30 over its 90 nearest neighbours.
    """
    from sklearn.neighbors import NearestNeighbors

    n_neighbours = min(NEIGHBOURS, len(latent) - 1)
    perplexity = min(PERPLEXITY, n_neighbours / 3.0)
    finder = NearestNeighbors(n_neighbors=n_neighbours).fit(latent)
    distances, neighbours = finder.kneighbors()
    weights = _gaussian_weights(distances.astype(np.float64), math.log(max(perplexity, 1.0)))
    share = np.zeros((len(latent), int(codes.max()) + 1))
    for column in range(n_neighbours):
        np.add.at(share, (np.arange(len(latent)), codes[neighbours[:, column]]), weights[:, column])
    return np.asarray(1.0 / np.sum(share**2, axis=1), dtype=np.float64)


def _gaussian_weights(distances: NDArray[np.float64], entropy: float) -> NDArray[np.float64]:
    """Return weights exp(-beta * distance), beta by bisection so that each row has this entropy."""
    scaled = distances / max(float(np.median(distances)), 1e-300)
    scaled = scaled - scaled[:, :1]
    low = np.zeros(len(scaled))
    high = np.full(len(scaled), np.inf)
    beta = np.ones(len(scaled))
    for _ in range(60):
        raw = np.exp(-scaled * beta[:, None])
        total = raw.sum(axis=1)
        too_wide = np.log(total) + beta * np.sum(scaled * raw, axis=1) / total > entropy
        low = np.where(too_wide, beta, low)
        high = np.where(too_wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2.0, (low + high) / 2.0)
    raw = np.exp(-scaled * beta[:, None])
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def _at_most(rng: np.random.Generator, values: Floats, codes: Codes) -> tuple[Floats, Codes]:
    """Return all cells, or 20,000 of them drawn at random."""
    if len(values) <= MOST_CELLS:
        return values, codes
    chosen = np.sort(rng.choice(len(values), MOST_CELLS, replace=False))
    return values[chosen], codes[chosen]

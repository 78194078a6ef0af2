"""How much batch a latent still holds, seen by fresh eyes.

An adversary at chance is no evidence of mixing: the published one was measured at chance while a
forest read the batch from the same latent at 78 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from medl_scale.evaluate.neighbours.lisi import HARMONY_NEIGHBOURS, lisi
from medl_scale.evaluate.neighbours.neighbours import nearest_neighbours
from medl_scale.seeds import Purpose, framework_seed, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int32]

__all__ = ["BatchProbe", "probe_batch"]

MOST_CELLS = 20_000
"""Cells of each side of the forest, and of the neighbourhoods; more would change little."""


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
        ilisi=_ilisi(everything, codes, n_threads),
        n_cells=len(codes),
    )


def _ilisi(latent: Floats, codes: Codes, n_threads: int) -> float:
    """Return the median LISI of batches; 1 of a single batch."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, before))
    try:
        near = nearest_neighbours(latent, HARMONY_NEIGHBOURS)
    finally:
        numba.set_num_threads(before)
    return float(np.median(lisi(near, codes)))


def _at_most(rng: np.random.Generator, values: Floats, codes: Codes) -> tuple[Floats, Codes]:
    """Return all cells, or 20,000 of them drawn at random."""
    if len(values) <= MOST_CELLS:
        return values, codes
    chosen = np.sort(rng.choice(len(values), MOST_CELLS, replace=False))
    return values[chosen], codes[chosen]

"""What is true in a simulated atlas: its model and the parameters of it.

A count is negative binomial with mean

    library_i * (batch_scale[b, g] * type_profile[t, g] + batch_shift[b, g])

and variance mean + mean^2 / dispersion[g], for a cell i of type t in batch b. So the expected count
of a cell as if it came from another batch is known too. Cells are drawn in `store.simulate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type FloatArray = NDArray[np.float32]

__all__ = ["LIBRARY_LOG_SD", "PARAMETERS_PLACE", "GroundTruth", "ground_truth"]

LIBRARY_LOG_SD = 0.35
"""Standard deviation of the log of library sizes within a batch."""
PARAMETERS_PLACE = 1
"""Place of the parameters' generator under `Purpose.SIMULATE`."""

_GENE_LOG_SD = 1.7


class GroundTruth(NamedTuple):
    """Parameters of a simulated atlas, a pure function of its sizes and seed."""

    type_profile: FloatArray
    """(n_labels, n_genes) share of each gene in the counts of a type; rows sum to 1."""
    batch_scale: FloatArray
    """(n_batches, n_genes) factor on the profile."""
    batch_shift: FloatArray
    """(n_batches, n_genes) share added to every cell, as ambient RNA does."""
    dispersion: FloatArray
    """(n_genes,) inverse overdispersion of the negative binomial."""
    batch_library: FloatArray
    """(n_batches,) median library size, counts a cell."""
    batch_shares: FloatArray
    """(n_batches,) expected share of the cells."""
    type_shares: FloatArray
    """(n_batches, n_labels) share of each type in a batch; 0 where it is missing."""


def ground_truth(*, n_genes: int, n_batches: int, n_labels: int, seed: int) -> GroundTruth:
    """Draw the parameters of a simulated atlas.

    Parameters
    ----------
    n_genes, n_batches, n_labels
        Sizes, >= 1.
    seed
        The same seed gives the same parameters.

    Returns
    -------
    GroundTruth
        Library sizes are such that about 7 % of the counts are not zero; more in panels below
        2,000 genes, where 7 % would leave hardly any gene a cell.
    """
    rng = generator(seed, Purpose.SIMULATE, PARAMETERS_PLACE)
    type_profile = _draw_type_profiles(rng, n_labels, n_genes)
    type_shares = _draw_type_shares(rng, n_batches, n_labels)
    ambient = type_profile.mean(axis=0)
    batch_scale = np.exp(0.35 * _normal(rng, n_batches, n_genes))
    ambient_share = rng.uniform(0.02, 0.08, (n_batches, 1)).astype(np.float32)
    batch_shift = ambient_share * ambient * np.exp(0.5 * _normal(rng, n_batches, n_genes))
    dispersion = np.exp(np.log(3.0) + 0.4 * _normal(rng, n_genes))
    depth = np.exp(0.25 * _normal(rng, n_batches))
    batch_shares = np.exp(0.5 * _normal(rng, n_batches))
    density = float(np.clip(140 / n_genes, 0.07, 0.35))
    library = _library_for_density(
        density, type_profile, batch_scale, batch_shift, dispersion, depth
    )
    return GroundTruth(
        type_profile=type_profile,
        batch_scale=batch_scale,
        batch_shift=batch_shift,
        dispersion=dispersion,
        batch_library=(library * depth).astype(np.float32),
        batch_shares=batch_shares / batch_shares.sum(),
        type_shares=type_shares,
    )


def _draw_type_profiles(rng: np.random.Generator, n_labels: int, n_genes: int) -> FloatArray:
    """Draw (n_labels, n_genes) shares: a common log-normal profile, noise, and markers."""
    log_profile = _GENE_LOG_SD * _normal(rng, n_genes) + 0.25 * _normal(rng, n_labels, n_genes)
    n_markers = min(n_genes, max(3, n_genes // 25))
    for label in range(n_labels):
        markers = rng.choice(n_genes, n_markers, replace=False)
        log_profile[label, markers] += 1.5 + 0.5 * _normal(rng, n_markers)
    profile: FloatArray = np.exp(log_profile)
    profile /= profile.sum(axis=1, keepdims=True)
    return profile


def _draw_type_shares(rng: np.random.Generator, n_batches: int, n_labels: int) -> FloatArray:
    """Draw (n_batches, n_labels) shares of types, unequal, with some types missing."""
    log_shares = 0.8 * _normal(rng, n_labels) + 0.3 * _normal(rng, n_batches, n_labels)
    shares: FloatArray = np.exp(log_shares)
    present = rng.random((n_batches, n_labels)) >= 0.2
    if present.all() and n_batches > 1 and n_labels > 2:
        present[rng.integers(n_batches), rng.integers(n_labels)] = False
    for label in np.flatnonzero(~present.any(axis=0)):
        present[rng.integers(n_batches), label] = True
    # A batch shows at least two types: its most frequent ones come back.
    for batch in np.flatnonzero(present.sum(axis=1) < min(2, n_labels)):
        present[batch, np.argsort(-shares[batch])[:2]] = True
    shares[~present] = 0
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _library_for_density(
    density: float,
    type_profile: FloatArray,
    batch_scale: FloatArray,
    batch_shift: FloatArray,
    dispersion: FloatArray,
    depth: FloatArray,
) -> float:
    """Find the median library size at which the expected share of non-zero counts is `density`."""
    n_batches, n_labels = len(batch_scale), len(type_profile)
    pairs = np.arange(min(16, n_batches * n_labels))
    batch = pairs * n_batches // pairs.size
    rate = batch_scale[batch] * type_profile[pairs % n_labels] + batch_shift[batch]
    # Three points stand for the log-normal spread of libraries (Gauss-Hermite).
    spread = np.exp(LIBRARY_LOG_SD * np.sqrt(3.0) * np.array([-1.0, 0.0, 1.0]))
    weights = np.array([1.0, 4.0, 1.0]) / 6.0
    low, high = 0.0, 60.0
    for _ in range(30):
        middle = (low + high) / 2
        mean = np.exp(middle) * rate * depth[batch, None]
        found = sum(
            weight * (1 - np.exp(-dispersion * np.log1p(mean * factor / dispersion))).mean()
            for weight, factor in zip(weights, spread, strict=True)
        )
        low, high = (middle, high) if found < density else (low, middle)
    return float(np.exp((low + high) / 2))


def _normal(rng: np.random.Generator, *shape: int) -> FloatArray:
    """Draw standard normal numbers, float32."""
    return rng.standard_normal(shape, dtype=np.float32)

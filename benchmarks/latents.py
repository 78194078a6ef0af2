"""Synthetic latents for the benchmarks of metrics: four ways in which labels share a latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "Kind", "make_latent"]

Kind = Literal["celltype", "mixed", "null", "re"]
KINDS: tuple[Kind, ...] = ("celltype", "mixed", "null", "re")
N_TYPES = 19
_CHUNK = 262_144


def make_latent(
    kind: Kind, n: int, d: int, n_labels: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return a latent and the label of every cell.

    Parameters
    ----------
    kind
        `celltype`: a tilted normal blob for each label; sizes differ, some overlap.
        `mixed`: batches that share 19 cell types, their composition and position a little apart, as
        in the latent of a fixed-effects model.
        `null`: labels drawn regardless of position, perfect mixing.
        `re`: a compact round blob for each label, as in the latent of a random-effects model.
    n, d, n_labels
        Cells, dimensions and labels.
    seed
        The same seed gives the same latent.

    Returns
    -------
    latent
        (n, d) float32.
    labels
        (n,) int32 codes below `n_labels`.
    """
    rng = np.random.default_rng([KINDS.index(kind), n, d, n_labels, seed])
    labels = _draw(rng, _shares(rng, n_labels), n)
    if kind == "mixed":
        base = rng.dirichlet(np.ones(N_TYPES))
        compositions = rng.dirichlet(30 * base + 0.05, size=n_labels)
        shifts = rng.normal(0, 0.15, (n_labels, d))
        types = _types_of(rng, labels, compositions)
        blobs = _blobs(rng, N_TYPES, d)
        return _cells(rng, types, *blobs, shifts=shifts[labels]), labels
    if kind == "null":
        types = _draw(rng, _shares(rng, N_TYPES), n)
        return _cells(rng, types, *_blobs(rng, N_TYPES, d)), labels
    if kind == "celltype":
        return _cells(rng, labels, *_blobs(rng, n_labels, d)), labels
    centres = rng.normal(0, 3.0 if d <= 3 else 1.5, (n_labels, d))
    widths = rng.uniform(0.1, 0.5, n_labels)[:, None, None] * np.eye(d)
    return _cells(rng, labels, centres, widths), labels


def _shares(rng: np.random.Generator, n_labels: int) -> NDArray[np.float64]:
    """Return the share of cells of every label, none of them tiny."""
    shares = rng.dirichlet(np.ones(n_labels)) + 0.1 / n_labels
    return shares / shares.sum()


def _draw(rng: np.random.Generator, shares: NDArray[np.float64], n: int) -> NDArray[np.int32]:
    """Return n codes drawn by their shares."""
    return np.searchsorted(np.cumsum(shares)[:-1], rng.random(n)).astype(np.int32)


def _types_of(
    rng: np.random.Generator, labels: NDArray[np.int32], compositions: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Return a cell type for every cell, by the composition of its label."""
    types = np.empty(len(labels), np.int32)
    for label, shares in enumerate(compositions):
        rows = np.flatnonzero(labels == label)
        types[rows] = _draw(rng, shares, len(rows))
    return types


def _blobs(
    rng: np.random.Generator, n: int, d: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centres (n, d) and linear maps (n, d, d) of tilted normal blobs."""
    centres = rng.normal(0, 4.0 if d <= 3 else 2.5, (n, d))
    tilts = 0.5 * np.eye(d) + rng.normal(0, 0.7 / np.sqrt(d), (n, d, d))
    return centres, rng.uniform(0.4, 1.2, n)[:, None, None] * tilts


def _cells(
    rng: np.random.Generator,
    blob: NDArray[np.int32],
    centres: NDArray[np.float64],
    maps: NDArray[np.float64],
    *,
    shifts: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Return cells drawn from the blob that each belongs to, a chunk at a time."""
    n, d = len(blob), centres.shape[1]
    latent = np.empty((n, d), np.float32)
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        noise = rng.standard_normal((rows.stop - start, d))
        own = blob[rows]
        cells = np.empty_like(noise)
        for code in np.unique(own):
            here = own == code
            cells[here] = centres[code] + noise[here] @ maps[code]
        latent[rows] = cells if shifts is None else cells + shifts[rows]
    return latent

"""kBET within each label, on neighbours of the label's own graph, as scib-metrics averages it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ScoreUndefinedError
from medl_scale.evaluate.inputs import check_n_labels, encode_labels
from medl_scale.evaluate.neighbours.diffusion import connectivities, diffusion_space
from medl_scale.evaluate.neighbours.kbet import check_alpha, p_values
from medl_scale.evaluate.neighbours.neighbours import Neighbours, nearest_neighbours
from medl_scale.evaluate.score import Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_array

__all__ = ["kbet_of_labels", "kbet_per_label"]

_LEAST_CELLS = 10
_LEAST_KEPT = 0.75


def kbet_per_label(
    neighbours: Neighbours,
    batches: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float = 0.05,
    n_axes: int = 100,
) -> Score:
    """Return the mean over labels of kBET among the label's cells: higher is better.

    Parameters
    ----------
    neighbours
        Of every cell; scib-metrics' Benchmarker takes `neighbours.KBET_NEIGHBOURS`.
    batches, labels
        (n,) of each cell.
    alpha
        Level of the test.
    n_axes
        Dimensions of the diffusion space that a label's neighbours are looked for in.

    Returns
    -------
    Score
        Labels of fewer than 10 cells or of one batch are left out. `n` counts the cells of the
        others, and the error is that of one cell changing sides.

    Raises
    ------
    DataError
        If there is not one batch and label a cell.
    ScoreUndefinedError
        If there is one batch, or no label is left.

    Notes
    -----
    Definitions are those of scib-metrics 0.6; figures differ by a few cells. It computes the
    diffusion space in float32 and finds neighbours there by pynndescent, here they are exact. Once
    a label has fewer than 101 cells it also takes as few dimensions for all labels that follow;
    here each label has its own.
    """
    started = time.perf_counter()
    per_label = kbet_of_labels(neighbours, batches, labels, alpha=alpha, n_axes=n_axes)
    found = np.array([value for value, _ in per_label.values()])
    sizes = np.array([size for _, size in per_label.values()])
    kept = np.isfinite(found)
    if not kept.any():
        raise ScoreUndefinedError(
            f"kBET per label needs a label of at least {_LEAST_CELLS} cells from two batches; of "
            f"{len(found):,} labels none is. Check the labels, or use kbet."
        )
    return Score(
        value=float(found[kept].mean()),
        kind="exact" if neighbours.is_exact else "certified",
        error=float(1.0 / sizes[kept].min()) if neighbours.is_exact else 1.0,
        method=f"{int(kept.sum())} of {len(found)} labels, {neighbours.k} neighbours "
        f"({neighbours.method}), alpha {alpha:g}",
        n=int(sizes[kept].sum()),
        seconds=time.perf_counter() - started,
    )


def kbet_of_labels(
    neighbours: Neighbours,
    batches: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float = 0.05,
    n_axes: int = 100,
) -> dict[object, tuple[float, int]]:
    """Return kBET and cells of each label; NaN where it is left out. See `kbet_per_label`."""
    check_alpha(alpha)
    encoded = encode_labels(labels, neighbours.n)
    encoded_batches = encode_labels(batches, neighbours.n, name="batches")
    check_n_labels(encoded_batches, name="batches")
    graph = connectivities(neighbours)
    found: dict[object, tuple[float, int]] = {}
    for code, level in enumerate(encoded.levels):
        rows = np.flatnonzero(encoded.codes == code)
        own = encoded_batches.codes[rows]
        value = np.nan
        if len(rows) >= _LEAST_CELLS and len(np.unique(own)) > 1:
            value = _kbet_of_label(graph[rows][:, rows], own, alpha, n_axes)
        found[level] = value, len(rows)
    return found


def _kbet_of_label(
    graph: csr_array, batches: NDArray[np.int32], alpha: float, n_axes: int
) -> float:
    """Return the share of a label's cells that are mixed in the largest parts of its graph."""
    from scipy.sparse.csgraph import connected_components

    n = len(batches)
    mean_size = n / len(np.unique(batches))
    k = min(70, max(10, int(mean_size / 4)))
    n_parts, parts = connected_components(graph, directed=False)
    if n_parts > 1:
        # Cells of small parts cannot be reached; too many of them, and the label is not mixed.
        kept = np.flatnonzero(np.bincount(parts)[parts] >= 3 * k)
        if len(kept) < _LEAST_KEPT * n or len(np.unique(batches[kept])) == 1:
            return 0.0
        graph, batches = graph[kept][:, kept], batches[kept]
    space = diffusion_space(graph, min(n_axes, len(batches) - 1))
    near = nearest_neighbours(space, k)
    found = p_values(np.arange(near.n), near.indices, encode_labels(batches, near.n))
    return float(np.mean(found >= alpha))

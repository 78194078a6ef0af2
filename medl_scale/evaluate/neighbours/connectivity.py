"""Graph connectivity: how much of each label hangs together in the graph of nearest neighbours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ScoreUndefinedError
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.score import Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from medl_scale.evaluate.neighbours.neighbours import Neighbours

__all__ = ["graph_connectivity"]


def graph_connectivity(neighbours: Neighbours, labels: ArrayLike) -> Score:
    """Return the mean over labels of the share of cells in the label's largest component.

    Parameters
    ----------
    neighbours
        Of every cell; an edge leads from a cell to each.
    labels
        (n,) label of each cell.

    Returns
    -------
    Score
        Above 0 and at most 1. Components are strong ones: each cell reaches each along edges
        within the label. Equal to scib-metrics given the same neighbours; its Benchmarker takes
        `neighbours.CONNECTIVITY_NEIGHBOURS`. A missed neighbour can cut a label in two, so of
        approximate neighbours nothing is certified but that the value lies between 0 and 1.

    Raises
    ------
    DataError
        If there is not one label a cell.
    ScoreUndefinedError
        If each cell has a label of its own.
    """
    from scipy.sparse.csgraph import connected_components

    started = time.perf_counter()
    encoded = encode_labels(labels, neighbours.n)
    n, n_labels = neighbours.n, len(encoded.levels)
    if n_labels == n:
        raise ScoreUndefinedError(
            f"labels must have fewer different values than cells, {n:,}; each cell has its own. "
            "Whether labels hang together is undefined here."
        )
    # Labels share no edge, so that all are cut into components at once.
    _, components = connected_components(
        _edges_within(neighbours.indices, encoded.codes), directed=True, connection="strong"
    )
    _, first, sizes = np.unique(components, return_index=True, return_counts=True)
    largest = np.zeros(n_labels)
    np.maximum.at(largest, encoded.codes[first], sizes)
    value = float(np.mean(largest / encoded.counts))
    return Score(
        value=value,
        kind="exact" if neighbours.is_exact else "certified",
        error=1e-12 if neighbours.is_exact else max(value, 1.0 - value),
        method=f"{neighbours.k} neighbours ({neighbours.method})",
        n=n,
        seconds=time.perf_counter() - started,
    )


def _edges_within(indices: NDArray[np.int32], codes: NDArray[np.int32]) -> object:
    """Return the graph of neighbours of the same label, (n, n) sparse."""
    from scipy.sparse import csr_array

    n = len(indices)
    is_within = codes[indices] == codes[:, None]
    starts = np.concatenate([[0], np.cumsum(is_within.sum(axis=1))])
    columns = indices[is_within]
    return csr_array((np.ones(len(columns)), columns, starts), shape=(n, n))

"""LISI: how many batches, or labels, a cell's neighbourhood effectively holds.

Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0: neighbours are weighted by a Gaussian whose
width gives each cell the same perplexity; the inverse Simpson index of the weighted labels lies
between 1 and the number of labels. Figures equal harmonypy's given the same neighbours (90, the cell
itself left out) and scib-metrics' (89).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.config import check_at_least
from medl_scale.errors import DataError
from medl_scale.evaluate.blocks import BlockMap, map_here, row_blocks
from medl_scale.evaluate.inputs import Labels, check_n_labels, encode_labels
from medl_scale.evaluate.neighbours.neighbours import (
    NeighbourMethod,
    Neighbours,
    check_neighbours,
    nearest_neighbours,
)
from medl_scale.evaluate.neighbours.perplexity import wanted_entropy, write_inverse_simpson
from medl_scale.evaluate.neighbours.sampled_error import CONFIDENCE, median_error
from medl_scale.evaluate.neighbours.search import (
    CELLS_OF_BLOCK,
    ExactSearch,
    choose_method,
    find,
    prepare,
)
from medl_scale.evaluate.score import Score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "HARMONY_NEIGHBOURS",
    "clisi",
    "clisi_knn",
    "ilisi",
    "ilisi_knn",
    "lisi",
    "lisi_of_latent",
    "scale_clisi",
    "scale_ilisi",
]

HARMONY_NEIGHBOURS = 90
"""Neighbours that harmonypy takes, three times its perplexity."""
_ROUNDING = 1e-10
"""Of the value: what was seen between this and harmonypy is a hundredth of a hundredth of it."""


def lisi(
    neighbours: Neighbours, labels: ArrayLike, *, perplexity: float | None = None
) -> NDArray[np.float64]:
    """Return the local inverse Simpson index of every cell, (n,) from 1 to the number of labels.

    Parameters
    ----------
    neighbours
        Of every cell.
    labels
        (n,) batch or label of each.
    perplexity
        Effective number of neighbours; by default a third of them, the cell itself counted:
        30 of 89 and of 90.

    Notes
    -----
    Where the nearest neighbours cannot have that perplexity (there are fewer, or more that are
    tied as the nearest), their weights are equal. harmonypy returns -1 for some of these cells, and
    leaves out the first neighbour instead of the cell itself where a cell has duplicates.
    """
    encoded = encode_labels(labels, neighbours.n)
    return _lisi(neighbours.indices, neighbours.distances, encoded, perplexity)


def ilisi(neighbours: Neighbours, batches: ArrayLike, *, perplexity: float | None = None) -> Score:
    """Return the median LISI of batches: 1 is unmixed, the number of batches mixed throughout.

    Parameters
    ----------
    neighbours, perplexity
        As for `lisi`.
    batches
        (n,) batch of each cell.

    Returns
    -------
    Score
        With the LISI of each cell. If the neighbours are approximate, its kind is `confidence`:
        the error bounds how far their median is from that of exact ones.

    Raises
    ------
    ScoreUndefinedError
        If there is one batch, or as many as cells.
    """
    return _median_score(neighbours, batches, perplexity, "batches")


def clisi(neighbours: Neighbours, labels: ArrayLike, *, perplexity: float | None = None) -> Score:
    """Return the median LISI of labels: 1 is pure, the number of labels mixed throughout.

    Parameters, result and errors are those of `ilisi`.
    """
    return _median_score(neighbours, labels, perplexity, "labels")


def ilisi_knn(
    neighbours: Neighbours, batches: ArrayLike, *, perplexity: float | None = None
) -> Score:
    """Return scib-metrics' iLISI, 0 (unmixed) to 1 (mixed throughout).

    Equal to its figure given the same neighbours; its Benchmarker takes `LISI_NEIGHBOURS`. The
    values per cell are LISI, not scaled. Parameters and errors are those of `ilisi`.
    """
    found = ilisi(neighbours, batches, perplexity=perplexity)
    return scale_ilisi(found, _n_labels(batches))


def clisi_knn(
    neighbours: Neighbours, labels: ArrayLike, *, perplexity: float | None = None
) -> Score:
    """Return scib-metrics' cLISI, 0 (mixed throughout) to 1 (pure); see `ilisi_knn`."""
    found = clisi(neighbours, labels, perplexity=perplexity)
    return scale_clisi(found, _n_labels(labels))


def scale_ilisi(score: Score, n_batches: int) -> Score:
    """Return a median LISI of batches on scib-metrics' scale: 0 for 1, 1 for all of the batches."""
    check_at_least("n_batches", n_batches, 2)
    width = n_batches - 1.0
    return replace(score, value=(score.value - 1.0) / width, error=score.error / width)


def scale_clisi(score: Score, n_labels: int) -> Score:
    """Return a median LISI of labels on scib-metrics' scale: 1 for 1, 0 for all of the labels."""
    check_at_least("n_labels", n_labels, 2)
    width = n_labels - 1.0
    return replace(score, value=(n_labels - score.value) / width, error=score.error / width)


def lisi_of_latent(
    latent: ArrayLike,
    labellings: Mapping[str, ArrayLike],
    *,
    n_neighbours: int = HARMONY_NEIGHBOURS,
    perplexity: float | None = None,
    method: NeighbourMethod = "auto",
    seed: int = 0,
    map_blocks: BlockMap = map_here,
) -> dict[str, Score]:
    """Return the median LISI of several labellings; exact neighbours are let go block by block.

    Parameters
    ----------
    latent
        (n, d) finite numbers.
    labellings
        Name and labels, (n,), of each; all are scored on the same neighbours.
    n_neighbours
        90 as harmonypy does, or `neighbours.LISI_NEIGHBOURS` as scib-metrics' Benchmarker.
    perplexity
        As for `lisi`.
    method, seed, map_blocks
        As for `nearest_neighbours`.

    Returns
    -------
    dict of Score
        As of `ilisi`, by name. `scale_ilisi` and `scale_clisi` put them on scib-metrics' scale.

    Raises
    ------
    DataError
        If the latent is not a finite matrix of two cells or more, or no labelling is given.
    ScoreUndefinedError
        If a labelling has one label, or as many as cells.
    """
    started = time.perf_counter()
    points = check_neighbours(latent, n_neighbours, method)
    n, d = points.shape
    if not labellings:
        raise DataError("labellings must name at least one labelling; none was given.")
    encoded = [encode_labels(labels, n, name=name) for name, labels in labellings.items()]
    for name, labels in zip(labellings, encoded, strict=True):
        check_n_labels(labels, name=name)
    chosen = choose_method(n, d) if method == "auto" else method
    if chosen == "pynndescent":
        near = nearest_neighbours(points, n_neighbours, method=chosen, seed=seed)
        return {
            name: _median_score(near, labels, perplexity, name, started)
            for name, labels in labellings.items()
        }
    search = prepare(points, n_neighbours, chosen)
    width = search.n_neighbours
    codes = np.stack([labels.codes for labels in encoded])
    shared = (
        search,
        codes,
        max(len(labels.levels) for labels in encoded),
        wanted_entropy(width, perplexity),
    )
    values = np.empty((len(encoded), n))
    for rows, found in map_blocks(_lisi_of_block, shared, search.items):
        values[:, rows] = found
    return {
        name: _exact_score(per_cell, search.method, width, started)
        for name, per_cell in zip(labellings, values, strict=True)
    }


def _lisi_of_block(
    shared: tuple[ExactSearch, NDArray[np.int32], int, float], cells: slice
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return cells of a block, (m,), and their LISI for each labelling, (n_labellings, m)."""
    search, codes, most, wanted = shared
    rows = np.empty(cells.stop - cells.start, np.int64)
    values = np.empty((len(codes), len(rows)))
    # Parts, because the neighbours of a whole block take 50 MB.
    for part in row_blocks(len(rows), CELLS_OF_BLOCK // 2):
        found = find(search, slice(cells.start + part.start, cells.start + part.stop))
        rows[part] = found.rows
        write_inverse_simpson(found.indices, found.distances, codes, most, wanted, values[:, part])
    return rows, values


def _lisi(
    indices: NDArray[Any], distances: NDArray[np.float64], labels: Labels, perplexity: float | None
) -> NDArray[np.float64]:
    """Return the LISI of cells from their neighbours, (m, k)."""
    n, k = indices.shape
    wanted = wanted_entropy(k, perplexity)
    codes, values = labels.codes[None], np.empty((1, n))
    write_inverse_simpson(indices, distances, codes, len(labels.levels), wanted, values)
    found: NDArray[np.float64] = values[0]
    return found


def _median_score(
    neighbours: Neighbours,
    labels: ArrayLike,
    perplexity: float | None,
    name: str,
    started: float | None = None,
) -> Score:
    """Return the median LISI, with its error where the neighbours are approximate."""
    started = time.perf_counter() if started is None else started
    encoded = encode_labels(labels, neighbours.n, name=name)
    check_n_labels(encoded, name=name)
    values = _lisi(neighbours.indices, neighbours.distances, encoded, perplexity)
    sample = neighbours.sample
    if sample is None:
        return _exact_score(values, neighbours.method, neighbours.k, started)
    exactly = _lisi(sample.indices, sample.distances, encoded, perplexity)
    return Score(
        value=float(np.median(values)),
        kind="confidence",
        error=median_error(values, values[sample.rows], exactly),
        method=f"{neighbours.k} neighbours ({neighbours.method})",
        n=neighbours.n,
        seconds=time.perf_counter() - started,
        confidence=CONFIDENCE,
        per_cell=values,
    )


def _exact_score(values: NDArray[np.float64], method: str, k: int, started: float) -> Score:
    """Return the median LISI of exact neighbours."""
    value = float(np.median(values))
    return Score(
        value=value,
        kind="exact",
        error=_ROUNDING * value,
        method=f"{k} neighbours ({method})",
        n=len(values),
        seconds=time.perf_counter() - started,
        per_cell=values,
    )


def _n_labels(labels: ArrayLike) -> int:
    """Return the number of different labels."""
    return len(encode_labels(labels, len(np.asarray(labels))).levels)

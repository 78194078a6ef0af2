"""Approximate neighbours by pynndescent, their distances computed anew in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.evaluate.neighbours.search import ExactSearch, find
from medl_scale.evaluate.neighbours.selection import NO_ROW, is_nearer, offer, sort_heap
from medl_scale.evaluate.neighbours.tiles import Tiles
from medl_scale.seeds import Purpose, framework_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["descend"]

_BLOCK_CELLS = 65_536


def descend(search: ExactSearch, seed: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return approximate neighbours, nearest first, and their distances; both (n, k).

    Parameters
    ----------
    search
        An exact search by tiles: it holds the cells about their mean in float32, which is what
        pynndescent computes with, and finds neighbours where pynndescent finds too few.
    seed
        The user's.
    """
    from pynndescent import NNDescent

    if not isinstance(search.structure, Tiles):
        raise TypeError("descend needs a search by tiles.")
    tiles, k = search.structure, search.n_neighbours
    n, d = tiles.cells.shape
    # One thread: pynndescent finds others with another number of them.
    index = NNDescent(
        np.ascontiguousarray(tiles.right[:, :d]),
        n_neighbors=min(k + 1, n),
        random_state=framework_seed(seed, Purpose.NEIGHBOURS),
        low_memory=True,
        n_jobs=1,
    )
    places, _ = index.neighbor_graph
    indices, distances = np.empty((n, k), np.int32), np.empty((n, k))
    for start in range(0, n, _BLOCK_CELLS):
        cells = np.arange(start, min(start + _BLOCK_CELLS, n))
        shape = (len(cells), k)
        rows, squares = np.full(shape, NO_ROW), np.full(shape, np.inf)
        _measure(tiles.cells, tiles.tree.order, cells, places[cells], rows, squares)
        own = tiles.tree.order[cells]
        whole = np.isfinite(squares[:, -1])
        indices[own[whole]] = rows[whole]
        distances[own[whole]] = np.sqrt(squares[whole]) * tiles.tree.scale
        if not whole.all():
            found = find(search, cells[~whole])
            indices[found.rows], distances[found.rows] = found.indices, found.distances
    return indices, distances


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _measure(cells: Any, order: Any, queries: Any, places: Any, rows: Any, squares: Any) -> None:
    """Write the nearest of the places found for each query; -1 stands for none."""
    for i in range(queries.size):
        best, found = squares[i], rows[i]
        for j in range(places.shape[1]):
            place = places[i, j]
            if place < 0 or place == queries[i]:
                continue
            row = order[place]
            square = 0.0
            for axis in range(cells.shape[1]):
                gap = cells[place, axis] - cells[queries[i], axis]
                square += gap * gap
            if is_nearer(square, row, best[0], found[0]):
                offer(best, found, square, row)
        sort_heap(best, found)

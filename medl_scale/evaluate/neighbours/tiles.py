"""Exact neighbours in many dimensions: matrix products in float32 leave few pairs to look at closely.

A product of 512 x 1,024 cells gives, for every pair, a number that is provably no larger than their
squared distance. Only pairs whose number is below the distance of the farthest neighbour so far are
computed in float64. What is found is therefore exact, whatever the product rounded.

With u = 2^-24, x and y offsets from the mean cell and d dimensions, |y|^2 - 2 x.y is a product of
d + 1 float32 terms; in whatever order they are summed it is off by at most (d + 1) u times the sum of
their sizes, 2 |x| |y| + |y|^2 <= |x|^2 + 2 |y|^2. Rounding x and y to float32 adds 4 u |x| |y|, and
rounding |y|^2 u |y|^2. In all this is below c (|x|^2 + |y|^2) with c = (2 d + 32) u, where 27 u are
left for float64 and products of these. With (1 - c) |x|^2 and (1 - c) |y|^2 in the place of the
squares, the number is never too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.neighbours.kdtree import Tree, plant
from medl_scale.evaluate.neighbours.selection import NO_ROW, is_nearer, offer, sort_heap

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Tiles", "lay_tiles", "nearest_in_tiles"]

TILE_SIZE = 1024
N_QUERIES = 512
"""Cells that share a matrix product: their neighbours lie in the same tiles."""
_STRIP = 64
_UNIT = 2.0**-24
_TINY = 1e-30
"""Squares below the smallest float32 vanish; lengths are in units of the largest offset."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """Cells in an order of nearness, and what the matrix products need."""

    tree: Tree
    """Its leaves are the tiles."""
    cells: NDArray[np.float64]
    """(n, d) the tree's points, one row a cell."""
    left: NDArray[np.float32]
    """(n, d + 1) offsets from the mean times -2, and 1."""
    right: NDArray[np.float32]
    """(n, d + 1) offsets from the mean, and their shrunken squared length."""
    shrunken: NDArray[np.float64]
    """(n,) squared length of the offsets times 1 - c."""
    unit: float
    """Lengths in `left`, `right`, `shrunken` are those of the tree times this."""


def lay_tiles(latent: NDArray[Any]) -> Tiles:
    """Return the tiles of a latent, (n, d) finite floats."""
    tree = plant(latent, leaf_size=TILE_SIZE)
    cells = np.ascontiguousarray(tree.points.T)
    offsets = cells - cells.mean(axis=0)
    largest = float(np.abs(offsets).max())
    unit = 2.0 ** -np.ceil(np.log2(largest)) if largest > 0 else 1.0
    offsets *= unit
    shrunken = np.einsum("nd,nd->n", offsets, offsets)
    n, d = cells.shape
    shrunken *= 1.0 - (2 * d + 32) * _UNIT
    left, right = np.ones((n, d + 1), np.float32), np.empty((n, d + 1), np.float32)
    right[:, :d] = offsets
    left[:, :d] = -2.0 * right[:, :d]
    right[:, d] = shrunken
    return Tiles(tree, cells, left, right, shrunken, float(unit))


def nearest_in_tiles(
    tiles: Tiles, cells: NDArray[np.int64], n_neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest other cells of some cells, nearest first; ties by row.

    Parameters and results are those of `kdtree.nearest_in_tree`, to the last bit.
    """
    shape = (len(cells), n_neighbours)
    rows, squares = np.full(shape, NO_ROW), np.full(shape, np.inf)
    for here in row_blocks(len(cells), N_QUERIES):
        _search(tiles, cells[here], rows[here], squares[here])
    return rows, squares


def _search(
    tiles: Tiles, queries: NDArray[np.int64], rows: NDArray[np.int64], squares: NDArray[np.float64]
) -> None:
    """Visit the tiles, the nearest first, until the next one is too far for every query."""
    tree = tiles.tree
    points = tiles.cells[queries]
    low, high = tree.low[tree.n_leaves :], tree.high[tree.n_leaves :]
    gaps = np.maximum(low - points.max(axis=0), points.min(axis=0) - high)
    bound = np.sum(np.square(np.maximum(gaps, 0.0)), axis=1)
    # Among those that overlap, the tile around the queries comes first.
    centre = np.sum(np.square((low + high) / 2 - points.mean(axis=0)), axis=1)
    for tile in np.lexsort((centre, bound)):
        # Rounded in another order than the distances: a hair is left for that.
        if bound[tile] * (1.0 - 1e-9) > squares[:, 0].max():
            break
        active = _still_open(points, low[tile], high[tile], squares)
        if active.size:
            refs = slice(tree.starts[tile], tree.starts[tile + 1])
            products = tiles.left[queries[active]] @ tiles.right[refs].T
            _offer_tile(
                products, active, queries, tiles.cells, tree.order, refs.start, tiles.shrunken,
                tiles.unit**2, rows, squares,
            )  # fmt: skip
    _sort_all(rows, squares)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _still_open(points: Any, low: Any, high: Any, squares: Any) -> Any:
    """Return the queries that a cell of a tile may be nearer to than their farthest neighbour."""
    chosen = np.empty(points.shape[0], np.int64)
    size = 0
    for i in range(points.shape[0]):
        total = 0.0
        for axis in range(points.shape[1]):
            gap = max(low[axis] - points[i, axis], points[i, axis] - high[axis], 0.0)
            total += gap * gap
        # Equal ones stay: a tie may be won by the row.
        if total <= squares[i, 0]:
            chosen[size] = i
            size += 1
    return chosen[:size]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _offer_tile(
    products: Any, active: Any, queries: Any, cells: Any, order: Any, first: Any, shrunken: Any,
    area: Any, rows: Any, squares: Any,
) -> None:  # fmt: skip
    """Compute the distances that may be small enough, and offer them."""
    n_refs = products.shape[1]
    for k in range(active.size):
        i = active[k]
        query = queries[i]
        own = order[query]
        best, found = squares[i], rows[i]
        most = _ceiling(best[0], area, shrunken[query])
        for start in range(0, n_refs, _STRIP):
            stop = min(start + _STRIP, n_refs)
            strip = products[k, start:stop]
            # A loop over few and unsigned numbers becomes a handful of instructions.
            is_any = np.uint32(0)
            for j in range(np.uint32(strip.size)):
                is_any |= np.uint32(strip[np.uint32(j)] <= most)
            if is_any == 0:
                continue
            for j in range(start, stop):
                if products[k, j] > most:
                    continue
                row = order[first + j]
                if row == own:
                    continue
                square = 0.0
                for axis in range(cells.shape[1]):
                    gap = cells[first + j, axis] - cells[query, axis]
                    square += gap * gap
                if is_nearer(square, row, best[0], found[0]):
                    offer(best, found, square, row)
                    most = _ceiling(best[0], area, shrunken[query])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _ceiling(square: Any, area: Any, shrunken: Any) -> Any:
    """Return the largest product that a cell as near as `square` can have."""
    most = square * area - shrunken
    # Rounding to float32 must not lower it.
    return np.float32(most + abs(most) * 2.0 * _UNIT + _TINY)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sort_all(rows: Any, squares: Any) -> None:
    """Sort the neighbours of every query."""
    for i in range(rows.shape[0]):
        sort_heap(squares[i], rows[i])

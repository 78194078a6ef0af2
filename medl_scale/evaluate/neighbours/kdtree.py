"""A balanced k-d tree: cells near each other lie together, and every node knows its box.

Splits are by (coordinate, row), so that cells at one place are split too, and in the order of their
rows: a node of which all cells are tied with, and come after, those found already is never entered.
scipy's and scikit-learn's trees search all cells of one place for each of them, and choose among ties
as it happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.evaluate.neighbours.selection import NO_ROW, is_nearer, offer, sort_heap

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Tree", "nearest_in_tree", "plant"]

LEAF_SIZE = 32
_DEEPEST = 64


@dataclass(frozen=True, eq=False)
class Tree:
    """Cells in an order of nearness. Coordinates are in units of `scale`.

    Nodes are numbered from the root, 1; the children of node i are 2i and 2i + 1, and the leaves
    are the last half.
    """

    points: NDArray[np.float64]
    """(d, n) coordinates of the cells in tree order."""
    order: NDArray[np.int64]
    """(n,) row of the input that each cell in tree order came from."""
    starts: NDArray[np.int64]
    """(n_leaves + 1,) where each leaf's cells begin."""
    low: NDArray[np.float64]
    """(2 n_leaves, d) least coordinates of each node's cells."""
    high: NDArray[np.float64]
    """(2 n_leaves, d) largest coordinates of each node's cells."""
    smallest: NDArray[np.int64]
    """(2 n_leaves,) smallest row of each node's cells."""
    scale: float
    """A power of two no smaller than any coordinate: squares neither overflow nor vanish."""

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.order)

    @property
    def n_leaves(self) -> int:
        """Number of leaves, a power of two."""
        return len(self.starts) - 1


def plant(latent: NDArray[Any], *, leaf_size: int = LEAF_SIZE) -> Tree:
    """Return the tree of a latent, (n, d) finite floats, with at most `leaf_size` cells a leaf."""
    n, d = latent.shape
    largest = max(float(latent.max()), -float(latent.min()))
    # Not 2 ** 1024, which is infinite; a power of two divides without rounding.
    scale = 2.0 ** min(np.ceil(np.log2(largest)), 1023.0) if largest > 0 else 1.0
    n_leaves = 1
    while n > leaf_size * n_leaves:
        n_leaves *= 2
    starts = np.array([0, n], np.int64)
    points = np.array(latent.T, np.float64, order="C", copy=True)
    points /= scale
    order = np.arange(n)
    while len(starts) <= n_leaves:
        _split(points, order, starts)
        halved = np.empty(2 * len(starts) - 1, np.int64)
        halved[::2] = starts
        halved[1::2] = (starts[:-1] + starts[1:]) // 2
        starts = halved
    for axis in range(d):
        points[axis] = points[axis][order]
    low, high = np.empty((2 * n_leaves, d)), np.empty((2 * n_leaves, d))
    smallest = np.empty(2 * n_leaves, np.int64)
    _measure_nodes(points, order, starts, low, high, smallest)
    return Tree(points, order, starts, low, high, smallest, float(scale))


def nearest_in_tree(
    tree: Tree, cells: NDArray[np.int64], n_neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest other cells of some cells, nearest first; ties by row.

    Parameters
    ----------
    tree
        All cells.
    cells
        (m,) places in tree order.
    n_neighbours
        At most n - 1.

    Returns
    -------
    rows
        (m, n_neighbours) rows of the input.
    squares
        (m, n_neighbours) squared distances in units of scale ** 2.
    """
    shape = (len(cells), n_neighbours)
    rows, squares = np.full(shape, NO_ROW), np.full(shape, np.inf)
    leaves = np.searchsorted(tree.starts, cells, side="right") - 1
    _search(
        tree.points, tree.order, tree.starts, tree.low, tree.high, tree.smallest, cells, leaves,
        rows, squares,
    )  # fmt: skip
    return rows, squares


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _split(points: Any, order: Any, starts: Any) -> None:
    """Reorder each part so that its first half comes before its second on the widest axis."""
    d = points.shape[0]
    values = np.empty(order.size)
    for part in range(starts.size - 1):
        start, stop = starts[part], starts[part + 1]
        widest, width = 0, -1.0
        for axis in range(d):
            low, high = np.inf, -np.inf
            for i in range(start, stop):
                value = points[axis, order[i]]
                low, high = min(low, value), max(high, value)
            if high - low > width:
                widest, width = axis, high - low
        for i in range(start, stop):
            values[i] = points[widest, order[i]]
        _select(values, order, start, stop - 1, (start + stop) // 2)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _select(values: Any, rows: Any, first: Any, last: Any, middle: Any) -> None:
    """Reorder so that what comes before `middle` is smaller by (value, row), what follows larger."""
    while first < last:
        # The median of three as pivot: neither sorted nor constant values make it slow.
        centre = (first + last) // 2
        for a, b in ((first, centre), (centre, last), (first, centre)):
            if is_nearer(values[b], rows[b], values[a], rows[a]):
                values[a], values[b] = values[b], values[a]
                rows[a], rows[b] = rows[b], rows[a]
        value, row = values[centre], rows[centre]
        i, j = first, last
        while i <= j:
            while is_nearer(values[i], rows[i], value, row):
                i += 1
            while is_nearer(value, row, values[j], rows[j]):
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                rows[i], rows[j] = rows[j], rows[i]
                i += 1
                j -= 1
        if middle <= j:
            last = j
        elif middle >= i:
            first = i
        else:
            return


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _measure_nodes(
    points: Any, order: Any, starts: Any, low: Any, high: Any, smallest: Any
) -> None:
    """Write the box and the smallest row of every node, leaves first."""
    n_leaves = starts.size - 1
    d = points.shape[0]
    # Nobody is node 0.
    low[0], high[0], smallest[0] = np.nan, np.nan, NO_ROW
    for leaf in range(n_leaves):
        cells = slice(starts[leaf], starts[leaf + 1])
        smallest[n_leaves + leaf] = order[cells].min()
        for axis in range(d):
            low[n_leaves + leaf, axis] = points[axis, cells].min()
            high[n_leaves + leaf, axis] = points[axis, cells].max()
    for node in range(n_leaves - 1, 0, -1):
        left, right = 2 * node, 2 * node + 1
        smallest[node] = min(smallest[left], smallest[right])
        for axis in range(d):
            low[node, axis] = min(low[left, axis], low[right, axis])
            high[node, axis] = max(high[left, axis], high[right, axis])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _square_to_box(point: Any, low: Any, high: Any) -> Any:
    """Return the squared distance to a box.

    Rounded in the order of `_scan`, it is never above the squared distance computed to a cell in it.
    """
    total = 0.0
    for axis in range(point.size):
        gap = max(low[axis] - point[axis], point[axis] - high[axis], 0.0)
        total += gap * gap
    return total


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _scan(
    points: Any, order: Any, start: Any, stop: Any, point: Any, own: Any, near: Any, rows: Any,
    squares: Any,
) -> None:  # fmt: skip
    """Offer the cells of a leaf."""
    size = stop - start
    for j in range(size):
        near[j] = 0.0
    for axis in range(point.size):
        for j in range(size):
            gap = points[axis, start + j] - point[axis]
            near[j] += gap * gap
    for j in range(size):
        if near[j] <= squares[0]:
            row = order[start + j]
            if row != own and is_nearer(near[j], row, squares[0], rows[0]):
                offer(squares, rows, near[j], row)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _search(
    points: Any, order: Any, starts: Any, low: Any, high: Any, smallest: Any, cells: Any,
    leaves: Any, rows: Any, squares: Any,
) -> None:  # fmt: skip
    """Find the nearest other cells of some cells, from their own leaf upwards."""
    n_leaves = starts.size - 1
    near = np.empty(np.max(starts[1:] - starts[:-1]))
    point = np.empty(points.shape[0])
    stack, gaps = np.empty(_DEEPEST, np.int64), np.empty(_DEEPEST)
    for i in range(cells.size):
        cell, leaf = cells[i], leaves[i]
        point[:] = points[:, cell]
        own, best, found = order[cell], squares[i], rows[i]
        _scan(points, order, starts[leaf], starts[leaf + 1], point, own, near, found, best)
        node = n_leaves + leaf
        while node > 1:
            stack[0] = node ^ 1
            gaps[0] = _square_to_box(point, low[node ^ 1], high[node ^ 1])
            node //= 2
            height = 1
            while height > 0:
                height -= 1
                top, gap = stack[height], gaps[height]
                if not is_nearer(gap, smallest[top], best[0], found[0]):
                    continue
                if top >= n_leaves:
                    start, stop = starts[top - n_leaves], starts[top - n_leaves + 1]
                    _scan(points, order, start, stop, point, own, near, found, best)
                    continue
                left, right = 2 * top, 2 * top + 1
                gap_left = _square_to_box(point, low[left], high[left])
                gap_right = _square_to_box(point, low[right], high[right])
                # The nearer child is put on top, to be searched first.
                if is_nearer(gap_left, smallest[left], gap_right, smallest[right]):
                    left, right, gap_left, gap_right = right, left, gap_right, gap_left
                stack[height], gaps[height] = left, gap_left
                stack[height + 1], gaps[height + 1] = right, gap_right
                height += 2
        sort_heap(best, found)

"""Exact nearest neighbours, block by block: which way is cheapest, and cells found in their tree order.

Neighbours of all cells need not be held at once: a metric that wants one number a cell asks for a
block of cells, and lets their neighbours go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.neighbours.kdtree import Tree, nearest_in_tree, plant
from medl_scale.evaluate.neighbours.tiles import N_QUERIES, Tiles, lay_tiles, nearest_in_tiles
from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CELLS_OF_BLOCK",
    "ExactMethod",
    "ExactSearch",
    "Found",
    "choose_method",
    "find",
    "prepare",
    "search_seconds",
]

ExactMethod = Literal["tree", "tiles"]
CELLS_OF_BLOCK = 32_768
"""Cells of one item of work; a fixed number, so that it is cut in the same way everywhere."""
_CELLS_OF_THREAD = 8 * N_QUERIES
# CPU seconds of one core, measured with 90 neighbours on blobs; they choose, and promise nothing.
_TREE_CELL_S, _TREE_GROWTH = 8e-6, 1.45
_TILES_CELL_S, _TILES_CELL_AXIS_S = 2e-5, 8e-7
_TILES_PAIR_S, _TILES_PAIR_AXIS_S = 5e-11, 3e-11
_DESCENT_CELL_S = 5e-4
_PATIENCE_S = 120.0


class Found(NamedTuple):
    """The neighbours of some cells."""

    rows: NDArray[np.int64]
    """(m,) the cells, as rows of the input."""
    indices: NDArray[np.int64]
    """(m, k) rows of their neighbours, nearest first; ties by row."""
    distances: NDArray[np.float64]
    """(m, k) in units of the latent."""


@dataclass(frozen=True, eq=False)
class ExactSearch:
    """All that is needed to find the neighbours of any cell. Picklable."""

    structure: Tree | Tiles
    n_neighbours: int

    @property
    def tree(self) -> Tree:
        """The order that cells are kept in."""
        return self.structure.tree if isinstance(self.structure, Tiles) else self.structure

    @property
    def method(self) -> str:
        """How it finds them, in words."""
        return "exact, tiles" if isinstance(self.structure, Tiles) else "exact, k-d tree"

    @property
    def items(self) -> list[slice]:
        """Blocks of cells in tree order, to be handed to `find` one by one."""
        return row_blocks(self.tree.n, CELLS_OF_BLOCK)


def choose_method(n: int, d: int) -> ExactMethod | Literal["pynndescent"]:
    """Return the exact way that is cheaper, or `pynndescent` where that is cheaper by far."""
    tree, tiles = _exact_costs(n, d)
    if min(tree, tiles) > max(_PATIENCE_S, n * _DESCENT_CELL_S):
        return "pynndescent"
    return "tree" if tree <= tiles else "tiles"


def search_seconds(n: int, d: int, n_threads: int) -> float:
    """Return roughly how many seconds the neighbours of n cells take, found as `choose_method` says."""
    if choose_method(n, d) == "pynndescent":
        return n * _DESCENT_CELL_S
    return min(_exact_costs(n, d)) / n_threads


def _exact_costs(n: int, d: int) -> tuple[float, float]:
    """Return CPU seconds that exact neighbours take by the tree and by tiles, roughly."""
    tree = n * _TREE_CELL_S * _TREE_GROWTH ** min(d - 2, 60)
    tiles = n * (_TILES_CELL_S + _TILES_CELL_AXIS_S * d)
    tiles += float(n) ** 2 * (_TILES_PAIR_S + _TILES_PAIR_AXIS_S * d)
    return tree, tiles


def prepare(latent: NDArray[Any], n_neighbours: int, method: ExactMethod) -> ExactSearch:
    """Return the search of a latent, (n, d) finite floats; at most n - 1 neighbours a cell."""
    structure = plant(latent) if method == "tree" else lay_tiles(latent)
    return ExactSearch(structure, min(n_neighbours, len(latent) - 1))


def find(search: ExactSearch, cells: slice | NDArray[np.int64]) -> Found:
    """Return the neighbours of some cells, given by their places in tree order.

    They are cut up among numba's threads (`numba.get_num_threads`); no figure depends on how many.
    """
    from threadpoolctl import threadpool_limits

    tree = search.tree
    places = np.arange(cells.start, cells.stop) if isinstance(cells, slice) else cells
    shape = (len(places), search.n_neighbours)
    rows, squares = np.empty(shape, np.int64), np.empty(shape)

    def part(here: slice) -> None:
        if isinstance(search.structure, Tiles):
            found = nearest_in_tiles(search.structure, places[here], search.n_neighbours)
        else:
            found = nearest_in_tree(search.structure, places[here], search.n_neighbours)
        rows[here], squares[here] = found

    with threadpool_limits(1, user_api="blas"):
        in_threads(part, row_blocks(len(places), _CELLS_OF_THREAD))
    np.sqrt(squares, out=squares)
    squares *= tree.scale
    return Found(tree.order[places], rows, squares)

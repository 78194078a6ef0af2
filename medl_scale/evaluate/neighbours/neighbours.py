"""The nearest neighbours of every cell, and how far those found can be trusted.

A cell is never its own neighbour; it is told apart by its row, so duplicates of it are neighbours
like others. Ties are ordered by row. Where exact neighbours would take too long, pynndescent finds
nearly all of them, and the exact ones of 500 cells drawn at random tell what that is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medl_scale.config import check_at_least, check_choice
from medl_scale.errors import DataError
from medl_scale.evaluate.blocks import BlockMap, map_here
from medl_scale.evaluate.inputs import check_latent
from medl_scale.evaluate.neighbours.search import ExactSearch, Found, choose_method, find, prepare
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CONNECTIVITY_NEIGHBOURS",
    "KBET_NEIGHBOURS",
    "LISI_NEIGHBOURS",
    "METHODS",
    "ExactSample",
    "NeighbourMethod",
    "Neighbours",
    "nearest_neighbours",
]

NeighbourMethod = Literal["auto", "tree", "tiles", "pynndescent"]
METHODS = ("auto", "tree", "tiles", "pynndescent")
LISI_NEIGHBOURS = 89
"""Neighbours that scib-metrics' Benchmarker gives each metric; it counts the cell itself as one more."""
KBET_NEIGHBOURS = 49
CONNECTIVITY_NEIGHBOURS = 14
SAMPLE_SIZE = 500


@dataclass(frozen=True, eq=False)
class ExactSample:
    """The exact neighbours of some cells, beside which approximate ones are held."""

    rows: NDArray[np.int64]
    """(m,) cells, drawn at random without replacement."""
    indices: NDArray[np.int64]
    """(m, k) their nearest neighbours."""
    distances: NDArray[np.float64]
    """(m, k)."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest neighbours of n cells, nearest first; the cell itself is not among them."""

    indices: NDArray[np.int32]
    """(n, k) rows of the neighbours."""
    distances: NDArray[np.float64]
    """(n, k) Euclidean distances."""
    recall: float
    """Share of the true neighbours found, as seen in `sample`; 1 if they are exact."""
    method: str
    """How they were found, in words; the recall is among them unless it is 1."""
    sample: ExactSample | None = None
    """Exact neighbours of some cells, where those of all cells may not be."""

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.shape != self.distances.shape:
            raise DataError(
                "neighbours need as many distances as indices, (n, k); their shapes are "
                f"{self.distances.shape} and {self.indices.shape}."
            )

    @property
    def n(self) -> int:
        """Number of cells."""
        return int(self.indices.shape[0])

    @property
    def k(self) -> int:
        """Neighbours of each."""
        return int(self.indices.shape[1])

    @property
    def is_exact(self) -> bool:
        """Whether these are the nearest neighbours for certain."""
        return self.sample is None

    def first(self, k: int) -> Neighbours:
        """Return the nearest `k` of each, or all where there are fewer."""
        check_at_least("k", k, 1)
        if k >= self.k:
            return self
        if self.sample is None:
            return replace(self, indices=self.indices[:, :k], distances=self.distances[:, :k])
        rows, true_indices, true = self.sample.rows, self.sample.indices, self.sample.distances
        sample = ExactSample(rows, true_indices[:, :k], true[:, :k])
        distances = self.distances[:, :k]
        recall = _recall(distances, sample)
        method = self.method.replace(f"recall {self.recall:.4f}", f"recall {recall:.4f}")
        return Neighbours(self.indices[:, :k], distances, recall, method, sample)


def nearest_neighbours(
    latent: ArrayLike,
    n_neighbours: int,
    *,
    method: NeighbourMethod = "auto",
    seed: int = 0,
    map_blocks: BlockMap = map_here,
) -> Neighbours:
    """Return the nearest neighbours of every cell.

    Parameters
    ----------
    latent
        (n, d) finite numbers.
    n_neighbours
        At least 1; n - 1 where there are fewer cells.
    method
        `tree` (k-d tree) and `tiles` (matrix products) are exact and give the same neighbours to
        the last bit; `pynndescent` is approximate; `auto` is the cheaper exact one unless
        pynndescent is cheaper by far (at 50 dimensions above some 250,000 cells).
    seed
        For pynndescent, and for the cells its neighbours are checked on.
    map_blocks
        Who finds exact neighbours. pynndescent runs here, on one thread: with another number of
        threads it finds others.

    Returns
    -------
    Neighbours
        Distances are computed in float64, whatever the latent's type. 12 bytes a neighbour: for
        LISI of many millions of cells see `lisi_of_latent`, which holds none.

    Raises
    ------
    DataError
        If the latent is not a finite matrix or has one cell only.
    """
    points = check_neighbours(latent, n_neighbours, method)
    n, d = points.shape
    k = min(n_neighbours, n - 1)
    chosen = choose_method(n, d) if method == "auto" else method
    if chosen == "pynndescent":
        return _descend(points, k, seed)
    search = prepare(points, k, chosen)
    indices, distances = np.empty((n, k), np.int32), np.empty((n, k))
    for found in map_blocks(_find, search, search.items):
        indices[found.rows], distances[found.rows] = found.indices, found.distances
    return Neighbours(indices, distances, 1.0, search.method)


def check_neighbours(latent: ArrayLike, n_neighbours: int, method: str) -> NDArray[Any]:
    """Return the latent as an array of floats, or raise if its neighbours cannot be found."""
    check_choice("method", method, METHODS)
    check_at_least("n_neighbours", n_neighbours, 1)
    points = check_latent(latent)
    if not 2 <= len(points) < 2**31:
        raise DataError(
            f"latent must have from 2 to 2,147,483,647 cells to have neighbours; it has {len(points):,}."
        )
    return points


def _find(search: ExactSearch, cells: slice) -> Found:
    """Find the neighbours of a block, in a form that is small to send."""
    found = find(search, cells)
    return found._replace(indices=found.indices.astype(np.int32))


def _descend(points: NDArray[Any], k: int, seed: int) -> Neighbours:
    """Return what pynndescent finds, with the exact neighbours of some cells."""
    from medl_scale.evaluate.neighbours.descent import descend

    search = prepare(points, k, "tiles")
    indices, distances = descend(search, seed)
    places = generator(seed, Purpose.NEIGHBOURS).permutation(len(points))[:SAMPLE_SIZE]
    sample = ExactSample(*find(search, np.sort(places)))
    recall = _recall(distances, sample)
    return Neighbours(indices, distances, recall, f"pynndescent, recall {recall:.4f}", sample)


def _recall(distances: NDArray[np.float64], sample: ExactSample) -> float:
    """Return the share of the neighbours of some cells that are true; a tie with one is one."""
    return float(np.mean(distances[sample.rows] <= sample.distances[:, -1:]))

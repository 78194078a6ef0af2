"""Nearest neighbours on a GPU: cuML finds a few more than are wanted, float64 says which are nearest.

cuML's distances are float32 and lose digits where cells lie close together. So more candidates are
taken than neighbours are wanted, their distances are computed again, and what is found is checked
against the exact neighbours of 500 cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.evaluate.backend import choose_backend
from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.neighbours.neighbours import (
    SAMPLE_SIZE,
    ExactSample,
    Neighbours,
    check_neighbours,
)
from medl_scale.evaluate.neighbours.search import find, prepare
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import ArrayLike

__all__ = ["gpu_nearest_neighbours", "nearest_of"]

_SPARE = 16
"""Candidates beyond the neighbours wanted and the cell itself."""
_BLOCK_VALUES = 1 << 24
"""Float64 coordinates of candidates taken at a time: 128 MiB, three times over."""


def gpu_nearest_neighbours(latent: ArrayLike, n_neighbours: int, *, seed: int = 0) -> Neighbours:
    """Return the nearest neighbours of every cell, found by cuML among all cells.

    Parameters
    ----------
    latent
        (n, d) finite numbers.
    n_neighbours
        At least 1; n - 1 where there are fewer cells.
    seed
        For the 500 cells whose exact neighbours tell the recall.

    Raises
    ------
    DataError
        If the latent is not a finite matrix or has one cell only.
    MissingExtraError
        If cuML is missing, or older than 26.08.
    ConfigError
        If no device answers.

    Notes
    -----
    Device memory: 12 bytes a coordinate, and some 512 MiB.
    """
    points = check_neighbours(latent, n_neighbours, "auto")
    choose_backend("gpu", what="nearest neighbours", library="cuml")
    import cupy
    from cuml.neighbors import NearestNeighbors

    n, d = points.shape
    k = min(n_neighbours, n - 1)
    exact = prepare(points, k, "tiles")
    places = generator(seed, Purpose.NEIGHBOURS).permutation(n)[:SAMPLE_SIZE]
    sample = ExactSample(*find(exact, np.sort(places)))
    # About the mean and of about unit size: float32 then has all its digits and range.
    scale = exact.tree.scale
    shrunk = np.asarray(points / scale, np.float64)
    shrunk -= shrunk.mean(axis=0)
    cells = cupy.asarray(shrunk)
    n_candidates = min(n, k + 1 + _SPARE)
    search = NearestNeighbors(
        n_neighbors=n_candidates, algorithm="brute", metric="euclidean", output_type="cupy"
    )
    singles = cells.astype(cupy.float32)
    search.fit(singles)
    indices, distances = np.empty((n, k), np.int32), np.empty((n, k))
    for rows in row_blocks(n, max(1, _BLOCK_VALUES // (n_candidates * d))):
        candidates = search.kneighbors(singles[rows], return_distance=False)
        nearest, lengths = nearest_of(cells, rows, cupy.asarray(candidates), k, xp=cupy)
        indices[rows] = cupy.asnumpy(nearest)
        distances[rows] = cupy.asnumpy(lengths) * scale
    farthest = sample.distances[:, -1:]
    # What was computed in another order may differ in the last digits.
    recall = float(np.mean(distances[sample.rows] <= farthest * (1.0 + 1e-12)))
    method = f"cuML on a GPU, recall {recall:.4f}"
    return Neighbours(indices, distances, recall, method, sample)


def nearest_of(
    cells: Any, rows: slice, candidates: Any, k: int, *, xp: ModuleType
) -> tuple[Any, Any]:
    """Return the nearest `k` candidates of some cells and their distances, (m, k) each.

    Parameters
    ----------
    cells
        (n, d) float64.
    rows
        The m cells.
    candidates
        (m, c) rows of cells, no row twice; a cell is not its own neighbour. c > k.
    xp
        NumPy, or what stands for it on the device, where all arrays lie.
    """
    own = xp.arange(rows.start, rows.stop)[:, None]
    gaps = cells[candidates] - cells[rows][:, None, :]
    squares = xp.where(candidates == own, xp.inf, (gaps * gaps).sum(axis=2))
    # By row first, then by distance, which leaves ties in the order of rows.
    by_row = xp.argsort(candidates, axis=1)
    by_distance = xp.argsort(xp.take_along_axis(squares, by_row, axis=1), axis=1, kind="stable")
    order = xp.take_along_axis(by_row, by_distance[:, :k], axis=1)
    nearest = xp.take_along_axis(candidates, order, axis=1)
    return nearest, xp.sqrt(xp.take_along_axis(squares, order, axis=1))

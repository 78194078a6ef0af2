"""Sums of Euclidean distances from points to all cells of a label, with a proven bound on their rounding.

Differences are taken in float32 about the centre of the cells' label (see `layout`), so that neither
an offset nor a wide spread costs digits. Sums pass to float64 every 256 cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.evaluate.silhouettes.distance_lanes import QUAD, STRIP, add_rows
from medl_scale.evaluate.silhouettes.layout import LANES, Clusters
from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "ROWS_AT_A_TIME",
    "absolute_rounding",
    "distance_sums",
    "distance_sums_to",
    "pair_sums",
    "relative_rounding",
    "shift_row",
]

ROWS_AT_A_TIME = 64
"""Queries that meet a tile of cells before the next one is read."""

_UNIT = 2.0**-24
_TILE_BYTES = 131_072
_TASKS_PER_THREAD = 8


def relative_rounding(d: int) -> float:
    """Return a bound of |computed - exact| / exact of a sum of distances, apart from `absolute_rounding`.

    Parameters
    ----------
    d
        Number of dimensions.

    Notes
    -----
    With u = 2^-24, x a query, y the cells of a label and m their centre:

    - x - m and y - m, rounded to float32, are off by at most u |x - m| and u |y - m|. A mean over the
      cells is at least |x - m| (Jensen), and the mean of |y - m| is at most twice it (triangle by way
      of x), so that together this is 3 u of the mean.
    - A difference of two coordinates is rounded once, 1 u of it. Its square and the sum of d squares
      are rounded at most d + 1 times, and all terms are positive: (d + 1) u of the squared distance,
      half of that of the root, which is rounded itself: 1 u.
    - Few roots are added in float32 before float64 takes over: for a query those of `STRIP` groups,
      for a cell (in `symmetric_sums`) those of the quads of `ROWS_AT_A_TIME` queries and, within a
      quad, two more. 18 u in all.

    1 % is added for products of these, and for float64.
    """
    added = max(STRIP, ROWS_AT_A_TIME // QUAD + 2)
    return 1.01 * (3.0 + 1.0 + (d + 1) / 2.0 + 1.0 + added) * _UNIT


def absolute_rounding(d: int) -> float:
    """Return a bound of |computed - exact| of a mean distance where it is all but zero, in units of `scale`.

    Parameters
    ----------
    d
        Number of dimensions.

    Notes
    -----
    Positions about the mean of all cells are float64, at most 2 in size, and rounded fewer than 8
    times on their way to an offset: 8 x 2^-52 a coordinate. Squares below 2^-126 may vanish: 2^-63.
    """
    return float(np.sqrt(d)) * (2.0**-49 + 2.0**-63)


def distance_sums(
    queries: NDArray[np.float64],
    clusters: Clusters,
    labels: NDArray[np.int64] | Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Return sums of Euclidean distances from points to all cells of each label.

    Parameters
    ----------
    queries
        (m, d) points as `Clusters.points` gives them: about the mean of all cells, in units of
        `scale`.
    clusters
        Cells sorted by label.
    labels
        Which labels; all of them if None.

    Returns
    -------
    (m, n_selected) float64, in units of `scale`. The distance of a cell to itself is 0 but for
    `absolute_rounding`.

    Notes
    -----
    See `relative_rounding` for the error. The result does not depend on the number of threads.
    """
    chosen = np.arange(clusters.n_labels) if labels is None else np.asarray(labels, np.int64)
    m = len(queries)
    sums = np.empty((len(chosen), m))
    origin = np.zeros((1, clusters.d))
    nowhere = np.zeros(m, np.int32)
    # A few labels at a time: the list of pairs takes as much memory as their sums.
    step = max(1, 4_000_000 // max(m, 1))
    rows = np.tile(np.arange(m, dtype=np.int64), min(step, len(chosen)))
    for first in range(0, len(chosen), step):
        some = chosen[first : first + step]
        pair_starts = np.arange(len(some) + 1, dtype=np.int64) * m
        pair_sums(
            clusters, np.ascontiguousarray(queries, np.float64), origin, nowhere, rows[: len(some) * m],
            some, pair_starts, out=sums[first : first + step].reshape(-1),
        )  # fmt: skip
    return np.ascontiguousarray(sums.T)


def distance_sums_to(
    queries: NDArray[np.floating[Any]], points: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return, for each query, the sum of its Euclidean distances to all points.

    Parameters
    ----------
    queries, points
        (m, d) and (r, d) in the same units, at most 1 in size.

    Returns
    -------
    (m,) float64, with the error that `relative_rounding` states.
    """
    centre = points.mean(axis=0, dtype=np.float64, keepdims=True)
    clusters = Clusters(
        offsets=np.asarray(points - centre, np.float32),
        centres=centre,
        starts=np.array([0, len(points)]),
        codes=np.zeros(len(points), np.int32),
        order=np.arange(len(points)),
        scale=1.0,
    )
    return distance_sums(np.asarray(queries, np.float64), clusters)[:, 0]


def pair_sums(
    clusters: Clusters,
    queries: NDArray[np.floating[Any]],
    bases: NDArray[np.float64],
    base_codes: NDArray[np.int32],
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    pair_starts: NDArray[np.int64],
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return sums of distances for chosen pairs of a query and a label.

    Parameters
    ----------
    clusters
        Cells sorted by label.
    queries, bases, base_codes
        Query i is at `queries[i] + bases[base_codes[i]]`: (m, d), (n_bases, d), (m,). A cell given by
        its offset and the centre of its own label is at distance 0 of itself, exactly.
    rows
        (n_pairs,) the query of each pair; pairs lie together by label.
    labels, pair_starts
        (n_chosen,) labels, and (n_chosen + 1,) where the pairs of each begin.
    out
        (n_pairs,) float64 to write to.

    Returns
    -------
    (n_pairs,) float64 sums, in units of `scale`.
    """
    sums = np.empty(len(rows)) if out is None else out
    tile = max(1, _TILE_BYTES // (4 * LANES * STRIP * clusters.d)) * STRIP
    groups = clusters.groups

    def work(part: tuple[int, int, int, int]) -> None:
        _pair_sums(
            groups, clusters.centres, clusters.starts, queries, bases, base_codes, rows, labels,
            pair_starts, *part, tile, sums,
        )  # fmt: skip

    in_threads(work, _parts(clusters.counts[labels], np.diff(pair_starts)))
    return sums


def _parts(
    counts: NDArray[np.int64], n_pairs: NDArray[np.int64]
) -> list[tuple[int, int, int, int]]:
    """Cut a list of pairs into parts of like cost: (first label, last label, first row, last row).

    A part is several whole labels, or some rows of one.
    """
    costs = n_pairs * (counts + 2 * LANES)
    share = max(1, int(costs.sum()) // (_TASKS_PER_THREAD * numba.get_num_threads()))
    parts = []
    first, gathered = 0, 0
    for label, (cost, rows) in enumerate(zip(costs.tolist(), n_pairs.tolist(), strict=True)):
        if gathered and gathered + cost > share:
            parts.append((first, label, 0, 0))
            first, gathered = label, 0
        if cost > share:
            blocks = -(-rows // ROWS_AT_A_TIME)
            size = -(-blocks * share // cost) * ROWS_AT_A_TIME
            parts += [(label, label + 1, at, min(at + size, rows)) for at in range(0, rows, size)]
            first = label + 1
        else:
            gathered += cost
    if gathered:
        parts.append((first, len(costs), 0, 0))
    return parts


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def shift_row(query: Any, base: Any, centre: Any, near: Any) -> None:
    """Write a query, given from a base, about a label's centre; all (d,)."""
    for k in range(query.size):
        near[k] = np.float32(query[k] + (base[k] - centre[k]))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _pair_sums(
    groups: Any,
    centres: Any,
    starts: Any,
    queries: Any,
    bases: Any,
    base_codes: Any,
    rows: Any,
    labels: Any,
    pair_starts: Any,
    first: int,
    last: int,
    first_row: int,
    last_row: int,
    tile: int,
    out: Any,
) -> None:
    """Sum the pairs of labels `first` to `last`; of all their rows if `last_row` is 0."""
    d = centres.shape[1]
    near = np.zeros((ROWS_AT_A_TIME, d), np.float32)
    lanes = np.empty((ROWS_AT_A_TIME, LANES), np.float64)
    for place in range(first, last):
        label = labels[place]
        start, stop = starts[label], starts[label + 1]
        group, end_group = start // LANES, (stop + LANES - 1) // LANES
        begin, end = pair_starts[place] + first_row, pair_starts[place + 1]
        if last_row > 0:
            end = pair_starts[place] + last_row
        for pair in range(begin, end, ROWS_AT_A_TIME):
            n_rows = min(ROWS_AT_A_TIME, end - pair)
            for i in range(n_rows):
                row = rows[pair + i]
                shift_row(queries[row], bases[base_codes[row]], centres[label], near[i])
            lanes[:] = 0.0
            for first_group in range(group, end_group, tile):
                tile_end = min(first_group + tile, end_group)
                for i in range(0, n_rows, QUAD):
                    for at in range(first_group, tile_end, STRIP):
                        n_groups = min(STRIP, tile_end - at)
                        add_rows(near[i:], groups, lanes[i:], d, at, n_groups, start, stop)
            for i in range(n_rows):
                out[pair + i] = lanes[i].sum()

"""Distances taken once for both their cells: sums within labels, and the kernels that brute force shares.

The work is cut into blocks of rows: several whole labels, or a stretch of one large label. Which rows
make a block depends on the labels alone, so that sums are added in the same order by any number of
threads or processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from medl_scale.evaluate.blocks import BlockMap, map_here
from medl_scale.evaluate.silhouettes.distance_lanes import (
    QUAD,
    STRIP,
    add_rows,
    add_rows_and_columns,
)
from medl_scale.evaluate.silhouettes.distance_sums import ROWS_AT_A_TIME
from medl_scale.evaluate.silhouettes.layout import LANES
from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["RowBlock", "add_both_ways", "add_own", "own_sums", "padded", "row_blocks_of", "tile_of"]

_MOST_ROWS = 4096
_BLOCKS_AT_LEAST = 48
_TILE_BYTES = 98_304
_MOST_STRIPS = 8


class RowBlock(NamedTuple):
    """Rows that one thread works on."""

    first_label: int
    last_label: int
    """One past the last."""
    start: int
    stop: int
    """Sorted cells: all of the labels, or some of a single one."""


def row_blocks_of(starts: NDArray[np.int64]) -> list[RowBlock]:
    """Cut sorted cells into blocks of whole labels, or of rows of one label.

    Parameters
    ----------
    starts
        (n_labels + 1,) where each label's cells begin.
    """
    n = int(starts[-1])
    size = -(-n // _BLOCKS_AT_LEAST)
    size = min(-(-size // ROWS_AT_A_TIME) * ROWS_AT_A_TIME, _MOST_ROWS)
    blocks = []
    first = 0
    n_labels = len(starts) - 1
    while first < n_labels:
        start = int(starts[first])
        last = max(int(np.searchsorted(starts, start + size, side="right")) - 1, first + 1)
        stop = int(starts[last])
        for row in range(start, stop, size) if last == first + 1 else [start]:
            end = min(row + size, stop) if last == first + 1 else stop
            blocks.append(RowBlock(first, last, row, end))
        first = last
    return blocks


def own_sums(clusters: Clusters, *, map_blocks: BlockMap = map_here) -> NDArray[np.float64]:
    """Return, for each sorted cell, the sum of its distances to all cells of its label, (n,) float64.

    In units of `scale`; see `distance_sums.relative_rounding` for the error.

    Parameters
    ----------
    clusters
        Cells sorted by label.
    map_blocks
        Who does the work; figures do not depend on it.
    """
    sums = np.zeros(clusters.n)
    blocks = row_blocks_of(clusters.starts)
    items = [blocks[at : at + 8] for at in range(0, len(blocks), 8)]
    for item, parts in zip(items, map_blocks(_own_of, clusters, items), strict=True):
        for block, part in zip(item, parts, strict=True):
            sums[block.start : block.start + len(part)] += part
    return sums


def _own_of(clusters: Clusters, blocks: list[RowBlock]) -> list[NDArray[np.float64]]:
    """Return, for each block, what its rows add to the own sums from its start on."""
    groups, tile = clusters.groups, tile_of(clusters.d)

    def work(block: RowBlock) -> NDArray[np.float64]:
        sums = np.zeros(int(clusters.starts[block.last_label]) - block.start)
        _own_block(clusters.offsets, groups, clusters.starts, *block, tile, sums)
        return sums

    return in_threads(work, blocks)


def tile_of(d: int) -> int:
    """Return how many groups of cells stay in the cache while rows pass by."""
    strips = _TILE_BYTES // (4 * (d + 1) * LANES * STRIP)
    return min(max(strips, 1), _MOST_STRIPS) * STRIP


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def padded(n_rows: int) -> int:
    """Return a number of rows that quads fill."""
    return (n_rows + QUAD - 1) // QUAD * QUAD


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_both_ways(
    near: Any,
    n_rows: int,
    groups: Any,
    start: int,
    stop: int,
    tile: int,
    lanes: Any,
    strips: Any,
    row_sums: Any,
    column_sums: Any,
) -> None:
    """Add the distances of rows and cells `start` to `stop` to the sums of both.

    Parameters
    ----------
    near
        (padded(n_rows), d) float32 rows about the centre of the cells' label; those that only fill up a quad may
        hold anything.
    lanes, strips
        Work space: (padded(n_rows), 16) float64 and (tile, 16) float32.
    row_sums, column_sums
        (n_rows,) and (stop - start,) float64.
    """
    d = near.shape[1]
    end_group = (stop + LANES - 1) // LANES
    flat = strips.reshape(-1)
    lanes[: padded(n_rows)] = 0.0
    for first_group in range(start // LANES, end_group, tile):
        last_group = min(first_group + tile, end_group)
        first_cell = first_group * LANES
        for block in range(0, n_rows, ROWS_AT_A_TIME):
            strips[: last_group - first_group] = np.float32(0)
            for i in range(block, min(block + ROWS_AT_A_TIME, n_rows), QUAD):
                for at in range(first_group, last_group, STRIP):
                    add_rows_and_columns(
                        near[i:], groups, lanes[i:], strips[at - first_group :], d, at,
                        min(STRIP, last_group - at), start, stop, min(QUAD, n_rows - i),
                    )  # fmt: skip
            for cell in range(max(start, first_cell), min(stop, last_group * LANES)):
                column_sums[cell - start] += flat[cell - first_cell]
    for i in range(n_rows):
        row_sums[i] += lanes[i].sum()


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_own(
    offsets: Any,
    groups: Any,
    start: int,
    stop: int,
    label_stop: int,
    tile: int,
    lanes: Any,
    strips: Any,
    sums: Any,
) -> None:
    """Add the distances of rows `start` to `stop` and all cells of their label from `start` on.

    Parameters
    ----------
    label_stop
        Where the label ends.
    lanes, strips
        Work space: (64, 16) float64 and (tile, 16) float32.
    sums
        (label_stop - start,) float64 sums of the cells from `start` on.
    """
    d = offsets.shape[1]
    near = np.zeros((ROWS_AT_A_TIME, d), np.float32)
    for row in range(start, stop, ROWS_AT_A_TIME):
        end = min(row + ROWS_AT_A_TIME, stop)
        n_rows = end - row
        near[:n_rows] = offsets[row:end]
        lanes[:ROWS_AT_A_TIME] = 0.0
        group, last_group = row // LANES, (end + LANES - 1) // LANES
        for i in range(0, n_rows, QUAD):
            add_rows(near[i:], groups, lanes[i:], d, group, last_group - group, row, end)
        for i in range(n_rows):
            sums[row - start + i] += lanes[i].sum()
        if end < label_stop:
            add_both_ways(
                near, n_rows, groups, end, label_stop, tile, lanes, strips,
                sums[row - start :], sums[end - start :],
            )  # fmt: skip


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _own_block(
    offsets: Any,
    groups: Any,
    starts: Any,
    first_label: int,
    last_label: int,
    start: int,
    stop: int,
    tile: int,
    sums: Any,
) -> None:
    """Add distances within labels, of a block's rows and the cells after them."""
    lanes = np.empty((ROWS_AT_A_TIME, LANES), np.float64)
    strips = np.empty((tile, LANES), np.float32)
    for label in range(first_label, last_label):
        row = max(start, starts[label])
        add_own(
            offsets, groups, row, min(stop, starts[label + 1]), starts[label + 1], tile, lanes,
            strips, sums[row - start :],
        )  # fmt: skip

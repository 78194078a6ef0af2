"""Silhouettes from the distances of all pairs of cells, each taken once.

Memory is O(n): a label's sums to the others are reduced to means as soon as they are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from medl_scale.evaluate.blocks import BlockMap, map_here
from medl_scale.evaluate.silhouettes.distance_sums import ROWS_AT_A_TIME, shift_row
from medl_scale.evaluate.silhouettes.exact import ExactResult, silhouettes_from_sums
from medl_scale.evaluate.silhouettes.layout import LANES
from medl_scale.evaluate.silhouettes.symmetric_sums import (
    RowBlock,
    add_both_ways,
    add_own,
    padded,
    row_blocks_of,
    tile_of,
)
from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["brute_samples"]

_BLOCKS_AN_ITEM = 8


class _Part(NamedTuple):
    """What a block of rows adds to the cells from its first row on."""

    own: NDArray[np.float64]
    """Sums of distances within the rows' labels, up to the end of the last of these."""
    nearest: NDArray[np.float64]
    """Least mean distance to another label, of those whose sums are complete."""
    pending: NDArray[np.float64]
    """Sums of the cells after the label, if the rows are only some of it; else empty."""


def brute_samples(clusters: Clusters, *, map_blocks: BlockMap = map_here) -> ExactResult:
    """Return the silhouette of every cell from all pairs of cells.

    Parameters
    ----------
    clusters
        Cells sorted by label, at least 2 labels.
    map_blocks
        Who does the work; figures do not depend on it.

    Notes
    -----
    Time is O(n^2 d), memory O(n d).
    """
    n, starts = clusters.n, clusters.starts
    own, nearest, pending = np.zeros(n), np.full(n, np.inf), np.zeros(n)
    blocks = row_blocks_of(starts)
    items = [blocks[at : at + _BLOCKS_AN_ITEM] for at in range(0, len(blocks), _BLOCKS_AN_ITEM)]
    for item, parts in zip(items, map_blocks(_parts_of, clusters, items), strict=True):
        for block, part in zip(item, parts, strict=True):
            own[block.start : block.start + len(part.own)] += part.own
            np.minimum(nearest[block.start :], part.nearest, out=nearest[block.start :])
            if len(part.pending):
                later = slice(n - len(part.pending), n)
                pending[later] += part.pending
                if block.stop == starts[block.last_label]:
                    means = pending[later] / clusters.counts[block.first_label]
                    np.minimum(nearest[later], means, out=nearest[later])
                    pending[later] = 0.0
    counts = clusters.counts[clusters.codes]
    values, errors = silhouettes_from_sums(own, nearest, counts, clusters.d)
    return ExactResult(values, errors, 1.0, "brute")


def _parts_of(clusters: Clusters, blocks: list[RowBlock]) -> list[_Part]:
    """Return what each block adds."""
    groups, tile = clusters.groups, tile_of(clusters.d)

    def work(block: RowBlock) -> _Part:
        label_stop = int(clusters.starts[block.last_label])
        is_whole = block.stop - block.start == label_stop - clusters.starts[block.first_label]
        part = _Part(
            np.zeros(label_stop - block.start),
            np.full(clusters.n - block.start, np.inf),
            np.zeros(0 if is_whole else clusters.n - label_stop),
        )
        _block(
            clusters.offsets,
            groups,
            clusters.centres,
            clusters.starts,
            *block,
            is_whole,
            tile,
            *part,
        )
        return part

    return in_threads(work, blocks)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _block(
    offsets: Any,
    groups: Any,
    centres: Any,
    starts: Any,
    first_label: int,
    last_label: int,
    start: int,
    stop: int,
    is_whole: bool,  # noqa: FBT001 - kernels take plain arguments
    tile: int,
    own: Any,
    nearest: Any,
    pending: Any,
) -> None:
    """Add the distances of a block's rows to all cells after them; see `_Part`."""
    n, d = offsets.shape
    most_rows = max(padded(stop - start), ROWS_AT_A_TIME)
    near = np.zeros((most_rows, d), np.float32)
    lanes = np.empty((most_rows, LANES), np.float64)
    strips = np.empty((tile, LANES), np.float32)
    row_sums = np.empty(most_rows, np.float64)
    scratch = np.empty(n if is_whole else 0, np.float64)
    for label in range(first_label, last_label):
        row, end = max(start, starts[label]), min(stop, starts[label + 1])
        n_rows = end - row
        add_own(
            offsets, groups, row, end, starts[label + 1], tile, lanes, strips, own[row - start :]
        )
        for other in range(label + 1, starts.size - 1):
            low, high = starts[other], starts[other + 1]
            if starts[label + 1] - starts[label] == 1 and high - low == 1:
                # A cell without company has silhouette 0, whatever is near it.
                continue
            for i in range(n_rows):
                shift_row(offsets[row + i], centres[label], centres[other], near[i])
            row_sums[:n_rows] = 0.0
            after = low - starts[last_label]
            columns = (
                scratch[: high - low] if is_whole else pending[after : high - starts[last_label]]
            )
            if is_whole:
                columns[:] = 0.0
            add_both_ways(near, n_rows, groups, low, high, tile, lanes, strips, row_sums, columns)
            for i in range(n_rows):
                mean = row_sums[i] / (high - low)
                nearest[row - start + i] = min(nearest[row - start + i], mean)
            if is_whole:
                for j in range(high - low):
                    mean = columns[j] / n_rows
                    nearest[low - start + j] = min(nearest[low - start + j], mean)

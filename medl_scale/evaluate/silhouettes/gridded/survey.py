"""All labels on shared grids: what every cell is told first.

Labels of many cells become fields on a stack of nested grids, those of one node beside each other;
labels of few are summed for every cell, which costs less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.silhouettes.gridded.estimates import Estimates
from medl_scale.evaluate.silhouettes.gridded.fields import label_fields, transform_cost
from medl_scale.evaluate.silhouettes.gridded.gathering import gather_fields
from medl_scale.evaluate.silhouettes.gridded.single_threads import in_single_threads
from medl_scale.evaluate.silhouettes.gridded.spreading import (
    corners,
    count_by_level,
    deepest_levels,
    sort_by_cell,
)
from medl_scale.evaluate.silhouettes.gridded.squares import nested_squares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.silhouettes.gridded.fields import Fields
    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["PAIRS_PER_S", "Survey", "is_one_point", "make_survey", "suitable_size"]

PAIRS_PER_S = 4e9
"""Distances summed in a CPU second, or so: only costs depend on it."""
# CPU seconds, or so, of a sum beside its pairs, of gathering one field, and of a cell's rest.
_SUM_S, _GATHER_S, _CELL_S = 5e-8, 1.5e-9, 1e-6
_SAMPLE = 50_000
# Nodes a side by the number of cells: transforms should cost no more than gathering does.
_SIZES = ((20_000, 64), (60_000, 96), (200_000, 128), (600_000, 192))
_SMALLEST_SIZE, _LARGEST_SIZE = 32, 256
_MOST_FIELD_BYTES = 2**28
_LABELS_A_TASK = 32
_TRANSFORM_BYTES = 2**23


class _Nodes(NamedTuple):
    """Fields on one grid, (size^2 n_fields,): those of one node beside each other."""

    values: NDArray[np.float32]
    bounds: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Survey:
    """Fields of all labels that have many cells."""

    clusters: Clusters
    columns: NDArray[np.int64]
    """(n_labels,) labels, those that are fields first."""
    n_fields: int
    """How many labels are fields."""
    grids: NDArray[np.float64]
    """(n_levels, 3); see `spreading`."""
    size: int
    """Nodes along each side."""
    inner: tuple[_Nodes | None, ...]
    """For each grid, fields of the cells inside it. None where so few cells have it as their deepest
    that theirs are summed."""
    ring: tuple[_Nodes, ...]
    """For each grid but the last, fields of the cells in no deeper one."""

    @property
    def spacing(self) -> float:
        """Distance between the nodes of the deepest grid."""
        return float(1.0 / self.grids[-1, 2])

    def estimate(self, rows: NDArray[np.int64]) -> Estimates:
        """Return mean distances of sorted cells to all labels."""
        clusters, n_fields, grids = self.clusters, self.n_fields, self.grids
        found = Estimates.blank(clusters, self.columns, rows)
        levels = deepest_levels(found.points, grids, self.size)
        for level in np.unique(levels):
            here = np.flatnonzero(levels == level)
            inner = self.inner[level]
            if inner is None:
                found.settle_all(here, slice(0, n_fields))
                continue
            for depth, nodes in enumerate((*self.ring[:level], inner)):
                gather_fields(
                    found.points,
                    here,
                    grids[depth],
                    *nodes,
                    self.size,
                    n_fields,
                    found.mean,
                    found.width,
                )
            found.leave_out_self(here[found.own[here] < n_fields], grids[level])
        found.settle_all(np.arange(len(rows)), slice(n_fields, clusters.n_labels))
        return found

    def order(self) -> NDArray[np.int32]:
        """Return the order, (n,), in which cells that gather from the same nodes lie together."""
        cells = self.clusters
        order: NDArray[np.int32] = sort_by_cell(
            cells.offsets, cells.centres, cells.codes, self.grids[-1], self.size
        )
        return order


def is_one_point(clusters: Clusters) -> bool:
    """Say whether all cells lie at the same place."""
    low, high = corners(clusters.offsets, clusters.centres, clusters.codes)
    return bool((low == high).all())


def suitable_size(clusters: Clusters) -> int | None:
    """Return the nodes along each side that suit cells and labels; None if all pairs cost less."""
    n, n_labels = clusters.n, clusters.n_labels
    size = next((size for most, size in _SIZES if n <= most), _LARGEST_SIZE)
    # Smaller grids if there are too many labels for memory.
    most = int(np.sqrt(_MOST_FIELD_BYTES / (8.0 * n_labels))) // 8 * 8
    size = max(_SMALLEST_SIZE, min(size, most))
    n_fields = np.count_nonzero(_is_field(clusters, size))
    cost = n_fields * transform_cost(size) + n * _CELL_S
    cost += n * (n_fields * _GATHER_S + (n_labels - n_fields) * _SUM_S)
    return size if cost < n * n / PAIRS_PER_S else None


def make_survey(clusters: Clusters, size: int, map_blocks: BlockMap) -> Survey:
    """Return the fields of all labels that have many cells, on grids of `size` nodes a side."""
    cost = transform_cost(size)
    is_field = _is_field(clusters, size)
    columns = np.concatenate([np.flatnonzero(is_field), np.flatnonzero(~is_field)])
    n_fields = int(np.count_nonzero(is_field))
    grids, n_deepest = _occupied_grids(clusters, size)
    inner: list[_Nodes | None] = []
    ring: list[_Nodes] = []
    for level, n_cells in enumerate(n_deepest):
        few = n_cells * (clusters.n / PAIRS_PER_S) <= cost * n_fields
        sheet = _Sheet(clusters, grids, size, level, with_deeper=True)
        inner.append(None if few else _nodes(sheet, columns[:n_fields], map_blocks))
        if level + 1 < len(grids):
            ring.append(_nodes(sheet._replace(with_deeper=False), columns[:n_fields], map_blocks))
    return Survey(clusters, columns, n_fields, grids, size, tuple(inner), tuple(ring))


def _is_field(clusters: Clusters, size: int) -> NDArray[np.bool_]:
    """Say of each label whether its field costs less than the sums of all cells to it."""
    counts = clusters.counts
    is_field = clusters.n * (counts / PAIRS_PER_S + _SUM_S) > transform_cost(size)
    most = max(1, _MOST_FIELD_BYTES // (8 * size**2))
    if np.count_nonzero(is_field) > most:
        is_field &= counts > np.sort(counts)[-most - 1]
    return is_field


class _Sheet(NamedTuple):
    """Which cells make the fields on a grid."""

    clusters: Clusters
    grids: NDArray[np.float64]
    size: int
    level: int
    with_deeper: bool


def _sheet_fields(sheet: _Sheet, labels: NDArray[np.int64]) -> list[Fields]:
    """Return the fields of some labels, a few at a time."""
    clusters, grids, size, level, with_deeper = sheet

    def work(few: slice) -> Fields:
        return label_fields(
            clusters, labels[few], grids, size, level=level, with_deeper=with_deeper
        )

    at_a_time = max(1, _TRANSFORM_BYTES // (64 * size**2))
    return in_single_threads(work, row_blocks(len(labels), at_a_time))


def _nodes(sheet: _Sheet, labels: NDArray[np.int64], map_blocks: BlockMap) -> _Nodes:
    """Return the fields of all labels, node by node."""
    size, n_fields = sheet.size, len(labels)
    values = np.empty((size, size, n_fields), np.float32)
    bounds = np.empty((size, size, n_fields), np.float32)
    parts = [labels[part] for part in row_blocks(n_fields, _LABELS_A_TASK)]
    start = 0
    for part in map_blocks(_sheet_fields, sheet, parts):
        for fields in part:
            few = slice(start, start + len(fields.values))
            values[:, :, few] = np.moveaxis(fields.values, 0, -1)
            bounds[:, :, few] = np.moveaxis(fields.bounds, 0, -1)
            start = few.stop
    return _Nodes(values.reshape(-1), bounds.reshape(-1))


def _occupied_grids(clusters: Clusters, size: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the grids of all cells that are the deepest of some, and of how many."""
    cells = (clusters.offsets, clusters.centres, clusters.codes)
    low, high = corners(*cells)
    sample = clusters.points(slice(None, None, -(-clusters.n // _SAMPLE)))
    grids = nested_squares(low, high, sample, size)
    n_deepest = count_by_level(*cells, grids, size)
    occupied = n_deepest > 0
    return grids[occupied], n_deepest[occupied]

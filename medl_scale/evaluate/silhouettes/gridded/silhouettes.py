"""Silhouettes of all cells in two dimensions, each within a proven distance of the exact one.

Every cell is told its mean distances by shared fields. Where their bounds leave a silhouette less
certain than asked, the labels in doubt are asked again by grids of their own, and where that is not
enough their distances are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.config import check_at_least
from medl_scale.errors import ConfigError
from medl_scale.evaluate.blocks import BlockMap, map_here, row_blocks
from medl_scale.evaluate.silhouettes.brute import brute_samples
from medl_scale.evaluate.silhouettes.gridded.intervals import bound_silhouettes, list_doubts
from medl_scale.evaluate.silhouettes.gridded.single_threads import in_single_threads
from medl_scale.evaluate.silhouettes.gridded.stacks import (
    StackRequest,
    make_stacks,
    stack_cost,
    try_stack,
)
from medl_scale.evaluate.silhouettes.gridded.survey import (
    PAIRS_PER_S,
    Survey,
    is_one_point,
    make_survey,
    suitable_size,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.gridded.estimates import Estimates
    from medl_scale.evaluate.silhouettes.gridded.stacks import Stack
    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["GriddedResult", "gridded_samples"]

_ROWS_A_TASK = 131_072
# Grids are cheap: they are asked for a better bound than is wanted, so that the mean of all is small.
_AIM = 0.2
_SMALLEST_SIZE = 8
_LABELS_A_TASK = 32
_SAMPLE, _SAMPLE_EVERY = 4_096, 256
_VALUES_AT_A_TIME = 2**19
# Of the tolerance, what the own and what the nearest label may use up; the rest is for products.
_SHARE = 0.45


@dataclass(frozen=True, eq=False)
class GriddedResult:
    """Silhouettes that state their error."""

    values: NDArray[np.float64]
    """(n,) silhouette of every cell, in the order of the sorted cells."""
    bounds: NDArray[np.float64]
    """(n,) each value is at most this far from the exact silhouette, rounding included."""
    method: str
    """How, in words."""


def gridded_samples(
    clusters: Clusters,
    *,
    tol: float = 1e-3,
    size: int | None = None,
    map_blocks: BlockMap = map_here,
) -> GriddedResult:
    """Return the silhouette of every cell and a proven bound on its error.

    Parameters
    ----------
    clusters
        Cells sorted by label; d = 2, at least 2 labels.
    tol
        Bound wanted for every cell. Most are far better. Below 1e-5 or so rounding sets the limit,
        and all distances are summed.
    size
        Nodes along each side of the shared grids; by default what suits the number of cells, or none
        where the sums of all pairs cost less.
    map_blocks
        Who does the work; values and bounds do not depend on it.

    Raises
    ------
    ConfigError
        If d is not 2, `tol` is negative, or `size` below 8.

    Notes
    -----
    Time is O(n n_labels + n_labels size^2 log size) where few cells are in doubt, O(n^2) at worst.
    """
    if clusters.d != 2:
        raise ConfigError(
            f"gridded silhouettes need a latent of 2 dimensions; this one has {clusters.d}. "
            "Choose another method, such as pruned."
        )
    check_at_least("tol", tol, 0.0)
    check_at_least("size", _SMALLEST_SIZE if size is None else size, _SMALLEST_SIZE)
    if is_one_point(clusters):
        return GriddedResult(np.zeros(clusters.n), np.zeros(clusters.n), "gridded (one point)")
    size = size or suitable_size(clusters)
    if size is None:
        exact = brute_samples(clusters, map_blocks=map_blocks)
        return GriddedResult(exact.values, exact.errors, "gridded (all pairs summed)")
    survey = make_survey(clusters, size, map_blocks)
    order = survey.order()
    stacks = _stacks(survey, order, tol, map_blocks)
    values, bounds = np.empty(clusters.n), np.empty(clusters.n)
    n_refined = n_summed = 0
    blocks = [order[block] for block in row_blocks(clusters.n, _ROWS_A_TASK)]
    found = map_blocks(_settle_rows, _Task(survey, tol, stacks), blocks)
    for rows, part in zip(blocks, found, strict=True):
        values[rows], bounds[rows] = part.values, part.bounds
        n_refined += part.n_refined
        n_summed += part.n_summed
    refined, summed = n_refined / clusters.n, n_summed / clusters.n**2
    return GriddedResult(
        values, bounds, f"gridded ({refined:.1%} of cells refined, {summed:.2%} of pairs summed)"
    )


class _Task(NamedTuple):
    """What all blocks of cells share."""

    survey: Survey
    tol: float
    stacks: Mapping[int, Stack]
    """By column."""


class _Part(NamedTuple):
    """What became of a block of cells."""

    values: NDArray[np.float64]
    bounds: NDArray[np.float64]
    n_refined: int
    """Cells that shared fields left in doubt."""
    n_summed: int
    """Pairs of cells summed for those."""


def _count_doubts(task: _Task, rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return, for each column, how many of some cells want to know its mean distance better."""

    def work(few: NDArray[np.int32]) -> NDArray[np.int64]:
        found = task.survey.estimate(few.astype(np.int64))
        _, _, doubts = _silhouettes(found, _AIM * task.tol)
        return doubts.sum(axis=0, dtype=np.int64)

    counts: NDArray[np.int64] = np.sum(
        in_single_threads(work, _few_rows(task.survey, rows)), axis=0
    )
    return counts


def _settle_rows(task: _Task, rows: NDArray[np.int32]) -> _Part:
    """Return silhouettes of some cells, as certain as asked."""

    def work(few: NDArray[np.int32]) -> _Part:
        found = task.survey.estimate(few.astype(np.int64))
        values, bounds, doubts = _silhouettes(found, _AIM * task.tol)
        if not doubts.any():
            return _Part(values, bounds, 0, 0)
        n_refined = int(np.count_nonzero(doubts.any(axis=1)))
        columns, starts, at = list_doubts(doubts)
        for place, column in enumerate(columns.tolist()):
            if column in task.stacks:
                try_stack(found, column, task.stacks[column], at[starts[place] : starts[place + 1]])
        n_summed = 0
        while True:
            values, bounds, doubts = _silhouettes(found, task.tol)
            if not doubts.any():
                return _Part(values, bounds, n_refined, n_summed)
            columns, starts, at = list_doubts(doubts)
            found.settle(columns, starts, at)
            n_summed += int(found.counts[columns] @ np.diff(starts))

    parts = in_single_threads(work, _few_rows(task.survey, rows))
    return _Part(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.bounds for part in parts]),
        sum(part.n_refined for part in parts),
        sum(part.n_summed for part in parts),
    )


def _few_rows(survey: Survey, rows: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Cut a block into so few cells that what is known of them fits in a cache."""
    at_a_time = max(16, _VALUES_AT_A_TIME // survey.clusters.n_labels)
    return [rows[few] for few in row_blocks(len(rows), at_a_time)]


def _silhouettes(
    found: Estimates, tol: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return values, bounds, and which columns leave each cell in doubt; 0 for a cell without company."""
    doubts = np.empty(found.mean.shape, np.bool_)
    values, bounds = bound_silhouettes(
        found.mean,
        found.width,
        found.a,
        found.a_width,
        found.own,
        found.is_final,
        tol,
        _SHARE,
        doubts,
    )
    alone = found.counts[found.own] == 1
    values[alone], bounds[alone], doubts[alone] = 0.0, 0.0, False
    return values, bounds, doubts


def _stacks(
    survey: Survey, order: NDArray[np.int32], tol: float, map_blocks: BlockMap
) -> dict[int, Stack]:
    """Return stacks of the labels in doubt where making one costs less than sums would."""
    if not survey.n_fields:
        return {}
    # Neighbours lie together in this order: every so many is a fair sample.
    sample = order[:: max(1, min(len(order) // _SAMPLE, _SAMPLE_EVERY))]
    blocks = [sample[block] for block in row_blocks(len(sample), _ROWS_A_TASK)]
    n_doubts = np.zeros(survey.clusters.n_labels)
    for counted in map_blocks(_count_doubts, _Task(survey, tol, {}), blocks):
        n_doubts += counted * (survey.clusters.n / len(sample))
    wanted = []
    for column in range(survey.n_fields):
        n_cells = int(survey.clusters.counts[survey.columns[column]])
        if n_doubts[column] * (n_cells / PAIRS_PER_S) > stack_cost(n_cells):
            wanted.append(column)
    request = StackRequest(survey.clusters, survey.spacing)
    parts = [survey.columns[wanted[part]] for part in row_blocks(len(wanted), _LABELS_A_TASK)]
    made = [stack for part in map_blocks(make_stacks, request, parts) for stack in part]
    return dict(zip(wanted, made, strict=True))

"""One label on grids of its own, for cells that the shared grids leave in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.evaluate.silhouettes.gridded.fields import label_fields, transform_cost
from medl_scale.evaluate.silhouettes.gridded.gathering import gather_stack
from medl_scale.evaluate.silhouettes.gridded.single_threads import in_single_threads
from medl_scale.evaluate.silhouettes.gridded.squares import nested_squares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.gridded.estimates import Estimates
    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["Stack", "StackRequest", "make_stacks", "stack_cost", "try_stack"]

_SAMPLE = 20_000
# Shared grids know a label well at this many of their cells from it.
_MARGIN_CELLS = 6.0
_SIZES = ((2_000, 64), (5_000, 128), (20_000, 192))
_LARGEST_SIZE = 256


class Stack(NamedTuple):
    """Fields of one label on nested grids; see `gathering.gather_stack`."""

    grids: NDArray[np.float64]
    inner: NDArray[np.float32]
    inner_bounds: NDArray[np.float32]
    ring: NDArray[np.float32]
    ring_bounds: NDArray[np.float32]


class StackRequest(NamedTuple):
    """What all stacks are made from."""

    clusters: Clusters
    spacing: float
    """Distance between the nodes of the shared grid."""


def stack_cost(n_cells: int) -> float:
    """Return CPU seconds that a stack of one or two grids takes, or so."""
    return 2.0 * transform_cost(_size_for(n_cells))


def make_stacks(request: StackRequest, labels: NDArray[np.int64]) -> list[Stack]:
    """Return the stacks of some labels."""
    return in_single_threads(lambda label: _make_stack(request, label), labels.tolist())


def _make_stack(request: StackRequest, label: int) -> Stack:
    """Return the stack of a label: around all its cells and some way beyond, and closer and closer."""
    clusters, spacing = request
    cells = slice(clusters.starts[label], clusters.starts[label + 1])
    offsets, centre = clusters.offsets[cells], clusters.centres[label]
    margin = _MARGIN_CELLS * spacing
    low, high = centre + offsets.min(axis=0) - margin, centre + offsets.max(axis=0) + margin
    sample = centre + offsets[:: -(-len(offsets) // _SAMPLE)]
    size = _size_for(len(offsets))
    grids = nested_squares(low, high, sample, size)
    labels = np.array([label])
    inner, ring = [], []
    for level in range(len(grids)):
        inner.append(label_fields(clusters, labels, grids, size, level=level, with_deeper=True))
        if level + 1 < len(grids):
            ring.append(label_fields(clusters, labels, grids, size, level=level, with_deeper=False))
    # A lone grid has no ring, but arrays of its shape.
    ring = ring or inner
    return Stack(
        grids,
        np.concatenate([fields.values for fields in inner]),
        np.concatenate([fields.bounds for fields in inner]),
        np.concatenate([fields.values for fields in ring]),
        np.concatenate([fields.bounds for fields in ring]),
    )


def try_stack(found: Estimates, column: int, stack: Stack, at: NDArray[np.int64]) -> None:
    """Take a label's stack for some cells of a block where it knows better."""
    mean, width, levels = gather_stack(found.points[at], *stack)
    better = width < found.width[at, column]
    here, levels = at[better], levels[better]
    # Float32 keeps 2^-24 of the mean, for which the bound of a field has room; of the bound, less.
    found.mean[here, column] = mean[better]
    found.width[here, column] = 1.000001 * width[better]
    for level, grid in enumerate(stack.grids):
        found.leave_out_self(here[(levels == level) & (found.own[here] == column)], grid)


def _size_for(n_cells: int) -> int:
    """Return nodes a side that suit a label of so many cells."""
    return next((size for most, size in _SIZES if n_cells <= most), _LARGEST_SIZE)

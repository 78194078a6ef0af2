"""UMAP's layout of a graph of cells in the plane, the same on any number of threads.

umap-learn moves both ends of an edge at once, so that its result depends on the order of the edges
and one layout keeps one core busy. Here a cell moves by its own edges only, twice as far, away from
where the others stood when the pass began: blocks of cells are independent of each other.

It stands in for umap-learn because a report has seconds for five latents: trustworthiness is the same
(a test holds it beside umap-learn's) at a sixth of the processor time; and importing
umap-learn imports TensorFlow and compiles for half a minute.

References
----------
McInnes, Healy and Melville (2018), arXiv:1802.03426, sections 3.2 and 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.threads import in_threads
from medl_scale.seeds import Purpose, framework_seed, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CURVE", "MIN_DIST", "lay_out", "start_from_components"]

MIN_DIST = 0.2
"""umap-learn's `min_dist` whose curve has the exponent b = 1, which needs no power."""
CURVE = 1.26
"""The a of the curve 1 / (1 + a r^2) that `MIN_DIST` makes."""
_BLOCK_CELLS = 2048
_EXTENT = 10.0
_NOISE = 1e-4


def start_from_components(latent: NDArray[Any], seed: int) -> NDArray[np.float32]:
    """Return the first two principal components, (n, 2), where a layout starts from.

    Parameters
    ----------
    latent
        (n, d) finite.
    seed
        Of a little noise that sets duplicates apart.
    """
    points = np.asarray(latent, np.float64)
    points = points - points.mean(axis=0)
    _, axes = np.linalg.eigh(points.T @ points)
    axes = axes[:, :-3:-1] if axes.shape[1] > 1 else np.hstack([axes, np.zeros_like(axes)])
    # The sign of an eigenvector is chance.
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    start = points @ axes
    start *= _EXTENT / (np.abs(start).max() or 1.0)
    noise = generator(seed, Purpose.UMAP).normal(size=start.shape)
    return (start + _NOISE * _EXTENT * noise).astype(np.float32)


def lay_out(
    graph: Any, start: NDArray[np.float32], *, n_epochs: int, n_negative: int = 5, seed: int = 0
) -> NDArray[np.float32]:
    """Return the place of every cell, (n, 2).

    Parameters
    ----------
    graph
        Of `membership_graph`.
    start
        (n, 2) where cells are at first.
    n_epochs
        Passes over all cells; the surest edges pull in every one.
    n_negative
        Cells drawn at random that push, for each one that pulls.
    seed
        Of these draws.
    """
    n = graph.shape[0]
    shares = (graph.data / graph.data.max()).astype(np.float32)
    key = framework_seed(seed, Purpose.UMAP, 1)
    before, after = start.copy(), start.copy()
    for epoch in range(n_epochs):
        step = 1.0 - epoch / n_epochs

        def move(rows: slice, now: Any = (before, after, epoch, step)) -> None:
            _move(now[0], now[1], graph.indptr, graph.indices, shares, now[2], np.float32(now[3]),
                  np.float32(CURVE), n_negative, key, rows.start, rows.stop)  # fmt: skip

        in_threads(move, row_blocks(n, _BLOCK_CELLS))
        before, after = after, before
    return before


@numba.njit(nogil=True, cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _move(
    before: Any, after: Any, starts: Any, ends: Any, shares: Any, epoch: int, step: Any, a: Any,
    n_negative: int, key: int, first: int, last: int,
) -> None:  # fmt: skip
    """Write where the cells of a block go in one pass."""
    n = np.uint64(before.shape[0])
    limit, near, two = np.float32(4.0), np.float32(1e-3), np.float32(2.0)
    zero, one = np.float32(0.0), np.float32(1.0)
    for i in range(first, last):
        x, y = before[i, 0], before[i, 1]
        # A generator of its own for each cell and pass (splitmix64).
        state = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(epoch)
        state = state * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(i)
        for edge in range(starts[i], starts[i + 1]):
            share = shares[edge]
            # Edges take part as often as their weight says, evenly spread over the passes.
            if int((epoch + 1) * share) == int(epoch * share):
                continue
            j = ends[edge]
            dx, dy = x - before[j, 0], y - before[j, 1]
            pull = -two * a / (one + a * (dx * dx + dy * dy))
            x += two * step * max(-limit, min(limit, pull * dx))
            y += two * step * max(-limit, min(limit, pull * dy))
            # All push from where the pull has brought the cell, so that none waits for another.
            push_x, push_y = zero, zero
            for _ in range(n_negative):
                state += np.uint64(0x9E3779B97F4A7C15)
                bits = state
                bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                k = int(((bits >> np.uint64(32)) * n) >> np.uint64(32))
                if k == i:
                    continue
                dx, dy = x - before[k, 0], y - before[k, 1]
                square = dx * dx + dy * dy
                push = two / ((near + square) * (one + a * square))
                push_x += max(-limit, min(limit, push * dx))
                push_y += max(-limit, min(limit, push * dy))
            x += step * push_x
            y += step * push_y
        after[i, 0], after[i, 1] = x, y

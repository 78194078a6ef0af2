"""Exact silhouettes from the few labels that can be the nearest: the others are ruled out by bounds.

A cell's mean distance to every label lies in an interval that costs little (`subclusters`). Labels
whose interval lies above another's are dropped; the most promising of those left is summed, and only
what may still be nearer than that is summed too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.evaluate.blocks import BlockMap, map_here
from medl_scale.evaluate.silhouettes.distance_sums import (
    absolute_rounding,
    pair_sums,
    relative_rounding,
)
from medl_scale.evaluate.silhouettes.exact import ExactResult, silhouettes_from_sums
from medl_scale.evaluate.silhouettes.subclusters import SubClusters, build_subclusters, intervals
from medl_scale.evaluate.silhouettes.symmetric_sums import own_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["pruned_samples", "silhouettes_of"]

_MOST_ROWS = 16_384
_INTERVALS = 1 << 23
"""Intervals held at a time: many labels mean short blocks of rows."""


class _Shared(NamedTuple):
    """What every block of rows needs."""

    clusters: Clusters
    sub: SubClusters
    with_own: bool
    """Whether blocks sum the own label too."""


class _Block(NamedTuple):
    """What was found for a block of rows."""

    own: NDArray[np.float64] | None
    """(m,) sums of the distances to the own label."""
    nearest: NDArray[np.float64]
    """(m,) least mean distance to another label."""
    n_pairs: int
    """Pairs of cells that were summed."""


def pruned_samples(
    clusters: Clusters, subclusters: SubClusters | None = None, *, map_blocks: BlockMap = map_here
) -> ExactResult:
    """Return the silhouette of every cell, exact but for rounding.

    Parameters
    ----------
    clusters
        Cells sorted by label, at least 2 labels.
    subclusters
        Made here if None.
    map_blocks
        Who does the work; figures do not depend on it.

    Notes
    -----
    Which labels are dropped follows from rigorous bounds and never changes a figure. How many are
    depends on the data: from 98 % of all pairs where labels lie apart to half of them where they are
    perfectly mixed.
    """
    sub = build_subclusters(clusters) if subclusters is None else subclusters
    own = own_sums(clusters, map_blocks=map_blocks)
    rows = np.arange(clusters.n)
    _, nearest, n_pairs = _sums_of(rows, _Shared(clusters, sub, with_own=False), map_blocks)
    counts = clusters.counts
    n_pairs += int((counts**2).sum())
    values, errors = silhouettes_from_sums(own, nearest, counts[clusters.codes], clusters.d)
    share = n_pairs / clusters.n**2
    return ExactResult(values, errors, share, f"pruned ({share:.2g} of all pairs summed)")


def silhouettes_of(
    rows: NDArray[np.int64],
    clusters: Clusters,
    subclusters: SubClusters | None = None,
    *,
    map_blocks: BlockMap = map_here,
) -> ExactResult:
    """Return the silhouettes of chosen cells among all cells, exact but for rounding.

    Parameters
    ----------
    rows
        (m,) sorted cells, in any order; best in theirs.
    clusters, subclusters, map_blocks
        As for `pruned_samples`.

    Returns
    -------
    ExactResult
        Of the m cells, in the order of `rows`. `share` is of m n pairs.
    """
    sub = build_subclusters(clusters) if subclusters is None else subclusters
    rows = np.asarray(rows, np.int64)
    own, nearest, n_pairs = _sums_of(rows, _Shared(clusters, sub, with_own=True), map_blocks)
    counts = clusters.counts[clusters.codes[rows]]
    values, errors = silhouettes_from_sums(own, nearest, counts, clusters.d)
    share = n_pairs / max(len(rows) * clusters.n, 1)
    return ExactResult(values, errors, share, f"pruned ({share:.2g} of all pairs summed)")


def _sums_of(
    rows: NDArray[np.int64], shared: _Shared, map_blocks: BlockMap
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return own sums (if they are asked for), nearest means, and the number of pairs summed.

    A cell that is alone in its label has silhouette 0 whatever is near it: it is left out, 0.
    """
    clusters = shared.clusters
    own, nearest = np.zeros(len(rows)), np.zeros(len(rows))
    wanted = np.flatnonzero(clusters.counts[clusters.codes[rows]] > 1)
    size = min(max(_INTERVALS // clusters.n_labels, 1), _MOST_ROWS)
    places = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    n_pairs = 0
    found = map_blocks(_block_of, shared, [rows[some] for some in places])
    for some, block in zip(places, found, strict=True):
        nearest[some] = block.nearest
        if block.own is not None:
            own[some] = block.own
        n_pairs += block.n_pairs
    return own, nearest, n_pairs


def _block_of(shared: _Shared, rows: NDArray[np.int64]) -> _Block:
    """Return the sums of a block of rows."""
    clusters, d = shared.clusters, shared.clusters.d
    codes, counts = clusters.codes[rows], clusters.counts
    here = np.arange(len(rows))
    lower, upper = intervals(clusters.points(rows), clusters, shared.sub, codes)
    lower[here, codes] = upper[here, codes] = np.inf
    guess = (lower + upper).argmin(axis=1)
    nearest = _pair_means(clusters, rows, here, guess)
    n_pairs = int(counts[guess].sum())
    summed = nearest * (1.0 + relative_rounding(d)) + absolute_rounding(d)
    ceiling = np.minimum(upper.min(axis=1), summed)
    lower[here, guess] = np.inf
    places, labels = np.nonzero(lower <= ceiling[:, None])
    np.minimum.at(nearest, places, _pair_means(clusters, rows, places, labels))
    n_pairs += int(counts[labels].sum())
    if not shared.with_own:
        return _Block(None, nearest, n_pairs)
    own = _pair_means(clusters, rows, here, codes) * counts[codes]
    return _Block(own, nearest, n_pairs + int(counts[codes].sum()))


def _pair_means(
    clusters: Clusters, rows: NDArray[np.int64], places: NDArray[np.int64], labels: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the mean distance of each pair of a row (by its place in `rows`) and a label."""
    order = np.argsort(labels, kind="stable")
    chosen, firsts = np.unique(labels[order], return_index=True)
    starts = np.append(firsts, len(labels)).astype(np.int64)
    sums = pair_sums(
        clusters, clusters.offsets, clusters.centres, clusters.codes, rows[places[order]],
        chosen.astype(np.int64), starts,
    )  # fmt: skip
    means = np.empty(len(labels))
    means[order] = sums / clusters.counts[labels[order]]
    return means

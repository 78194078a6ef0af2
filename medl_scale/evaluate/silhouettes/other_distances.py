"""Silhouettes of other kinds: cosine distances, and batches compared with all others or the furthest."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from medl_scale.errors import DataError
from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.silhouettes.distance_sums import distance_sums
from medl_scale.evaluate.silhouettes.exact import silhouettes_from_sums
from medl_scale.evaluate.silhouettes.layout import sort_by_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.inputs import Labels
    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["BETWEEN", "METRICS", "Between", "Metric", "silhouettes_between"]

Metric = Literal["cosine", "euclidean"]
Between = Literal["nearest", "mean_other", "furthest"]
METRICS = ("cosine", "euclidean")
BETWEEN = ("nearest", "mean_other", "furthest")

_VALUES = 1 << 22
"""Mean distances, or coordinates, held at a time."""
_MOST_ROWS = 16_384


class _Shared(NamedTuple):
    """What every block of cells needs."""

    clusters: Clusters
    between: Between
    means: tuple[NDArray[np.float64], NDArray[np.float64]]
    """Mean of each label, and its mean squared distance to it."""


def silhouettes_between(
    latent: NDArray[Any],
    labels: Labels,
    metric: Metric,
    between: Between,
    map_blocks: BlockMap,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the silhouette of every cell and a bound on its rounding error, (n,) each.

    Parameters
    ----------
    latent
        (n, d) finite floats.
    labels
        One for each cell, at least two different ones.
    metric
        `cosine` or `euclidean`.
    between
        What b is: the least mean distance to another label (`nearest`), the largest (`furthest`), or
        the mean distance to all cells of other labels (`mean_other`).
    map_blocks
        Who does the work.

    Raises
    ------
    DataError
        If a cell at the origin has no direction (cosine); they are counted.

    Notes
    -----
    For unit vectors, 1 - cos is half the squared distance, and the mean of it over the cells of a
    label, with mean m and mean squared distance v to m, is (|x - m|^2 + v) / 2: no pair is visited,
    and nothing cancels.
    """
    clusters = sort_by_label(_directions(latent) if metric == "cosine" else latent, labels)
    function = _cosine_block if metric == "cosine" else _euclidean_block
    size = max(1, _VALUES // max(clusters.n_labels, clusters.d))
    blocks = row_blocks(clusters.n, min(size, _MOST_ROWS))
    shared = _Shared(clusters, between, _cosine_means(clusters))
    values, errors = np.empty(clusters.n), np.empty(clusters.n)
    for rows, found in zip(blocks, map_blocks(function, shared, blocks), strict=True):
        places = clusters.order[rows]
        values[places], errors[places] = found
    return values, errors


def _directions(latent: NDArray[Any]) -> NDArray[np.float64]:
    """Return cells scaled to length 1."""
    largest = np.abs(latent).max(axis=1, keepdims=True).astype(np.float64)
    n_still = int(np.count_nonzero(largest == 0))
    if n_still:
        raise DataError(
            f"latent must have a direction in every cell for cosine distances; {n_still:,} of "
            f"{len(latent):,} cells lie at the origin. Pass metric='euclidean', or leave them out."
        )
    # By the largest coordinate first, so that no square overflows or vanishes.
    scaled = latent / largest
    found: NDArray[np.float64] = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return found


def _cosine_means(clusters: Clusters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean direction of each label, and the mean squared distance to it."""
    counts = clusters.counts
    first, second = np.empty((clusters.n_labels, clusters.d)), np.empty(clusters.n_labels)
    for label, (start, stop) in enumerate(itertools.pairwise(clusters.starts)):
        offsets = clusters.offsets[start:stop].astype(np.float64)
        first[label] = offsets.mean(axis=0)
        second[label] = np.square(offsets - first[label]).sum() / counts[label]
    return clusters.centres + first, second


def _cosine_block(shared: _Shared, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return silhouettes of a stretch of cells from squared distances of unit vectors."""
    clusters, between, (centres, spreads) = shared
    points, codes = clusters.points(rows), clusters.codes[rows]
    means = np.empty((len(points), clusters.n_labels))
    for label in range(clusters.n_labels):
        means[:, label] = np.square(points - centres[label]).sum(axis=1) + spreads[label]
    counts = clusters.counts
    own, other = _own_and_other(means, codes, counts, between)
    larger = np.maximum(own, other)
    is_scored = (counts[codes] > 1) & (larger > 0)
    divisor = np.where(is_scored, larger, 1.0)
    values = np.where(is_scored, (other - own) / divisor, 0.0)
    # Positions are rounded to 2^-24 of their offsets, squares double that, for a and b each; what
    # is left of float64 in positions of size 1 counts where distances are tiny.
    errors = np.where(is_scored, np.minimum(2.0**-20 + 2.0**-44 / divisor, 2.0), 0.0)
    return values, errors


def _euclidean_block(
    shared: _Shared, rows: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return silhouettes of a stretch of cells from sums over all cells."""
    clusters, between, _ = shared
    codes, counts = clusters.codes[rows], clusters.counts
    means = distance_sums(clusters.points(rows), clusters) / counts
    own, other = _own_and_other(means, codes, counts, between)
    own_sums = own * np.maximum(counts[codes] - 1, 1)
    return silhouettes_from_sums(own_sums, other, counts[codes], clusters.d)


def _own_and_other(
    means: NDArray[np.float64],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
    between: Between,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a and b of each cell from its mean distances to all labels; these are written over."""
    here = np.arange(len(means))
    own_counts = counts[codes]
    own = means[here, codes] * (own_counts / np.maximum(own_counts - 1, 1))
    if between == "mean_other":
        means[here, codes] = 0.0
        return own, (means * counts).sum(axis=1) / (counts.sum() - own_counts)
    means[here, codes] = np.inf if between == "nearest" else -np.inf
    return own, means.min(axis=1) if between == "nearest" else means.max(axis=1)

"""Labels cut into sub-clusters whose few moments bound the mean distance of any point to a label.

With u the vector from the mean of a sub-cluster to a point, z its cells about their mean and
q = |u - z|^2 their squared distances,

    E q = |u|^2 + E|z|^2 = m,    sd q <= 2 l |u| + sd|z|^2,    l^2 the largest variance in any direction,

so that the mean distance E sqrt(q) is at most sqrt(m) (Jensen), at least |u| (Jensen again), and at
least m^(3/2) / sqrt(m^2 + Var q) (Hoelder: E q <= (E sqrt q)^(2/3) (E q^2)^(1/3)). Weighted sums over
the sub-clusters of a label bound the mean over the label, whatever the partition is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.config import check_at_least
from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.silhouettes.bound_kernels import LANES, bound_labels, bound_silhouettes
from medl_scale.evaluate.silhouettes.cutting import cut_labels
from medl_scale.evaluate.silhouettes.moments import moments_of_parts
from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["SubClusters", "build_subclusters", "estimates", "intervals", "silhouette_bounds"]

_QUERIES = 8 * LANES
"""Queries of one task of a thread."""


@dataclass(frozen=True, eq=False)
class SubClusters:
    """Moments of T sub-clusters, those of one label beside each other. Units of `Clusters.scale`."""

    means: NDArray[np.float32]
    """(T, d) mean of each, from the centre of its label."""
    moments: NDArray[np.float32]
    """(T, 5) share of the label's cells; E|z|^2; sd |z|^2; root of the largest eigenvalue of the
    covariance; its eigenvalues' mean weighted by themselves."""
    label_moments: NDArray[np.float32]
    """(n_labels, 5) the same of whole labels."""
    starts: NDArray[np.int64]
    """(n_labels + 1,) where each label's sub-clusters begin."""
    assigned: NDArray[np.int32]
    """(n,) sub-cluster of each sorted cell, 0 to T - 1."""

    @property
    def n_subclusters(self) -> int:
        """Number of sub-clusters of all labels."""
        return len(self.means)


def build_subclusters(clusters: Clusters, *, n_sub: int = 32, seed: int = 0) -> SubClusters:
    """Cut every label into about `n_sub` compact parts and take their moments.

    All labels are cut along the same regions, found by Lloyd's algorithm on a sample of all cells:
    where labels share their cell types, as batches do, the errors of their estimates then are alike
    and cancel in silhouettes. A label that occurs in few regions is cut further by itself.

    Parameters
    ----------
    clusters
        The cells.
    n_sub
        Regions, and parts of a label that are aimed at, >= 1. Fewer are made where parts would
        hold few cells.
    seed
        The user's seed.
    """
    check_at_least("n_sub", n_sub, 1)
    starts, assigned, sizes = cut_labels(clusters, n_sub, seed)
    means, moments, label_moments = moments_of_parts(clusters, starts, assigned, sizes)
    return SubClusters(means, moments, label_moments, starts, assigned)


def intervals(
    queries: NDArray[np.float64],
    clusters: Clusters,
    sub: SubClusters,
    own: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return bounds of the mean distance of each query to all cells of each label.

    Rounding is allowed for: the exact mean distance never lies outside.

    Parameters
    ----------
    queries
        (m, d) cells as `Clusters.points` gives them.
    clusters, sub
        The labels and their sub-clusters.
    own
        (m,) label of each query. Where given, sub-clusters are looked at only for the own label
        and for those whose coarse bounds leave a chance to be the nearest other one; the other
        labels keep their coarse (still rigorous) bounds. None refines all.

    Returns
    -------
    tuple
        Lower and upper bounds, (m, n_labels) each, in units of `Clusters.scale`.
    """
    lower, upper, _ = _bound(queries, clusters, sub, own)
    return lower, upper


def estimates(
    queries: NDArray[np.float64],
    clusters: Clusters,
    sub: SubClusters,
    own: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """Return a close guess of what `intervals` bounds, (m, n_labels); arguments are the same.

    A guess is sqrt(m) (1 - k / (8 + 3.2 k)) with k = Var q / m^2, the second-order expansion of the
    mean of a root, damped where it would be far off.
    """
    return _bound(queries, clusters, sub, own)[2]


def silhouette_bounds(
    queries: NDArray[np.float64], own: NDArray[np.int32], clusters: Clusters, sub: SubClusters
) -> NDArray[np.float32]:
    """Return guesses and bounds of the silhouettes of queries, without summing over cells.

    Parameters
    ----------
    queries
        (m, d) cells as `Clusters.points` gives them.
    own
        (m,) their labels.
    clusters, sub
        The labels and their sub-clusters.

    Returns
    -------
    ndarray
        (m, 4): a guess from whole labels, one from sub-clusters, a lower and an upper bound, both
        rigorous.
    """
    found = np.empty((len(queries), 4))
    queries = np.ascontiguousarray(queries, np.float64)
    own = np.ascontiguousarray(own, np.int32)
    sizes, tables, slack = clusters.counts, _tables(clusters, sub), _slack(clusters, sub)

    def bound(rows: slice) -> None:
        bound_silhouettes(queries[rows], own[rows], sizes, tables, slack, found[rows])

    in_threads(bound, row_blocks(len(queries), _QUERIES))
    # The position of a cell is known to 2^-24 of its distance to the centre of its label, which
    # moves its silhouette by as much; rounding to float32 here does too.
    padding = np.where(sizes[own] > 1, 2.0**-22, 0.0)
    found[:, 2] = np.maximum(found[:, 2] - padding, -1.0)
    found[:, 3] = np.minimum(found[:, 3] + padding, 1.0)
    return found.astype(np.float32)


def _bound(
    queries: NDArray[np.float64],
    clusters: Clusters,
    sub: SubClusters,
    own: NDArray[np.int32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return lower bounds, upper bounds and estimates."""
    shape = (len(queries), clusters.n_labels)
    lower, upper, guess = (np.empty(shape, np.float32) for _ in range(3))
    if own is None:
        own = np.full(len(queries), -1, np.int32)
    queries = np.ascontiguousarray(queries, np.float64)
    own = np.ascontiguousarray(own, np.int32)
    tables, slack = _tables(clusters, sub), _slack(clusters, sub)

    def bound(rows: slice) -> None:
        bound_labels(queries[rows], own[rows], tables, slack, lower[rows], upper[rows], guess[rows])

    in_threads(bound, row_blocks(len(queries), _QUERIES))
    return lower, upper, guess


def _tables(clusters: Clusters, sub: SubClusters) -> tuple[NDArray[Any], ...]:
    """Return what the kernels read."""
    return clusters.centres, sub.label_moments, sub.means, sub.moments, sub.starts


def _slack(clusters: Clusters, sub: SubClusters) -> tuple[np.float32, np.float32]:
    """Return what rounding may change bounds by: in parts of the upper one, and absolutely.

    In parts of the mean distance F: 2 units of 2^-24 from rounding the query (|u| <= F, and the
    bounds change by at most twice the change of |u|), 2 from rounding the sub-clusters' means
    (their weighted norms are at most 2 F), 2 from the layout; then the sums over coordinates and
    over sub-clusters, and some 20 operations. Absolutely: queries and centres are float64 numbers
    up to 1, and squares below the range of float32 vanish.
    """
    most = int(np.diff(sub.starts).max())
    return (
        np.float32((clusters.d + most + 40) * 2.0**-24),
        np.float32(math.sqrt(clusters.d) * 2.0**-49),
    )

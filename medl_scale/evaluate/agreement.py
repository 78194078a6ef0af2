"""ARI and NMI: how far a clustering and labels agree, from exact counts of the pairs that occur."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from medl_scale.config import check_choice
from medl_scale.errors import DataError
from medl_scale.evaluate.blocks import BlockMap, map_here, row_blocks
from medl_scale.evaluate.inputs import check_latent, check_n_labels, encode_labels
from medl_scale.evaluate.score import Score
from medl_scale.seeds import Purpose, framework_seed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Integers = NDArray[np.int64]

__all__ = [
    "Average",
    "Contingency",
    "ari",
    "ari_kmeans",
    "cluster_by_kmeans",
    "cross",
    "nmi",
    "nmi_kmeans",
]

Average = Literal["arithmetic", "max"]
BLOCK_CELLS = 1_048_576
_UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class Contingency:
    """How many cells have each pair of label and cluster that occurs. Those of disjoint cells add up."""

    pairs: Integers
    """(m,) label * 2^32 + cluster, ascending."""
    counts: Integers
    """(m,) cells, at least 1."""

    def merge(self, other: Contingency) -> Contingency:
        """Return the counts of both."""
        pairs, places = np.unique(np.concatenate([self.pairs, other.pairs]), return_inverse=True)
        counts = np.zeros(len(pairs), np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return Contingency(pairs, counts)

    @property
    def labels(self) -> Integers:
        """(m,) label of each pair."""
        return self.pairs >> 32

    @property
    def clusters(self) -> Integers:
        """(m,) cluster of each pair."""
        return self.pairs & 0xFFFFFFFF

    @property
    def n(self) -> int:
        """Cells."""
        return int(self.counts.sum())


def cross(
    labels: ArrayLike, clusters: ArrayLike, *, map_blocks: BlockMap = map_here
) -> Contingency:
    """Count the pairs of label and cluster that occur.

    Parameters
    ----------
    labels, clusters
        (n,) text, numbers or categories; at least one cell.
    map_blocks
        Who counts the blocks.

    Raises
    ------
    DataError
        If they differ in length, or some are missing.
    """
    n = len(np.asarray(labels))
    if n == 0:
        raise DataError("labels must name at least one cell; there are none.")
    rows, columns = encode_labels(labels, n), encode_labels(clusters, n, name="clusters")
    codes = (rows.codes, columns.codes)
    found = iter(map_blocks(_count_block, codes, row_blocks(n, BLOCK_CELLS)))
    total = next(found)
    for block in found:
        total = total.merge(block)
    return total


def _count_block(codes: tuple[NDArray[np.int32], NDArray[np.int32]], rows: slice) -> Contingency:
    """Count the pairs of a block."""
    labels, clusters = codes[0][rows], codes[1][rows]
    pairs, counts = np.unique((labels.astype(np.int64) << 32) | clusters, return_counts=True)
    return Contingency(pairs, counts.astype(np.int64))


def ari(labels: ArrayLike, clusters: ArrayLike, *, map_blocks: BlockMap = map_here) -> Score:
    """Return the adjusted Rand index: 1 for equal partitions, 0 on average for unrelated ones.

    Parameters and errors are those of `cross`; pairs of cells are counted in integers of any size.
    Two partitions into one group, or into single cells, agree: 1.
    """
    started = time.perf_counter()
    return _score(_ari(cross(labels, clusters, map_blocks=map_blocks)), "pair counts", started)


def nmi(
    labels: ArrayLike,
    clusters: ArrayLike,
    average: Average = "arithmetic",
    *,
    map_blocks: BlockMap = map_here,
) -> Score:
    """Return the mutual information over the mean, or the larger, of the two entropies: 0 to 1.

    Parameters
    ----------
    labels, clusters, map_blocks
        As for `cross`.
    average
        `arithmetic` as in scib-metrics, `max` as in the papers.

    Notes
    -----
    1 where both partitions have one group, as in scikit-learn.
    """
    started = time.perf_counter()
    check_choice("average", average, ("arithmetic", "max"))
    table = cross(labels, clusters, map_blocks=map_blocks)
    return _score(_nmi(table, average), f"{average} mean of entropies", started)


def cluster_by_kmeans(latent: ArrayLike, n_clusters: int, seed: int = 0) -> NDArray[np.int32]:
    """Return the k-means cluster of each cell, (n,).

    scikit-learn's, as scib-metrics' default clustering sets it: k-means++, one start, at most 300
    steps, tolerance 1e-4. On one thread, since the order of its sums depends on their number.

    Parameters
    ----------
    latent
        (n, d) finite numbers.
    n_clusters
        From 1 to n.
    seed
        The user's.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points = check_latent(latent)
    if not 1 <= n_clusters <= len(points):
        raise DataError(
            f"n_clusters must be from 1 to the number of cells, {len(points):,}; got {n_clusters:,}."
        )
    # In units of the largest coordinate, float32 squares neither overflow nor vanish.
    origin = points.mean(axis=0, dtype=np.float64)
    offsets = points - origin
    largest = float(np.abs(offsets).max())
    offsets /= largest if largest > 0 else 1.0
    means = KMeans(
        n_clusters,
        n_init=1,
        max_iter=300,
        tol=1e-4,
        random_state=framework_seed(seed, Purpose.KMEANS),
        copy_x=False,
    )
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer different cells than clusters: the rest stay empty, which is no fault here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(means.fit(offsets.astype(points.dtype)).labels_, np.int32)


def ari_kmeans(latent: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> Score:
    """Return the ARI of labels and as many k-means clusters, as scib-metrics' Benchmarker has it.

    Raises
    ------
    DataError
        If the latent is not a finite matrix, or cells have no label.
    ScoreUndefinedError
        If there is one label, or as many as cells.
    """
    started = time.perf_counter()
    table, method = _cross_kmeans(latent, labels, seed)
    return _score(_ari(table), method, started)


def nmi_kmeans(
    latent: ArrayLike, labels: ArrayLike, average: Average = "arithmetic", *, seed: int = 0
) -> Score:
    """Return the NMI of labels and as many k-means clusters; see `ari_kmeans` and `nmi`."""
    started = time.perf_counter()
    check_choice("average", average, ("arithmetic", "max"))
    table, method = _cross_kmeans(latent, labels, seed)
    return _score(_nmi(table, average), f"{method}, {average} mean of entropies", started)


def _cross_kmeans(latent: ArrayLike, labels: ArrayLike, seed: int) -> tuple[Contingency, str]:
    """Return labels crossed with k-means clusters, and what these are."""
    points = check_latent(latent)
    encoded = encode_labels(labels, len(points))
    check_n_labels(encoded)
    n_clusters = len(encoded.levels)
    clusters = cluster_by_kmeans(points, n_clusters, seed)
    return cross(encoded.codes, clusters), f"k-means, {n_clusters} clusters, seed {seed}"


def _ari(table: Contingency) -> tuple[float, float, int]:
    """Return the adjusted Rand index, its rounding, and the number of cells."""
    n = table.n
    both = _sum_of_squares(table.counts)
    of_labels = _sum_of_squares(_totals(table.labels, table.counts))
    of_clusters = _sum_of_squares(_totals(table.clusters, table.counts))
    # Ordered pairs of different cells: together in both, in one only, in neither.
    together = both - n
    labels_only, clusters_only = of_labels - both, of_clusters - both
    apart = n * n - of_labels - of_clusters + both
    if labels_only == clusters_only == 0:
        return 1.0, 0.0, n
    over = 2 * (together * apart - labels_only * clusters_only)
    under = (together + labels_only) * (labels_only + apart)
    under += (together + clusters_only) * (clusters_only + apart)
    # Python divides integers of any size with one rounding.
    return over / under, 2 * _UNIT, n


def _nmi(table: Contingency, average: Average) -> tuple[float, float, int]:
    """Return the normalised mutual information, its rounding, and the number of cells."""
    n = table.n
    of_labels = _totals(table.labels, table.counts)
    of_clusters = _totals(table.clusters, table.counts)
    entropies = _entropy(of_labels, n), _entropy(of_clusters, n)
    if np.count_nonzero(of_labels) == np.count_nonzero(of_clusters) == 1:
        return 1.0, 0.0, n
    # log p / (p q) in logarithms of counts: their products need more than 64 bits.
    logs = np.log(table.counts) + np.log(n)
    logs -= np.log(of_labels[table.labels]) + np.log(of_clusters[table.clusters])
    shared = float(np.sum(table.counts / n * logs))
    mean = max(entropies) if average == "max" else sum(entropies) / 2.0
    # Each logarithm is at most log n < 64 and off by a unit of that.
    error = 64.0 * (8.0 + np.log2(len(logs) + 1)) * _UNIT
    if shared <= error:
        return 0.0, error / mean, n
    return min(shared / mean, 1.0), 2.0 * error / mean, n


def _totals(codes: Integers, counts: Integers) -> Integers:
    """Return cells of each code."""
    totals = np.zeros(int(codes.max()) + 1, np.int64)
    np.add.at(totals, codes, counts)
    return totals


def _sum_of_squares(counts: Integers) -> int:
    """Return the sum of squares; int64 holds it up to 3e9 cells, Python's integers beyond."""
    if int(counts.sum()) < 3_000_000_000:
        return int(np.sum(counts * counts))
    return sum(int(count) ** 2 for count in counts)


def _entropy(counts: Integers, n: int) -> float:
    """Return the entropy of a partition in nats."""
    share = counts[counts > 0] / n
    return float(-np.sum(share * np.log(share)))


def _score(found: tuple[float, float, int], method: str, started: float) -> Score:
    """Return an exact score."""
    value, error, n = found
    seconds = time.perf_counter() - started
    return Score(value=value, kind="exact", error=error, method=method, n=n, seconds=seconds)

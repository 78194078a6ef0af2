"""Where labels are cut into sub-clusters: along regions that all share, then each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.silhouettes.subcluster_kernels import (
    lloyd,
    nearest_centroids,
    nearest_regions,
)
from medl_scale.evaluate.threads import in_threads
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["cut_labels"]

_LEAST_CELLS = 24
"""Cells a sub-cluster should have: fewer, and bounding costs as much as summing."""
_SAMPLE_CELLS = 200
"""Cells per sub-cluster that centroids are found from."""
_ROUNDS = 6
_ROWS = 65_536


def cut_labels(
    clusters: Clusters, n_sub: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Return a part for every sorted cell; see `subclusters.build_subclusters`.

    Returns
    -------
    tuple
        (n_labels + 1,) where each label's parts begin, (n,) the part of each cell, (n_parts,) cells
        of each part, none of them 0.
    """
    groups, label_of_group = _cut_along_regions(clusters, n_sub, seed)
    sizes = np.bincount(groups, minlength=len(label_of_group))
    n_regions = np.bincount(label_of_group, minlength=clusters.n_labels)
    wanted = np.clip(sizes // _LEAST_CELLS, 1, n_sub // n_regions[label_of_group])
    assigned = _cut_groups(clusters, groups, sizes, wanted, seed)
    label_of_part = np.repeat(label_of_group, wanted)

    # A centroid of the sample may be nobody's nearest: it goes.
    sizes = np.bincount(assigned, minlength=len(label_of_part))
    kept = sizes > 0
    assigned = (np.cumsum(kept, dtype=np.int32) - np.int32(1))[assigned]
    starts = np.searchsorted(label_of_part[kept], np.arange(clusters.n_labels + 1))
    return starts.astype(np.int64), assigned, sizes[kept]


def _cut_along_regions(
    clusters: Clusters, n_regions: int, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return a group, label and region, for every sorted cell, and the label of every group."""
    rng = generator(seed, Purpose.SUBCLUSTERS)
    n, n_labels = clusters.n, clusters.n_labels
    rows = np.sort(rng.choice(n, min(n, _SAMPLE_CELLS * n_regions), replace=False, shuffle=False))
    sample = clusters.points(rows).astype(np.float32)
    draws = rng.random(n_regions)
    most = max(n // _LEAST_CELLS, n_labels)
    while True:
        if n_regions <= 1:
            return clusters.codes, np.arange(n_labels)
        centroids = np.empty((n_regions, clusters.d), np.float32)
        lloyd(sample, draws[:n_regions], _ROUNDS, centroids)
        regions = np.empty(n, np.int32)

        def place(rows: slice, centroids: Any = centroids, regions: Any = regions) -> None:
            offsets, codes = clusters.offsets[rows], clusters.codes[rows]
            nearest_regions(offsets, codes, clusters.centres, centroids, regions[rows])

        in_threads(place, row_blocks(n, _ROWS))
        keys = clusters.codes * np.int64(n_regions) + regions
        found = np.flatnonzero(np.bincount(keys, minlength=n_labels * n_regions))
        if len(found) <= most:
            rank = np.zeros(n_labels * n_regions, np.int32)
            rank[found] = np.arange(len(found), dtype=np.int32)
            return rank[keys], found // n_regions
        n_regions = min(n_regions - 1, n_regions * most // len(found))


def _cut_groups(
    clusters: Clusters,
    groups: NDArray[np.int32],
    sizes: NDArray[np.int64],
    wanted: NDArray[np.int64],
    seed: int,
) -> NDArray[np.int32]:
    """Return a part for every sorted cell, `wanted` parts to each group."""
    starts = np.concatenate([[0], np.cumsum(wanted)]).astype(np.int64)
    centroids = np.zeros((starts[-1], clusters.d), np.float32)
    to_cut = np.flatnonzero(wanted > 1)
    if len(to_cut):
        cells = np.argsort(groups, kind="stable")
        first = np.cumsum(sizes) - sizes

        def cut(group: int) -> None:
            rng = generator(seed, Purpose.SUBCLUSTERS, 1, group)
            n_cells, n_parts = int(sizes[group]), int(wanted[group])
            size = min(n_cells, _SAMPLE_CELLS * n_parts)
            picked = np.sort(rng.choice(n_cells, size, replace=False, shuffle=False))
            sample = clusters.offsets[cells[first[group] + picked]]
            part = slice(starts[group], starts[group + 1])
            lloyd(sample, rng.random(n_parts), _ROUNDS, centroids[part])

        in_threads(cut, to_cut.tolist())
    assigned = np.empty(clusters.n, np.int32)

    def assign(rows: slice) -> None:
        nearest_centroids(clusters.offsets[rows], groups[rows], centroids, starts, assigned[rows])

    in_threads(assign, row_blocks(clusters.n, _ROWS))
    return assigned

"""Exact silhouettes on a GPU: mean distances to all labels, fused, without an array of cells by labels.

Distances are float32 differences about the labels' centres, as on a CPU, and sums go on in float64
after 32 of them; the order of every sum is fixed. Figures are the same bit for bit from run to run,
whatever memory there is, and within `ExactResult.errors` of the exact ones: `relative_rounding` holds
here too, as roots may be off by 2 units, not 1, but sums in float32 by 9, not 18.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.evaluate.backend import choose_backend
from medl_scale.evaluate.blocks import BlockMap, map_here, row_blocks
from medl_scale.evaluate.gpu.bounds import labels_in_reach
from medl_scale.evaluate.gpu.device import CudaDevice
from medl_scale.evaluate.gpu.plan import (
    SEGMENT,
    group_labels,
    kernel_for,
    launch_rows,
    segments_of,
    shards_of,
)
from medl_scale.evaluate.silhouettes.distance_sums import absolute_rounding, relative_rounding
from medl_scale.evaluate.silhouettes.exact import ExactResult, silhouettes_from_sums
from medl_scale.evaluate.silhouettes.subclusters import build_subclusters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.gpu.device import Device
    from medl_scale.evaluate.gpu.plan import Kernel
    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["LabelSums", "gpu_samples", "label_moments", "sum_on"]

_BLOCKS_PER_PROCESSOR = 16
"""Blocks of threads that keep a multiprocessor busy to the end."""
_REFERENCE_SHARE = 0.5
"""Of the free memory, for references; where they need more they come in shards."""
_UPLOAD_ROWS = 1 << 20


class LabelSums(NamedTuple):
    """What silhouettes of some cells are made from."""

    own: NDArray[np.float64]
    """(m,) sum of the distances to all cells of the own label."""
    nearest: NDArray[np.float64]
    """(m,) least mean distance to the cells of another label."""
    n_pairs: int
    """Distances that were summed."""


def gpu_samples(clusters: Clusters, *, map_blocks: BlockMap = map_here) -> ExactResult:
    """Return the silhouette of every cell, computed on the current GPU.

    Parameters
    ----------
    clusters
        Cells sorted by label, at least 2 labels.
    map_blocks
        Who does the work; each must have a GPU. Figures do not depend on it.

    Raises
    ------
    MissingExtraError
        If CuPy is not installed.
    ConfigError
        If no device answers.

    Notes
    -----
    Device memory: references take 4 n d bytes, or half of what is free, if less, and then come in
    shards; queries take some 256 MiB at a time.
    """
    choose_backend("gpu", what="silhouettes")
    rows = launch_rows(kernel_for(clusters.d), clusters.n, clusters.n_labels)
    blocks = row_blocks(clusters.n, rows)
    parts = list(map_blocks(_sums_of_block, (clusters, label_moments(clusters)), blocks))
    own = np.concatenate([part.own for part in parts])
    nearest = np.concatenate([part.nearest for part in parts])
    counts = clusters.counts[clusters.codes]
    values, errors = silhouettes_from_sums(own, nearest, counts, clusters.d)
    share = sum(part.n_pairs for part in parts) / clusters.n**2
    return ExactResult(values, errors, share, f"exact on a GPU ({share:.0%} of pairs)")


def label_moments(clusters: Clusters) -> NDArray[np.float64]:
    """Return (n_labels, 3) E|z|^2, sd |z|^2 and root of the largest eigenvalue of each label."""
    whole = build_subclusters(clusters, n_sub=1)
    return whole.label_moments[:, 1:4].astype(np.float64)


def sum_on(
    device: Device,
    clusters: Clusters,
    moments: NDArray[np.float64],
    rows: slice | NDArray[np.int64],
    *,
    most_references: int | None = None,
    segment: int = SEGMENT,
) -> LabelSums:
    """Return the sums of some cells, computed on a device in one pass over the references.

    Parameters
    ----------
    device
        Where to.
    clusters
        All cells.
    moments
        From `label_moments`.
    rows
        Places of the queries among the sorted cells.
    most_references
        References held at a time; None: as memory allows.
    segment
        References whose distances are summed before the sum joins the label's.
    """
    xp, kernel = device.xp, kernel_for(clusters.d)
    offsets, codes = clusters.offsets[rows], clusters.codes[rows]
    m, n_labels = len(codes), clusters.n_labels
    n_blocks = -(-m // kernel.block_rows)
    queries, own_codes = xp.asarray(offsets), xp.asarray(codes)
    centres, starts = xp.asarray(clusters.centres), xp.asarray(clusters.starts)
    keep = labels_in_reach(
        queries + centres[own_codes],
        own_codes,
        centres,
        xp.asarray(moments),
        block_rows=kernel.block_rows,
        margin=2.0 * relative_rounding(clusters.d) + 1e-6,
        slack=4.0 * absolute_rounding(clusters.d),
        xp=xp,
    )
    if kernel.is_wide:
        queries = xp.ascontiguousarray(queries.T)
    segments = segments_of(clusters.starts, segment)
    if most_references is None:
        most_references = int(_REFERENCE_SHARE * device.free_bytes()) // (4 * kernel.padded)
    shards = shards_of(segments, most_references)
    # Few queries leave processors idle: labels then are shared out too. A label that is cut by the
    # end of a shard goes on with the same block.
    wanted = -(-_BLOCKS_PER_PROCESSOR * device.n_processors // n_blocks) if len(shards) == 1 else 1
    n_groups = len(group_labels(segments, min(wanted, n_labels))) - 1

    own_sum, carry = xp.zeros(m, xp.float64), xp.zeros(m, xp.float64)
    nearest = xp.full((n_groups, m), xp.inf, xp.float64)
    room = (n_groups, n_blocks, kernel.padded, kernel.block_rows) if kernel.is_wide else 1
    shifted = xp.empty(room, xp.float32)
    for shard in shards:
        part = segments[shard].copy()
        groups = xp.asarray(group_labels(part, n_groups))
        first, last = int(part[0, 1]), int(part[-1, 1] + part[-1, 2])
        part[:, 1] -= first
        references = _upload(device, kernel, clusters.offsets[first:last])
        arguments = [queries, references, own_codes, starts, centres, xp.asarray(part), groups]
        arguments += [keep, own_sum, nearest, carry, shifted]
        arguments += [np.int64(m), np.int64(first), np.int64(last - first), np.int32(n_labels)]
        device.launch(kernel, (n_blocks, n_groups), arguments)
    return LabelSums(
        device.to_host(own_sum),
        device.to_host(nearest.min(axis=0)),
        int(_queries_of_labels(device, keep, kernel, m) @ clusters.counts),
    )


def _sums_of_block(shared: tuple[Clusters, NDArray[np.float64]], rows: slice) -> LabelSums:
    """Return the sums of a block of sorted cells; the call is independent of all others."""
    return sum_on(CudaDevice(), *shared, rows)


def _upload(device: Device, kernel: Kernel, offsets: NDArray[np.float32]) -> Any:
    """Return references as the kernel reads them: cell by cell, or dimension by dimension."""
    xp = device.xp
    if not kernel.is_wide:
        return xp.asarray(offsets)
    references = xp.zeros((kernel.padded, len(offsets)), xp.float32)
    for rows in row_blocks(len(offsets), _UPLOAD_ROWS):
        references[: kernel.d, rows] = xp.asarray(offsets[rows]).T
    return references


def _queries_of_labels(device: Device, keep: Any, kernel: Kernel, m: int) -> NDArray[np.int64]:
    """Return how many of m queries each label was summed for, (n_labels,)."""
    blocks = device.to_host(keep.sum(axis=0, dtype=device.xp.int64))
    in_last = device.to_host(keep[-1]).astype(np.int64)
    return blocks * kernel.block_rows - in_last * (len(keep) * kernel.block_rows - m)

"""How the work of the silhouette kernel is cut: threads, segments of labels, shards, groups.

Figures do not depend on any of it but the length of a segment: a segment is always summed in the
same order, and the segments of a label one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "SEGMENT",
    "Kernel",
    "group_labels",
    "kernel_for",
    "launch_rows",
    "segments_of",
    "shards_of",
]

SEGMENT = 65_536
"""References whose distances are summed before the sum joins the label's."""
_FEW_DIMENSIONS = 8
"""Up to so many, a query stays in the registers of one thread."""
_DEPTHS = (10, 8, 6)
_PAIRS_PER_LAUNCH = 1 << 40
"""A second or some: long beside what a launch costs, short beside a user's patience."""
_FEWEST_ROWS = 1 << 16
_QUERY_BYTES = 1 << 28
_MOST_FLAGS = 1 << 28


@dataclass(frozen=True)
class Kernel:
    """One compiled form of the kernel."""

    d: int
    """Latent dimensions."""
    depth: int
    """Dimensions fetched at a time; 0: all, queries in registers."""
    block_rows: int
    """Queries of a block."""
    threads: int
    """Threads of a block."""

    @property
    def is_wide(self) -> bool:
        """Whether coordinates lie dimension by dimension, (d, n), and not cell by cell, (n, d)."""
        return self.depth > 0

    @property
    def padded(self) -> int:
        """Dimensions as stored on the device; those from `d` on are 0."""
        return -(-self.d // self.depth) * self.depth if self.is_wide else self.d

    @property
    def options(self) -> tuple[str, ...]:
        """What NVRTC and nvcc are told. The square root may err by a unit in the last place."""
        return (
            f"-DD={self.d}",
            f"-DDEPTH={self.depth}",
            f"-DBLOCK_ROWS={self.block_rows}",
            "--prec-sqrt=false",
            "--ftz=true",
        )


def kernel_for(d: int) -> Kernel:
    """Return the form of the kernel for `d` dimensions."""
    if d <= _FEW_DIMENSIONS:
        # Coordinates take d registers a query: half as many queries a thread from 5 dimensions on.
        return Kernel(d, depth=0, block_rows=512 if d <= 4 else 256, threads=128)
    depth = min(_DEPTHS, key=lambda depth: -(-d // depth) * depth)
    return Kernel(d, depth=depth, block_rows=128, threads=256)


def launch_rows(kernel: Kernel, n: int, n_labels: int) -> int:
    """Return how many queries a launch should take, a multiple of the block's."""
    rows = max(_FEWEST_ROWS, _PAIRS_PER_LAUNCH // n)
    # A coordinate is there in float64, and in float32 three times: as it came, transposed, shifted.
    rows = min(rows, _QUERY_BYTES // (20 * kernel.d))
    # One flag for every label and block of queries.
    blocks = min(rows // kernel.block_rows, _MOST_FLAGS // n_labels)
    return max(blocks, 1) * kernel.block_rows


def segments_of(starts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return all labels cut into segments, (n_segments, 3): label, first reference, references.

    Parameters
    ----------
    starts
        (n_labels + 1,) where each label begins.
    size
        References of a segment; the last one of a label has what is left.
    """
    counts = np.diff(starts)
    pieces = -(-counts // size)
    labels = np.repeat(np.arange(len(counts)), pieces)
    piece = np.arange(len(labels)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begins = starts[labels] + piece * size
    sizes = np.minimum(size, starts[labels + 1] - begins)
    return np.stack([labels, begins, sizes], axis=1).astype(np.int64)


def shards_of(segments: NDArray[np.int64], most: int) -> list[slice]:
    """Return runs of segments that hold at most `most` references each, but one segment at least."""
    shards: list[slice] = []
    first = held = 0
    for index, size in enumerate(segments[:, 2].tolist()):
        if index > first and held + size > most:
            shards.append(slice(first, index))
            first, held = index, 0
        held += size
    return [*shards, slice(first, len(segments))]


def group_labels(segments: NDArray[np.int64], n_groups: int) -> NDArray[np.int32]:
    """Return where each group begins, (groups + 1,), whole labels and about as many references each.

    There are at most `n_groups`; a label belongs to the group that its middle falls in.
    """
    label_first = np.flatnonzero(np.diff(segments[:, 0], prepend=-1))
    begins = segments[label_first, 1] - segments[0, 1]
    total = int(segments[:, 2].sum())
    middles = (begins + np.append(begins[1:], total)) // 2
    group = middles * n_groups // total
    firsts = np.flatnonzero(np.diff(group, prepend=-1))
    return np.append(label_first[firsts], len(segments)).astype(np.int32)

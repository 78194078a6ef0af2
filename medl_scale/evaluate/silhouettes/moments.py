"""Moments of sub-clusters and of whole labels, from which `subclusters` bounds distances."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.evaluate.silhouettes.subcluster_kernels import take_moments
from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["moments_of_parts"]

_FEW_CELLS = 3
"""So few cells spread as in one direction: their variance bounds the largest eigenvalue."""
_COVARIANCE_VALUES = 1 << 23
"""Values of covariance matrices held at a time."""
_CELLS = 16_384
"""Cells of one task of a thread, about."""


def moments_of_parts(
    clusters: Clusters,
    starts: NDArray[np.int64],
    assigned: NDArray[np.int32],
    sizes: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return means of parts, their moments, and those of whole labels.

    Parameters
    ----------
    clusters
        The cells.
    starts, assigned, sizes
        Where each label's parts begin, the part of each cell, and the cells of each part.

    Returns
    -------
    tuple
        `means`, `moments` and `label_moments` of `SubClusters`.
    """
    d, n_labels = clusters.d, clusters.n_labels
    cells = np.argsort(assigned, kind="stable")
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    means = np.empty((len(sizes), d))
    moments = np.empty((len(sizes), 5))
    moments[:, 0] = sizes / np.repeat(clusters.counts, np.diff(starts))
    label_moments = np.empty((n_labels, 5))
    label_moments[:, 0] = 1.0
    no_covariances = np.empty((0, d, d))
    label_means, as_sorted = np.empty((n_labels, d)), np.arange(clusters.n)
    _take(clusters, as_sorted, clusters.starts, label_means, label_moments, no_covariances)
    # Labels a stretch at a time, so that their covariances stay small beside the cells.
    most = max(1, _COVARIANCE_VALUES // (d * d))
    first = 0
    while first < n_labels:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + most, side="right")) - 1)
        part = slice(starts[first], starts[last])
        covariances = np.zeros((part.stop - part.start, d, d))
        own_ends = ends[part.start : part.stop + 1]
        _take(clusters, cells, own_ends, means[part], moments[part], covariances)
        moments[part, 3:] = _spread(covariances, moments[part, 1], sizes[part])
        centred = means[part, :, None] * means[part, None, :]
        covariances += centred
        covariances *= moments[part, 0, None, None]
        merged = np.add.reduceat(covariances, starts[first:last] - part.start, axis=0)
        label_moments[first:last, 3:] = _spread(
            merged, label_moments[first:last, 1], clusters.counts[first:last]
        )
        first = last
    return means.astype(np.float32), _rounded_up(moments), _rounded_up(label_moments)


def _take(
    clusters: Clusters,
    cells: NDArray[np.int64],
    ends: NDArray[np.int64],
    means: NDArray[np.float64],
    moments: NDArray[np.float64],
    covariances: NDArray[np.float64],
) -> None:
    """Fill means, second and third moments, and covariances where there is room for them."""

    def take(parts: slice) -> None:
        take_moments(
            clusters.offsets,
            cells,
            ends[parts.start : parts.stop + 1],
            means[parts],
            moments[parts],
            covariances[parts],
        )

    # Stretches of parts with like numbers of cells.
    cuts = np.searchsorted(ends, np.arange(ends[0], ends[-1], _CELLS))
    cuts = np.unique(np.append(cuts, len(means)))
    in_threads(take, [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)])


def _spread(
    covariances: NDArray[np.float64], traces: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return roots of the largest eigenvalues, and eigenvalues' means weighted by themselves."""
    largest = traces.copy()
    many = np.flatnonzero(sizes > _FEW_CELLS)
    if len(many):
        largest[many] = np.clip(np.linalg.eigvalsh(covariances[many])[:, -1], 0.0, traces[many])
    squares = np.einsum("tij,tij->t", covariances, covariances)
    weighted = np.divide(squares, traces, out=np.zeros(len(traces)), where=traces > 0)
    return np.stack([np.sqrt(largest), weighted], axis=1)


def _rounded_up(moments: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return moments as float32; what must not be underestimated is rounded up."""
    found = moments.astype(np.float32)
    found[:, 2:4] = np.nextafter(
        (moments[:, 2:4] * (1 + 1e-6)).astype(np.float32), np.float32(np.inf)
    )
    return found

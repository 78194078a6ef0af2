"""Calinski-Harabasz and Davies-Bouldin: how far apart the centres of labels are, beside their widths.

Two passes over the cells, in blocks whose sums are added: the first finds the centre of each label,
the second how far its cells lie from it. Sums are taken about one cell of each label, in float64, so
an offset of all cells costs no digits, and labels whose cells coincide have a width of exactly 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from medl_scale.evaluate.blocks import BlockMap, map_here, row_blocks
from medl_scale.evaluate.inputs import Labels, check_latent, check_n_labels, encode_labels
from medl_scale.evaluate.score import Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Moments",
    "calinski_harabasz",
    "davies_bouldin",
    "inverse_davies_bouldin",
    "measure_labels",
]

BLOCK_CELLS = 65_536
_UNIT = 2.0**-53
_LABELS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over cells of each label about a point of its own. Those of disjoint cells add up."""

    counts: NDArray[np.int64]
    """(n_labels,) cells."""
    sums: Floats
    """(n_labels, d) sum of the offsets."""
    lengths: Floats
    """(n_labels,) sum of the lengths of the offsets."""
    squares: Floats
    """(n_labels,) sum of their squares."""

    def merge(self, other: Moments) -> Moments:
        """Return the sums over the cells of both, which were taken about the same points."""
        return Moments(
            self.counts + other.counts,
            self.sums + other.sums,
            self.lengths + other.lengths,
            self.squares + other.squares,
        )


class LabelWidths(NamedTuple):
    """Where labels lie and how wide they are, in units of `scale`."""

    counts: NDArray[np.int64]
    """(n_labels,) cells."""
    centres: Floats
    """(n_labels, d) about the first cell of the first label."""
    lengths: Floats
    """(n_labels,) mean distance of the cells from their centre."""
    squares: Floats
    """(n_labels,) sum of the squares of these distances."""
    slack: Floats
    """(n_labels,) bound on the rounding of each centre, as a distance."""
    scale: float
    """A power of two: squares neither overflow nor vanish."""


def calinski_harabasz(
    latent: ArrayLike, labels: ArrayLike, *, map_blocks: BlockMap = map_here
) -> Score:
    """Return the variance between labels over that within them, each by its degrees of freedom.

    Parameters
    ----------
    latent
        (n, d) finite numbers.
    labels
        (n,) label of each cell.
    map_blocks
        Who sums the blocks; the figure does not depend on it.

    Returns
    -------
    Score
        Exact; at least 0, and 1 by convention where all cells lie on the centre of their label
        (as scikit-learn has it).

    Raises
    ------
    DataError
        If the latent is not a finite matrix, or cells have no label.
    ScoreUndefinedError
        If there is one label, or as many as cells.
    """
    started = time.perf_counter()
    widths = measure_labels(latent, labels, map_blocks=map_blocks)
    n, n_labels = int(widths.counts.sum()), len(widths.counts)
    share = widths.counts / n
    offsets = widths.centres - share @ widths.centres
    lengths = np.sqrt(np.einsum("kd,kd->k", offsets, offsets))
    between = float(np.sum(widths.counts * lengths**2))
    within = float(np.sum(widths.squares))
    value, relative = 1.0, 0.0
    if within > 0.0:
        value = (between / within) * ((n - n_labels) / (n_labels - 1))
        # A centre that is off moves the squares between labels; those within only to second order.
        off = widths.slack + share @ widths.slack
        moved = float(np.sum(widths.counts * (2.0 * lengths + off) * off))
        relative = _rounding(n, widths.centres.shape[1]) + (moved / between if between > 0 else 0.0)
    return _score(value, relative * value, "two passes", n, started)


def davies_bouldin(
    latent: ArrayLike, labels: ArrayLike, *, map_blocks: BlockMap = map_here
) -> Score:
    """Return the mean over labels of the largest (width + width) / distance to another label.

    0 is best. Parameters and errors are those of `calinski_harabasz`.

    Notes
    -----
    Labels whose centres coincide are passed over, and where all widths or all distances are 0 the
    value is 0, as in scikit-learn; but 0 means 0 here, not less than 1e-8.
    """
    started = time.perf_counter()
    widths = measure_labels(latent, labels, map_blocks=map_blocks)
    value, error = _davies_bouldin(widths)
    return _score(value, error, "two passes", int(widths.counts.sum()), started)


def inverse_davies_bouldin(
    latent: ArrayLike, labels: ArrayLike, *, map_blocks: BlockMap = map_here
) -> Score:
    """Return 1 / Davies-Bouldin, as the papers report it: higher is better.

    Infinite where Davies-Bouldin is 0. Parameters and errors are those of `calinski_harabasz`.
    """
    found = davies_bouldin(latent, labels, map_blocks=map_blocks)
    if found.value == 0.0:
        return replace(found, value=float("inf"), error=0.0)
    value = 1.0 / found.value
    error = value * found.error / max(found.value - found.error, _UNIT)
    return replace(found, value=value, error=error)


def measure_labels(
    latent: ArrayLike, labels: ArrayLike, *, map_blocks: BlockMap = map_here
) -> LabelWidths:
    """Return where labels lie and how wide they are, for figures made of that alone."""
    points = check_latent(latent)
    encoded = encode_labels(labels, len(points))
    check_n_labels(encoded)
    _, first_rows = np.unique(encoded.codes, return_index=True)
    anchors = np.asarray(points[first_rows], np.float64)
    scale = _scale_of(points, anchors[0])
    centres = np.zeros_like(anchors)
    first = _sum_blocks(points, encoded, (anchors, scale, centres), map_blocks)
    centres = first.sums / first.counts[:, None]
    second = _sum_blocks(points, encoded, (anchors, scale, centres), map_blocks)
    d = points.shape[1]
    slack = _rounding(len(points), d) * (first.lengths / first.counts)
    away = (anchors - anchors[0]) / scale
    slack += 2.0 * _UNIT * np.sqrt(d) * (np.abs(away) + np.abs(centres)).max(axis=1)
    return LabelWidths(
        first.counts,
        away + centres,
        second.lengths / second.counts,
        second.squares,
        slack,
        scale,
    )


def _sum_blocks(
    points: NDArray[Any], labels: Labels, about: tuple[Floats, float, Floats], map_blocks: BlockMap
) -> Moments:
    """Return the moments of all cells about points of their labels."""
    shared = (points, labels.codes, *about)
    found = iter(map_blocks(_moments_of_block, shared, row_blocks(len(points), BLOCK_CELLS)))
    total = next(found)
    for moments in found:
        total = total.merge(moments)
    return total


def _moments_of_block(
    shared: tuple[NDArray[Any], NDArray[np.int32], Floats, float, Floats], rows: slice
) -> Moments:
    """Return the moments of a block of cells."""
    points, codes, anchors, scale, centres = shared
    n_labels = len(anchors)
    counts, sums = np.zeros(n_labels, np.int64), np.zeros(anchors.shape)
    lengths, squares = np.zeros(n_labels), np.zeros(n_labels)
    _add_moments(points[rows], codes[rows], anchors, scale, centres, counts, sums, lengths, squares)
    return Moments(counts, sums, lengths, squares)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_moments(
    points: Any, codes: Any, anchors: Any, scale: Any, centres: Any, counts: Any, sums: Any,
    lengths: Any, squares: Any,
) -> None:  # fmt: skip
    """Add cells to the moments of their labels."""
    for i in range(codes.size):
        label = codes[i]
        square = 0.0
        for axis in range(points.shape[1]):
            # Halves first: the difference of two float64 near the largest one overflows.
            offset = 2.0 * ((points[i, axis] / 2.0 - anchors[label, axis] / 2.0) / scale)
            offset -= centres[label, axis]
            sums[label, axis] += offset
            square += offset * offset
        counts[label] += 1
        squares[label] += square
        lengths[label] += np.sqrt(square)


def _davies_bouldin(widths: LabelWidths) -> tuple[float, float]:
    """Return the index and a bound on its rounding."""
    worst, errors = np.zeros(len(widths.counts)), np.zeros(len(widths.counts))
    n, d = int(widths.counts.sum()), widths.centres.shape[1]
    # A width is off by its own rounding, and by at most as much as its centre.
    off = widths.slack + _rounding(n, d) * widths.lengths
    for rows in row_blocks(len(worst), _LABELS_AT_ONCE):
        square = np.zeros((rows.stop - rows.start, len(worst)))
        for axis in range(d):
            square += np.square(widths.centres[rows, None, axis] - widths.centres[None, :, axis])
        distances = np.sqrt(square)
        distances[distances == 0.0] = np.inf
        ratios = (widths.lengths[rows, None] + widths.lengths) / distances
        worst[rows] = ratios.max(axis=1)
        moved = (widths.slack[rows, None] + widths.slack) / distances + _rounding(1, d)
        grown = (off[rows, None] + off) / distances + ratios * moved
        # Centres closer than their rounding say nothing of how close they are.
        errors[rows] = (grown / np.maximum(1.0 - moved, _UNIT)).max(axis=1)
    return float(worst.mean()), float(errors.mean())


def _scale_of(points: NDArray[Any], origin: Floats) -> float:
    """Return a power of two at least as large as any offset from the origin."""
    largest = 0.0
    for rows in row_blocks(len(points), BLOCK_CELLS):
        largest = max(largest, float(np.abs(points[rows] / 2.0 - origin / 2.0).max()))
    return float(2.0 ** min(np.ceil(np.log2(largest)) + 1.0, 1023.0)) if largest > 0 else 1.0


def _rounding(n: int, d: int) -> float:
    """Return the largest relative rounding of a sum of n squared lengths in d dimensions."""
    terms = min(n, BLOCK_CELLS) + -(-n // BLOCK_CELLS) + d + 8
    return 2.0 * terms * _UNIT


def _score(value: float, error: float, method: str, n: int, started: float) -> Score:
    """Return an exact score."""
    return Score(
        value=value,
        kind="exact",
        error=error,
        method=method,
        n=n,
        seconds=time.perf_counter() - started,
    )

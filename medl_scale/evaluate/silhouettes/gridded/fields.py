"""Mean distance to the cells of a label at every node of a grid, and how far gathering it may err.

Cells are spread to the nodes around them by the weights that will gather the field again, and the
node masses are convolved with the distance by fast Fourier transforms. The bound of the interpolation
error is a convolution too: of cells counted by grid cell with `interpolation_bounds`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.fft

from medl_scale.evaluate.silhouettes.gridded.interpolation_bounds import LEBESGUE, error_bounds
from medl_scale.evaluate.silhouettes.gridded.spreading import spread_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["Fields", "label_fields", "transform_cost"]

# Error of a fast Fourier transform in the 2-norm: at most this times the unit roundoff for each
# doubling of its length (Higham 2002, Accuracy and Stability of Numerical Algorithms, theorem 24.2,
# has 7.2 for radix 2 with twiddle factors good to a unit; radix 3 to 11 do no worse per doubling).
_TRANSFORM_ROUNDING = 16.0
_ROUNDING_64, _ROUNDING_32 = 2.0**-53, 2.0**-24
# Gathering in float32: field, weight, 17 sums of products and of levels, all with Lagrange weights.
_GATHER_ROUNDING = 32.0 * _ROUNDING_32 * LEBESGUE**2


class Fields(NamedTuple):
    """Mean distances to some labels on one grid, in units of the scale."""

    values: NDArray[np.float32]
    """(n_selected, size, size) at the nodes."""
    bounds: NDArray[np.float32]
    """(n_selected, size, size) for positions in the grid cell that begins at a node: the gathered
    value is this close to the sum of distances to the cells that took part / n_label."""


def label_fields(
    clusters: Clusters,
    labels: NDArray[np.int64],
    grids: NDArray[np.float64],
    size: int,
    *,
    level: int,
    with_deeper: bool,
) -> Fields:
    """Return the fields of some labels on a grid of a stack.

    Parameters
    ----------
    clusters
        d = 2.
    labels
        Which labels; memory is 60 bytes or so per node and label.
    grids
        (n_levels, 3); see `spreading`.
    level, with_deeper
        Cells whose deepest grid is `level` take part, or that and all deeper ones.
    """
    shape = (len(labels), size, size)
    density, counted = np.zeros(shape), np.zeros(shape, np.int32)
    n_spread = spread_cells(
        clusters.offsets,
        clusters.starts,
        clusters.centres,
        labels,
        grids,
        size,
        level,
        with_deeper,
        density,
        counted,
    )
    values, bounds = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    present = np.flatnonzero(n_spread)
    if not len(present):
        return Fields(values, bounds)
    counts = clusters.counts[labels[present]]
    share = (n_spread[present] / counts)[:, None, None]
    if len(present) < len(labels):
        density, counted = density[present], counted[present]
    density /= counts[:, None, None]
    occupancy = np.divide(counted, counts[:, None, None], dtype=np.float32, casting="same_kind")
    spacing = 1.0 / grids[level, 2]
    near = _convolved(density, _distance_spectrum(size).values, size)
    worst = _convolved(occupancy, _bound_spectrum(size).values, size)
    # In units of a grid cell, beside what rounding of n additions to a node can do.
    node = _distance_spectrum(size).rounding * _norms(density)
    node += np.sqrt(2.0) * size * LEBESGUE**2 * share * (n_spread.max() + 8) * _ROUNDING_64
    slack = _bound_spectrum(size).rounding * _norms(occupancy)
    values[present] = near * spacing
    reach = np.maximum(near, 0.0) + 5.0 * share
    bounds[present] = spacing * (
        1.00001 * (np.maximum(worst, 0.0) + slack)
        + 1.00001 * (LEBESGUE**2 * node + _GATHER_ROUNDING * reach)
    )
    return Fields(values, bounds)


def transform_cost(size: int) -> float:
    """Return CPU seconds that the fields of one label on one grid take, or so."""
    n_nodes = 4.0 * size**2
    return 1e-9 * n_nodes * float(np.log2(n_nodes))


class _Spectrum(NamedTuple):
    """A kernel, even in both directions, as the transform of a grid padded to twice its size."""

    values: NDArray[np.floating]
    rounding: float
    """Bound on the error of a convolution at any node, relative to the 2-norm of what is convolved."""


@lru_cache(maxsize=8)
def _distance_spectrum(size: int) -> _Spectrum:
    """Return the spectrum of the distance between nodes."""
    ticks = np.arange(size + 1.0)
    return _spectrum(np.hypot(ticks[:, None], ticks), np.float64)


@lru_cache(maxsize=8)
def _bound_spectrum(size: int) -> _Spectrum:
    """Return the spectrum of the largest interpolation error between grid cells."""
    # Bounds need three digits, which float32 gives at half the time.
    return _spectrum(error_bounds(size + 1), np.float32)


def _spectrum(quadrant: NDArray[np.float64], dtype: type[np.floating]) -> _Spectrum:
    """Return the spectrum of a kernel given at offsets 0 ... size in both directions."""
    size = len(quadrant) - 1
    fold = np.minimum(np.arange(2 * size), 2 * size - np.arange(2 * size))
    kernel = quadrant[np.ix_(fold, fold)]
    unit = _ROUNDING_64 if dtype == np.float64 else _ROUNDING_32
    # To the error of a convolution: both transforms scale with the largest value of the spectrum,
    # at most the kernel's sum; the spectrum's own error with the 2-norm of the kernel; the product.
    doublings = 2.0 * np.ceil(np.log2(2.0 * size))
    total, norm = float(np.abs(kernel).sum()), float(np.sqrt((kernel**2).sum()))
    relative = _TRANSFORM_ROUNDING * doublings * unit
    rounding = relative * (2.0 * total + 2.0 * size * norm) + 4.0 * unit * total
    values = scipy.fft.rfft2(kernel).real.astype(dtype)
    return _Spectrum(values, 1.01 * rounding)


def _convolved(
    masses: NDArray[np.floating], spectrum: NDArray[np.floating], size: int
) -> NDArray[np.floating]:
    """Return masses, (m, size, size), convolved with a kernel, at the same nodes."""
    # Rows of padding are never transformed along themselves, nor back.
    rows = scipy.fft.rfft(masses, 2 * size, axis=2)
    found = scipy.fft.fft(rows, 2 * size, axis=1)
    found *= spectrum
    found = scipy.fft.ifft(found, axis=1, overwrite_x=True)[:, :size]
    back: NDArray[np.floating] = scipy.fft.irfft(found, 2 * size, axis=2)
    return back[:, :, :size]


def _norms(masses: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the 2-norm of the masses of each label, (m, 1, 1)."""
    flat = masses.reshape(len(masses), -1)
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", flat, flat, dtype=np.float64))
    return norms[:, None, None]

"""What approximate neighbours can do to a share or a median, judged by cells whose exact ones are known.

A figure of all cells is computed from approximate neighbours. On a random sample both it and the
exact figure are known for each cell, so the share of all cells that lie on the wrong side of a bar is
bounded from the share that do so in the sample (Clopper and Pearson 1934).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["CONFIDENCE", "median_error", "share_error"]

CONFIDENCE = 0.99
_N_BARS = 400


def share_error(nearly: NDArray[np.bool_], exactly: NDArray[np.bool_]) -> float:
    """Return how far a share of all cells may be off.

    Parameters
    ----------
    nearly, exactly
        (m,) for each sampled cell, whether it counts by its approximate and by its exact neighbours.

    Returns
    -------
    float
        The exact share lies within it of the approximate one with probability 0.99 at least.
    """
    missed = _at_most(int(np.sum(exactly & ~nearly)), len(nearly))
    added = _at_most(int(np.sum(nearly & ~exactly)), len(nearly))
    return max(missed, added)


def median_error(values: Floats, nearly: Floats, exactly: Floats) -> float:
    """Return how far the median of all cells may be off.

    Parameters
    ----------
    values
        (n,) values of all cells by approximate neighbours.
    nearly, exactly
        (m,) of each sampled cell by its approximate and by its exact neighbours.

    Returns
    -------
    float
        The exact median lies within it of the approximate one with probability 0.99 at least.

    Notes
    -----
    A bar above which the exact median lies has less than half of the exact values below it, so less
    than half, plus the share of cells that fall below it only approximately, of the values here.
    Each bar for which the bound on that share allows this is kept; the test needs to hold only at
    the exact median itself, so trying many bars costs no confidence.
    """
    middle = float(np.median(values))
    above = _farthest(values, nearly, exactly)
    below = -_farthest(-values, -nearly, -exactly)
    return max(above - middle, middle - below, 0.0)


def _farthest(values: Floats, nearly: Floats, exactly: Floats) -> float:
    """Return the highest value that the exact median may have."""
    ordered = np.sort(values)
    places = np.linspace((len(values) - 1) // 2, len(values) - 1, _N_BARS).astype(np.int64)
    highest = float(ordered[-1]) if len(values) else 0.0
    for place in places:
        bar = ordered[place]
        below = np.searchsorted(ordered, bar, side="right") / len(values)
        crossing = _at_most(int(np.sum((nearly <= bar) & (exactly > bar))), len(nearly))
        if below - crossing >= 0.5:
            return float(bar)
    return highest


def _at_most(n_seen: int, n_sampled: int) -> float:
    """Return the largest share of all cells that is not refuted by what the sample shows."""
    from scipy.stats import beta

    if n_seen >= n_sampled:
        return 1.0
    return float(beta.ppf(1.0 - (1.0 - CONFIDENCE) / 2.0, n_seen + 1, n_sampled - n_seen))

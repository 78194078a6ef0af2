"""Stratified sampling of residuals whose size is bounded beforehand: strata, intervals, sample sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Design", "cut_by_bound"]

LEAST_DRAWS = 32
"""Draws of a stratum, if it has so many cells: fewer say little of its spread."""
_ONE_IN = 16.0
"""Residuals at their bound are provided for in the sizes of samples as if one in 16^2 were so."""


@dataclass(frozen=True, eq=False)
class Design:
    """What is known of the residuals of every stratum. All arrays are (n_strata,)."""

    sizes: NDArray[np.float64]
    """Cells."""
    weights: NDArray[np.float64]
    """Their share in the mean."""
    spreads: NDArray[np.float64]
    """Standard deviations of residuals, as sampled."""
    reaches: NDArray[np.float64]
    """Root mean square of the residuals' proven bounds."""

    def half_width(
        self, draws: NDArray[np.integer[Any] | np.floating[Any]], confidence: float
    ) -> float:
        """Return the half-width of the interval around the mean residual.

        Parameters
        ----------
        draws
            Cells drawn of every stratum without replacement.
        confidence
            Level, such as 0.99.

        Notes
        -----
        Student's t with Satterthwaite's degrees of freedom. A sample in which residuals hardly
        differ may have missed rare large ones, so that one more draw, with a residual at its
        bound, is reckoned into the variance of each stratum.
        """
        drawn = np.maximum(draws, 1.0)
        missing = 1.0 - np.minimum(drawn / np.maximum(self.sizes, 1.0), 1.0)
        variance = (self.spreads**2 + self.reaches**2 / drawn) / drawn
        parts = self.weights**2 * variance * missing
        total = float(parts.sum())
        if total == 0.0:
            return 0.0
        # Shares, since the squares of tiny variances are zero.
        freedom = 1.0 / float(np.sum((parts / total) ** 2 / np.maximum(drawn - 1.0, 1.0)))
        return float(stats.t.ppf((1.0 + confidence) / 2.0, freedom)) * math.sqrt(total)

    def draws_for(self, half_width: float, confidence: float) -> NDArray[np.int64]:
        """Return the least draws, (n_strata,), that promise a half-width; all cells if need be."""
        return self._least(lambda draws: self.half_width(draws, confidence) <= half_width)

    def draws_within(self, n_draws: int) -> NDArray[np.int64]:
        """Return how to share out `n_draws` draws among the strata."""
        return self._least(lambda draws: float(draws.sum()) >= n_draws)

    def _least(self, is_enough: Callable[[NDArray[np.float64]], bool]) -> NDArray[np.int64]:
        """Return the first of growing samples that is enough, or all cells."""
        noise = self.weights * np.hypot(self.spreads, self.reaches / _ONE_IN)
        if not noise.any():
            noise = self.weights
        # A stratum without noise comes last, but it comes.
        noise = np.maximum(noise / noise.max(), 1e-9)

        def draws(factor: float) -> NDArray[np.float64]:
            wanted = np.maximum(np.ceil(factor * noise), LEAST_DRAWS)
            return np.minimum(wanted, self.sizes)

        low, high = 1.0, float(self.sizes.max() / noise.min())
        if is_enough(draws(low)):
            return draws(low).astype(np.int64)
        for _ in range(60):
            middle = math.sqrt(low) * math.sqrt(high)
            if is_enough(draws(middle)):
                high = middle
            else:
                low = middle
        return draws(high).astype(np.int64)


def cut_by_bound(bounds: NDArray[np.float32], n_strata: int) -> list[NDArray[np.int64]]:
    """Return the cells of each stratum: like bounds together, equal sums of them in each.

    Cells of bound 0 are in none. The widest bounds then make a small stratum that is sampled densely.

    Parameters
    ----------
    bounds
        (n,) largest possible residual of each cell.
    n_strata
        Most strata.
    """
    order = np.argsort(bounds, kind="stable")
    order = order[np.searchsorted(bounds[order], 0.0, side="right") :]
    if not len(order):
        return []
    total = np.cumsum(bounds[order], dtype=np.float64)
    cuts = np.searchsorted(total, total[-1] * np.arange(1, n_strata) / n_strata, side="right")
    return [part for part in np.split(order, cuts) if len(part)]

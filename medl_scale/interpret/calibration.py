"""How much wider than the posterior says intervals must be to hold as often as they promise.

The posterior of the random effects tells how unsure the effects are, not how wrong the decoder is, and
independent normals leave out what effects share. So intervals by its draws are too narrow. Held-out
cells show by how much: a batch's own cells of a type say what cells of the type moved there should look
like, up to the sampling noise of a mean, which is known.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    type Doubles = NDArray[np.float64]

__all__ = [
    "LEVELS",
    "Calibration",
    "IntervalKind",
    "OwnIntervals",
    "Residuals",
    "calibrate",
    "coverage",
]

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Levels that are calibrated; between them factors are interpolated."""
LEAST_GROUPS = 4
"""Types in target batches that must have been measured: fewer say little."""

IntervalKind = Literal["projection", "difference"]
"""An interval of expression under a batch, or of what changes from the own batch."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """Held-out means of groups of cells, and what a model says of them before they are seen."""

    error: Doubles
    """(n_pairs, n_vars) predicted mean less the measured one."""
    posterior_sd: NDArray[np.floating]
    """(n_pairs, n_vars) s.d. of the prediction by posterior draws, as a cell's interval has it."""
    noise_variance: Doubles
    """(n_pairs, n_vars) squared standard error of what was measured."""


@dataclass(frozen=True)
class Calibration:
    """Factors by which intervals are widened, learnt from cells that were not trained on."""

    model: str
    fold: int
    split: str
    """Cells it was learnt from."""
    n_pairs: int
    """Moves of a type from one batch to another."""
    n_groups: int
    """Types in target batches that they were compared with."""
    projection: tuple[float, ...]
    """A factor for each of `LEVELS`, for intervals of expression under a batch."""
    difference: tuple[float, ...]
    """The same for intervals of what changes from the own batch."""

    def factor(self, level: float, kind: IntervalKind = "projection") -> float:
        """Return by how much the model's own interval is widened, >= 1."""
        factors = self.projection if kind == "projection" else self.difference
        return float(np.interp(level, LEVELS, factors))

    def words(self, level: float, kind: IntervalKind = "projection") -> str:
        """Say what the intervals are."""
        return (
            f"calibrated on {self.n_pairs:,} moves of {self.n_groups:,} types in batches by {self.split} "
            f"cells: {self.factor(level, kind):.2f} times as wide as the posterior says; for the mean of "
            "a type's cells, where the type was seen in the target batch"
        )

    def write(self, path: Path) -> None:
        """Write a JSON file."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Return what `write` wrote."""
        found = json.loads(path.read_text())
        for kind in ("projection", "difference"):
            found[kind] = tuple(found[kind])
        return cls(**found)


@dataclass(frozen=True)
class OwnIntervals:
    """Intervals as the posterior has them, in the place of a `Calibration`."""

    why: str = "asked for"
    """Why they are not calibrated."""

    def factor(self, level: float, kind: IntervalKind = "projection") -> float:
        """Return 1: nothing is widened."""
        return 1.0

    def words(self, level: float, kind: IntervalKind = "projection") -> str:
        """Say what the intervals are."""
        return (
            "the model's own, of what it would give if it knew the batch's effects; held-out cells lie "
            f"outside more often than the level says ({self.why})"
        )


def calibrate(residuals: Residuals) -> tuple[float, ...]:
    """Return the factor for each of `LEVELS`.

    Notes
    -----
    A held-out mean deviates by the error of the prediction, whose s.d. is taken as s times that of the
    posterior, and by sampling noise. The factor s of a level is the least by which so large a share of
    the deviations, over pairs and genes, stays within z * sqrt((s * posterior sd)^2 + noise variance),
    z being the level's two-sided normal quantile: a quantile of observed errors, as in conformal
    prediction, with the noise of the measured mean taken out. It is never less than 1.
    """
    factors = []
    for level in LEVELS:
        z = _quantile(level)
        beyond_noise = np.square(residuals.error / z) - residuals.noise_variance
        needed = np.sqrt(np.maximum(beyond_noise, 0.0)) / residuals.posterior_sd
        factors.append(max(1.0, float(np.quantile(needed, level))))
    # A wider level never has the narrower interval.
    reach = np.maximum.accumulate([f * _quantile(v) for f, v in zip(factors, LEVELS, strict=True)])
    return tuple(float(r / _quantile(v)) for r, v in zip(reach, LEVELS, strict=True))


def coverage(residuals: Residuals, level: float, factor: float = 1.0) -> float:
    """Return the share of intervals, widened by a factor, that hold, sampling noise counted in."""
    variance = np.square(factor * residuals.posterior_sd) + residuals.noise_variance
    return float(np.mean(np.abs(residuals.error) <= _quantile(level) * np.sqrt(variance)))


def _quantile(level: float) -> float:
    """Return how many s.d. a normal interval of a level reaches."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))

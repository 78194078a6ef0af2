"""The posterior of the random effects: independent normals per layer, batch and unit.

A layer of width w has one table of shape (2, n_batches, w): index 0 holds the scales, 1 the shifts.
Each weight has a location and an untransformed s.d., with s.d. = 1e-5 + softplus(untransformed).
The prior of every weight is N(0, prior_scale^2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.models.operations import operations_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Tensor = Any

__all__ = [
    "PRIOR_SCALE",
    "SCALE_FLOOR",
    "EffectTable",
    "gather_effects",
    "initial_table",
    "posterior_scale",
    "row_kl",
    "softplus_inverse",
    "table_kl",
]

PRIOR_SCALE = 0.25
"""s.d. of the prior of every scale and shift, as published."""
SCALE_FLOOR = 1e-5
"""Smallest posterior s.d., as published."""
INITIAL_SCALES = (0.010, 0.015)
"""Range of the first posterior s.d., in natural units: what the papers intend."""


@dataclass(frozen=True)
class EffectTable:
    """Posterior of one layer's random effects."""

    loc: NDArray[np.float32]
    """(2, n_batches, width)."""
    untransformed: NDArray[np.float32]
    """(2, n_batches, width), before the softplus."""

    @property
    def scale(self) -> NDArray[np.float32]:
        """(2, n_batches, width) posterior s.d."""
        return self.scale_of(slice(None))

    def scale_of(self, batches: int | slice) -> NDArray[np.float32]:
        """Return the posterior s.d. of a batch, (2, width), or of several, (2, n, width)."""
        softplus = np.logaddexp(0.0, self.untransformed[:, batches].astype(np.float64))
        return (SCALE_FLOOR + softplus).astype(np.float32)


def initial_table(
    rng: np.random.Generator,
    n_batches: int,
    width: int,
    *,
    loc_sd: float,
    published_scales: bool = False,
    shift: NDArray[np.float32] | None = None,
) -> EffectTable:
    """Return the first posterior of one layer.

    Parameters
    ----------
    loc_sd
        s.d. of the first locations.
    published_scales
        Start the s.d. where the papers' code does: it applies the inverse softplus to the *width*
        of the range too, so that the s.d. lies between 6e-5 and 0.010 rather than in
        [0.010, 0.015].
    shift
        (n_batches, width) first locations of the shifts; scales then start at 0.
    """
    size = (2, n_batches, width)
    loc = rng.normal(0.0, loc_sd, size) if loc_sd > 0 else np.zeros(size)
    if shift is not None:
        loc[0], loc[1] = 0.0, shift
    low, high = INITIAL_SCALES
    if published_scales:
        start, untransformed_range = softplus_inverse(low), softplus_inverse(high - low)
        untransformed = start + untransformed_range * rng.random(size)
    else:
        untransformed = softplus_inverse(rng.uniform(low, high, size))
    return EffectTable(loc.astype(np.float32), np.asarray(untransformed, np.float32))


def softplus_inverse(value: Any) -> Any:
    """Return u with softplus(u) = value, for value > 0."""
    return np.log(np.expm1(value))


def posterior_scale(untransformed: Tensor) -> Tensor:
    """Return the s.d. of untransformed values, any shape."""
    from keras import ops

    return SCALE_FLOOR + ops.softplus(untransformed)


def row_kl(loc: Tensor, scale: Tensor, prior_scale: float = PRIOR_SCALE) -> Tensor:
    """Return KL(N(loc, scale^2) || N(0, prior_scale^2)) of each weight, in nats; any shape.

    Notes
    -----
    Closed form. The published code takes one Monte-Carlo draw of the same quantity.
    """
    from keras import ops

    ratio = scale / prior_scale
    return 0.5 * (ops.square(ratio) + ops.square(loc / prior_scale) - 1.0) - ops.log(ratio)


def table_kl(table: EffectTable, prior_scale: float = PRIOR_SCALE) -> float:
    """Return the KL of a whole table, summed over its weights, in float64 nats."""
    loc, scale = table.loc.astype(np.float64), table.scale.astype(np.float64)
    ratio = scale / prior_scale
    return float(np.sum(0.5 * (ratio**2 + (loc / prior_scale) ** 2 - 1.0) - np.log(ratio)))


def gather_effects(
    tables: Mapping[str, Tensor], batch_codes: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each cell's (scale, shift), (m, width) each, from (2, n_batches, width) tables.

    No one-hot matrix is formed: rows are taken by integer code.
    """
    ops = operations_for(tables.values())
    return {
        layer: (ops.take(table[0], batch_codes, axis=0), ops.take(table[1], batch_codes, axis=0))
        for layer, table in tables.items()
    }

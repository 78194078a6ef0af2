"""How far random effects of the output move cells, about the average batch, and how sure that is.

The posterior is of independent normals, and moves are linear in them: their intervals are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaincinv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.interpret.effects import OutputEffects

    Doubles = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["Moves", "between_shares", "moves_of"]


@dataclass(frozen=True, eq=False)
class Moves:
    """How batches move some genes' cells, about the average batch; (n_batches, m) float64 each."""

    move: Doubles
    """Of the average cell."""
    move_sd: Doubles
    stretch: Doubles
    """Scale times the s.d. over cells of what it multiplies."""
    stretch_sd: Doubles
    variance: tuple[Doubles, Doubles, Doubles]
    """Posterior variance of move and of stretch, and their covariance, before centring."""
    weights: Doubles
    """(n_batches, 1) share of the train cells."""


def moves_of(effects: OutputEffects, block: Integers) -> Moves:
    """Return the moves of the genes at `block`."""
    weights = (effects.batch_n / effects.batch_n.sum())[:, None]
    cell_mean, cell_sd = effects.cell_mean[block], effects.cell_sd[block]
    scale = effects.scale[:, block].astype(np.float64)
    scale_variance = np.square(effects.scale_sd[:, block], dtype=np.float64)
    shift_variance = np.square(effects.shift_sd[:, block], dtype=np.float64)
    move = effects.shift[:, block] + cell_mean * scale
    stretch = cell_sd * scale
    of_move = shift_variance + np.square(cell_mean) * scale_variance
    of_stretch = np.square(cell_sd) * scale_variance
    both = cell_mean * cell_sd * scale_variance
    return Moves(
        move=move - np.sum(weights * move, axis=0),
        move_sd=_centred_sd(of_move, weights),
        stretch=stretch - np.sum(weights * stretch, axis=0),
        stretch_sd=_centred_sd(of_stretch, weights),
        variance=(of_move, of_stretch, both),
        weights=weights,
    )


def between_shares(e: Moves, within: Doubles, level: float) -> tuple[Doubles, Doubles, Doubles]:
    """Return the share of variance between batches and its interval, (m,) each.

    Parameters
    ----------
    e
        Moves of m genes.
    within
        (m,) variance of these genes within batches, in squared s.d. of the gene.
    level
        Probability of the interval.
    """
    w = e.weights
    of_move, of_stretch, both = e.variance
    mean = np.sum(
        w * (np.square(e.move) + np.square(e.stretch))
        + w * (1.0 - w) * (of_move + of_stretch),
        axis=0,
    )  # fmt: skip
    variance = (
        _covariance(e.move, e.move, of_move, w)
        + _covariance(e.stretch, e.stretch, of_stretch, w)
        + 2.0 * _covariance(e.move, e.stretch, both, w)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        shape = np.square(mean) / variance
        tails = [0.5 * (1.0 - level), 0.5 * (1.0 + level)]
        low, high = (
            np.where(variance > 0, gammaincinv(shape, tail) * variance / mean, mean)
            for tail in tails
        )
        shares = tuple(np.where(within > 0, v / (v + within), np.nan) for v in (mean, low, high))
    return shares[0], shares[1], shares[2]


def _covariance(x: Doubles, y: Doubles, c: Doubles, w: Doubles) -> Doubles:
    """Return the covariance of sum_b w_b X_b^2 and sum_b w_b Y_b^2, X and Y centred normals.

    x and y are their centred means and c the covariances of the uncentred ones; (n_batches, m) each.
    From cov(X'AX, Y'AY) = 2 tr(ACAC) + 4 x'ACAy with A = diag(w) - ww'.
    """
    square = np.square(w)
    traced = np.sum(square * np.square(c) * (1.0 - 2.0 * w), axis=0)
    traced += np.square(np.sum(square * c, axis=0))
    found: Doubles = 2.0 * traced + 4.0 * np.sum(square * c * x * y, axis=0)
    return found


def _centred_sd(variance: Doubles, weights: Doubles) -> Doubles:
    """Return the s.d. of x_b - sum_j w_j x_j for independent x_b of given variances."""
    common = np.sum(np.square(weights) * variance, axis=0)
    return np.sqrt(np.maximum((1.0 - 2.0 * weights) * variance + common, 0.0))

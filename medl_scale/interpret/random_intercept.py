"""Mixed models of many features at once: a group's effect, with a random intercept for each donor.

A cell j of donor i in group k says y = mu_k + u_i + e_ij, with u ~ N(0, theta * s2), e ~ N(0, s2). All that
REML needs of the cells are each donor's mean and the squares about it, so that a feature costs as many
operations as there are donors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

__all__ = ["InterceptFit", "fit_random_intercept"]

_GRID_POINTS = 48
_LEAST_RATIO = 1e-5
"""Over the most cells of a donor: the likelihood does not feel less."""
_RIGID_RATIO = 1e6
"""From this ratio of donor to cell variance on, cells of a donor count as one."""
_HALVINGS = 40


class InterceptFit(NamedTuple):
    """REML fits, (n_features,) each; NaN for a feature that does not vary."""

    estimate: Doubles
    """Mean of the second group minus that of the first."""
    se: Doubles
    lower: Doubles
    upper: Doubles
    p: Doubles
    """Two-sided, by Student's t with `df` degrees of freedom."""
    df: Doubles
    """Satterthwaite's, n_donors - 2 at most."""
    donor_variance: Doubles
    cell_variance: Doubles


@dataclass(frozen=True, eq=False)
class _Profile:
    """The restricted likelihood as a function of theta, (n_features,) at once."""

    n: Doubles
    """(n_donors, 1) cells."""
    mean: Doubles
    """(n_donors, n_features)."""
    squares: Doubles
    """(n_features,) within donors."""
    second: NDArray[np.bool_]
    """(n_donors,)."""
    df: float
    """Residual degrees of freedom."""

    def at(self, theta: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """Return -2 log-likelihood (but for a constant), its slope, s2 and the groups' means."""
        weight = self.n / (1.0 + self.n * theta)
        deviance = np.log1p(self.n * theta).sum(axis=0)
        slope = weight.sum(axis=0)
        residual, moving = self.squares.copy(), np.zeros_like(self.squares)
        centres = []
        for group in (~self.second, self.second):
            w, mean = weight[group], self.mean[group]
            total = w.sum(axis=0)
            centre = (w * mean).sum(axis=0) / total
            off = np.square(w * (mean - centre))
            residual += (off / w).sum(axis=0)
            moving += off.sum(axis=0)
            deviance += np.log(total)
            slope -= np.square(w).sum(axis=0) / total
            centres.append((centre, 1.0 / total))
        deviance += self.df * np.log(residual)
        slope -= self.df * moving / residual
        return deviance, slope, residual / self.df, np.asarray(centres)

    def freedom(self, theta: Doubles) -> Doubles:
        """Return Satterthwaite's degrees of freedom of the groups' difference.

        2 C^2 / (g' I^-1 g): C its variance, g the gradient of C by the variances of donors and cells,
        I their expected information under REML. In units of s2, on which it does not depend.
        """
        # Variance of a donor's mean times its cells, and what it is made of.
        variance = 1.0 + self.n * theta
        parts = (self.n, np.ones_like(self.n))
        within_df = self.df - len(self.n) + 2.0
        information = np.zeros((2, 2, theta.size))
        information[1, 1] = within_df
        contrast, gradient = np.zeros(theta.size), np.zeros((2, theta.size))
        for group in (~self.second, self.second):
            v = variance[group]
            ds = [part[group] for part in parts]
            known = (ds[0] / v).sum(axis=0)
            share = ds[0] / np.square(v)
            sums = [(d * share).sum(axis=0) for d in ds]
            contrast += 1.0 / known
            for a, b in ((0, 0), (0, 1), (1, 1)):
                both = ds[a] * ds[b] / np.square(v)
                information[a, b] += (both * (1.0 - 2.0 * ds[0] / (v * known))).sum(axis=0)
                information[a, b] += sums[a] * sums[b] / np.square(known)
            for a in (0, 1):
                gradient[a] += sums[a] / np.square(known)
        (tt, te), (_, ee) = 0.5 * information
        g, h = gradient
        spread = (g**2 * ee - 2.0 * g * h * te + h**2 * tt) / (tt * ee - te**2)
        found: Doubles = 2.0 * np.square(contrast) / spread
        return found


def fit_random_intercept(
    n: NDArray[np.int64],
    mean: Doubles,
    squares: Doubles,
    second: NDArray[np.bool_],
    *,
    within_df: int,
    level: float = 0.95,
) -> InterceptFit:
    """Fit every feature.

    Parameters
    ----------
    n
        (n_donors,) cells, >= 1.
    mean
        (n_donors, n_features) each donor's mean.
    squares
        (n_features,) sum of squares within donors.
    second
        (n_donors,) whether a donor belongs to the second group; each has one at least, and there are
        three donors at least.
    within_df
        Degrees of freedom of `squares`: cells minus donors, fewer where more was subtracted.
    level
        Probability of the confidence interval.

    Notes
    -----
    The s.e. is that of generalised least squares at the REML ratio of variances. The test has
    Satterthwaite's degrees of freedom, but never more than n_donors - 2, since the group varies between
    donors only. With equally many cells a donor, and a ratio above 0, these are n_donors - 2 and p is
    exact. The published analysis takes the normal quantile, which calls too much significant when
    donors are few.

    Where cells of a donor do not vary, or each donor has one cell, this is the t-test of the donors'
    means.
    """
    n_donors, n_features = mean.shape
    apart = np.zeros(n_features)
    for group in (~second, second):
        apart += np.square(mean[group] - mean[group].mean(axis=0)).sum(axis=0)
    # What rounding leaves of the squares of a constant is no variance.
    rounding = np.square(np.abs(mean).max(axis=0)) * 1e-24
    varies = (apart > rounding * n_donors) | (squares > rounding * n.sum())
    between, within = apart / (n_donors - 2), squares / max(within_df, 1)
    rigid = varies & (between >= _RIGID_RATIO * within)
    found = InterceptFit(*np.full((len(InterceptFit._fields), n_features), np.nan))
    columns = np.flatnonzero(varies & ~rigid)
    if len(columns):
        unit = np.sqrt(within[columns] + between[columns])
        profile = _Profile(
            n=n[:, None].astype(np.float64),
            mean=mean[:, columns] / unit,
            squares=squares[columns] / unit**2,
            second=second,
            df=float(within_df + n_donors - 2),
        )
        theta = _best_ratio(profile)
        _, _, variance, centres = profile.at(theta)
        found.estimate[columns] = (centres[1, 0] - centres[0, 0]) * unit
        found.se[columns] = np.sqrt(variance * (centres[0, 1] + centres[1, 1])) * unit
        found.cell_variance[columns] = variance * unit**2
        found.donor_variance[columns] = theta * variance * unit**2
        found.df[columns] = np.clip(profile.freedom(theta), 1.0, n_donors - 2)
    columns = np.flatnonzero(rigid)
    share = 1.0 / np.count_nonzero(second) + 1.0 / np.count_nonzero(~second)
    found.estimate[columns] = (mean[second].mean(axis=0) - mean[~second].mean(axis=0))[columns]
    found.se[columns] = np.sqrt(between[columns] * share)
    found.cell_variance[columns] = within[columns]
    found.donor_variance[columns] = between[columns]
    found.df[columns] = n_donors - 2
    found.p[:] = 2.0 * stdtr(found.df, -np.abs(found.estimate / found.se))
    half = stdtrit(found.df, 0.5 * (1.0 + level)) * found.se
    found.lower[:], found.upper[:] = found.estimate - half, found.estimate + half
    return found


def _best_ratio(profile: _Profile) -> Doubles:
    """Return (n_features,) ratios of donor to cell variance of greatest likelihood.

    The best point of a grid first, since the likelihood can have two maxima; then the root of its
    slope between the neighbours of this point.
    """
    n_features = profile.mean.shape[1]
    least = _LEAST_RATIO / float(profile.n.max())
    grid = np.append(0.0, np.geomspace(least, 10.0 * _RIGID_RATIO, _GRID_POINTS))
    deviances = np.stack([profile.at(np.full(n_features, ratio))[0] for ratio in grid])
    best = np.argmin(deviances, axis=0)
    low = grid[np.maximum(best - 1, 0)]
    high = grid[np.minimum(best + 1, len(grid) - 1)]
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        rises = profile.at(middle)[1] > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    # At the edge of the grid 0 itself may be best.
    at_zero = (best <= 1) & (profile.at(np.zeros(n_features))[1] >= 0)
    return np.where(at_zero, 0.0, 0.5 * (low + high))

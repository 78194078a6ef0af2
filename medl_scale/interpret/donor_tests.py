"""Tests of many features between two groups of donors, as one table.

Takes donors' moments, so that it serves cells in memory, streams of them and sketches alike.
"""

from __future__ import annotations

import warnings
from math import comb
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import gammaln
from scipy.stats import false_discovery_control

from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret.random_intercept import fit_random_intercept
from medl_scale.interpret.rank_test import EXACT_UP_TO, rank_test

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from medl_scale.interpret.donors import DonorMoments

    Doubles = NDArray[np.float64]

__all__ = ["LEAST_DONORS", "adjusted", "compare_donors"]

LEAST_DONORS = 2
"""Donors that a group must have: fewer say nothing of how donors differ."""
USUAL_LEVEL = 0.05
_CONSTANT = "the same in all donors"
_SEPARATED = "does not vary within the groups"


def compare_donors(
    moments: DonorMoments,
    donors: Sequence[str],
    group_of: Mapping[str, str],
    *,
    between: tuple[str, str],
    features: Sequence[str],
    subtracted: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Test every feature for a difference between two groups of donors, given each donor's moments.

    Parameters
    ----------
    moments
        Of the cells, streamed and merged, or from a sketch.
    donors
        (n_donors,) names, in the moments' order.
    group_of
        Group of each donor; donors of other groups, or without cells, are left out.
    between
        (first, second) group; differences are second minus first.
    features
        (n_features,) names.
    subtracted
        Degrees of freedom that were taken out of the cells beside the donors' means.
    level
        Probability of the mixed model's confidence intervals.

    Returns
    -------
    DataFrame
        One row per feature: `feature`; the groups' names `first` and `second` with `n_first`, `n_second`
        (donors), `mean_first`, `mean_second` (of the donors' means) and `n_cells`; `difference`
        of these means, `hedges_g` (difference over the donors' pooled s.d., corrected for small
        numbers) and `probability` (that a donor of the second group lies above one of the first);
        `p_ranks`, `q_ranks` and `least_p_ranks` of the Mann-Whitney test; `estimate`, `se`, `df`, `lower`,
        `upper`, `p_mixed`, `q_mixed` of the mixed model, and `donor_share`, the share of variance
        within groups that lies between donors; `reason` where a figure is NaN, else empty.

    Raises
    ------
    DataError
        If a group has fewer than 2 donors.

    Warns
    -----
    UserWarning
        If there are so few donors that no rank test can give p <= 0.05.

    Notes
    -----
    Mann-Whitney on the donors' means, each donor counting once: the p of all divisions of the donors
    (mid-ranks for ties), beyond 60 donors the normal approximation. With n and m donors the smallest
    possible p is 2 / C(n + m, n), more with ties; `least_p_ranks` holds it. The mixed model has a random
    intercept per donor over the cells, by REML, and Student's t with Satterthwaite's degrees of freedom,
    n + m - 2 at most. In simulated nulls, with cells a donor from equal to very unequal, the mixed model
    gives p < 0.05 in some 5 % of features, and in far fewer where donors hardly differ and their cells
    are very unequal. There the rank test does so in up to 8 % if one group's donors have many more
    cells, since their means scatter less; else in 5 %.
    q is p adjusted over the features (Benjamini-Hochberg); features that cannot be tested do not count.

    References
    ----------
    Benjamini and Hochberg (1995), J. R. Stat. Soc. B 57, 289-300. Squair et al. (2021), Nature
    Communications 12, 5692: tests that take cells for replicates call noise significant.
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level must lie between 0 and 1, such as 0.95; got {level!r}.")
    groups = np.array([group_of.get(name, "") for name in donors], dtype=object)
    kept = np.isin(groups, between) & (moments.n > 0)
    second = groups[kept] == between[1]
    counts = int(np.count_nonzero(~second)), int(np.count_nonzero(second))
    _check_donors(between, counts)
    n, mean = moments.n[kept], moments.mean[kept]
    squares = moments.squares[kept].sum(axis=0)
    ranks = rank_test(mean[~second], mean[second])
    within_df = int(n.sum()) - len(n) - subtracted
    fit = fit_random_intercept(n, mean, squares, second, within_df=within_df, level=level)
    size = _sizes(mean, second)
    untestable = np.isnan(fit.p)
    p_ranks = np.where(size.constant, np.nan, ranks.p)
    with np.errstate(invalid="ignore", divide="ignore"):
        donor_share = fit.donor_variance / (fit.donor_variance + fit.cell_variance)
    return pd.DataFrame(
        {
            "feature": np.asarray(features, dtype=object),
            "first": between[0],
            "n_first": counts[0],
            "mean_first": size.first,
            "second": between[1],
            "n_second": counts[1],
            "mean_second": size.second,
            "n_cells": int(n.sum()),
            "difference": size.second - size.first,
            "hedges_g": size.hedges_g,
            "probability": ranks.probability,
            "p_ranks": p_ranks,
            "q_ranks": adjusted(p_ranks),
            "least_p_ranks": ranks.least_p,
            "estimate": fit.estimate,
            "se": fit.se,
            "df": fit.df,
            "lower": fit.lower,
            "upper": fit.upper,
            "p_mixed": fit.p,
            "q_mixed": adjusted(fit.p),
            "donor_share": donor_share,
            "reason": np.select(
                [size.constant & untestable, untestable],
                [_CONSTANT, _SEPARATED],
                default="",
            ),
        }
    )


def adjusted(p: Doubles) -> Doubles:
    """Return (n,) p-values adjusted by Benjamini and Hochberg; NaN stays and does not count."""
    found = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        found[known] = false_discovery_control(p[known])
    return found


class _Sizes(NamedTuple):
    """How far apart the groups' donors are, (n_features,) each."""

    first: Doubles
    second: Doubles
    hedges_g: Doubles
    constant: NDArray[np.bool_]


def _sizes(mean: Doubles, second: NDArray[np.bool_]) -> _Sizes:
    """Return means of the donors' means and their standardised difference."""
    df = len(mean) - 2
    low, high = mean[~second], mean[second]
    squares = np.square(low - low.mean(axis=0)).sum(axis=0)
    squares += np.square(high - high.mean(axis=0)).sum(axis=0)
    # Unbiased for normal donors (Hedges 1981).
    correction = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        g = (high.mean(axis=0) - low.mean(axis=0)) / np.sqrt(squares / df) * correction
    constant = np.ptp(mean, axis=0) == 0.0
    return _Sizes(low.mean(axis=0), high.mean(axis=0), np.where(constant, np.nan, g), constant)


def _check_donors(between: tuple[str, str], counts: tuple[int, int]) -> None:
    """Raise if a group has too few donors to be tested; warn if its p cannot be small."""
    for name, count in zip(between, counts, strict=True):
        if count < LEAST_DONORS:
            raise DataError(
                f"A test between donors needs {LEAST_DONORS} donors in each group; {name!r} has "
                f"{count} ({counts[0]} in {between[0]!r}, {counts[1]} in {between[1]!r}). Cells of one "
                "donor cannot stand for more donors: add donors, or merge groups."
            )
    least = 2.0 / comb(sum(counts), counts[0])
    if sum(counts) <= EXACT_UP_TO and least > USUAL_LEVEL:
        warnings.warn(
            f"With {counts[0]} and {counts[1]} donors the smallest possible p of a rank test is "
            f"{least:.3g}: nothing can be significant at {USUAL_LEVEL}. Add donors, or read the effect "
            "sizes and the mixed model, which leans on normal donors.",
            UserWarning,
            stacklevel=4,
        )

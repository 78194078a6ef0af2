"""Mann-Whitney tests of many features at once, exact where donors are few, ties included."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

__all__ = ["EXACT_UP_TO", "RankTest", "rank_test"]

EXACT_UP_TO = 60
"""Donors up to which p-values come from all ways of dividing them into the groups."""


class RankTest(NamedTuple):
    """Two-sided Mann-Whitney tests, (n_features,) each."""

    probability: Doubles
    """That a donor of the second group lies above one of the first, ties counting half."""
    p: Doubles
    least_p: Doubles
    """The smallest p that donors so many, with ties as these, can give."""
    exact: bool
    """Whether p is that of the permutation distribution or of its normal approximation."""


def rank_test(first: Doubles, second: Doubles) -> RankTest:
    """Compare two groups of donors.

    Parameters
    ----------
    first, second
        (n_first, n_features) and (n_second, n_features), a row a donor.

    Notes
    -----
    p is twice the smaller share of all divisions of the donors in groups of these sizes whose rank sum
    lies as high as the one found or higher, as low or lower. With ties, mid-ranks are divided. Beyond
    60 donors it is the normal approximation, with corrections for ties and continuity.

    The test is of equal distributions: groups that differ in spread alone, for instance since donors of
    one have many more cells than those of the other, can be found to differ more often than p says.
    """
    n_first, n_second = len(first), len(second)
    n = n_first + n_second
    # Doubled, so that mid-ranks are integers.
    ranks = np.rint(2.0 * rankdata(np.concatenate([first, second]), axis=0)).astype(np.int64)
    rank_sum = ranks[n_first:].sum(axis=0)
    u = (rank_sum - n_second * (n_second + 1)) / 2.0
    probability = u / (n_first * n_second)
    if n > EXACT_UP_TO:
        p, least_p = _approximate(ranks, rank_sum, n_first, n_second)
        return RankTest(probability, p, least_p, exact=False)
    p, least_p = np.empty(len(u)), np.empty(len(u))
    patterns, which = np.unique(np.sort(ranks, axis=0), axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        by_sum = _exact(tuple(pattern.tolist()), n_second)
        mine = np.flatnonzero(which == number)
        p[mine] = by_sum[rank_sum[mine]]
        least_p[mine] = np.nanmin(by_sum)
    return RankTest(probability, p, least_p, exact=True)


@lru_cache(maxsize=256)
def _exact(doubled_ranks: tuple[int, ...], n_second: int) -> Doubles:
    """Return p at every sum of doubled ranks, NaN at sums that no division has."""
    share = _shares(np.array(doubled_ranks, np.int64), n_second)
    low, high = np.cumsum(share), np.cumsum(share[::-1])[::-1]
    p: Doubles = np.minimum(2.0 * np.minimum(low, high), 1.0)
    return np.where(share > 0.0, p, np.nan)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _shares(doubled_ranks: NDArray[np.int64], n_second: int) -> Doubles:
    """Return the share of all divisions that give the second group each sum of doubled ranks.

    The number of ways to choose k of the donors seen so far with a given sum grows donor by donor; each
    is divided by all the ways there are to choose k at once, so that no number overflows.
    """
    ways = np.zeros((n_second + 1, doubled_ranks.sum() + 1))
    ways[0, 0] = 1.0
    reached = 0
    for place in range(doubled_ranks.size):
        rank = doubled_ranks[place]
        reached += rank
        for k in range(min(place + 1, n_second), 0, -1):
            # The chance that this donor is among the k chosen of those seen.
            chosen = k / (place + 1.0)
            for total in range(reached + 1):
                ways[k, total] *= 1.0 - chosen
            for total in range(rank, reached + 1):
                ways[k, total] += chosen * ways[k - 1, total - rank]
    found: Doubles = ways[n_second]
    return found


def _approximate(
    ranks: NDArray[np.int64], rank_sum: NDArray[np.int64], n_first: int, n_second: int
) -> tuple[Doubles, Doubles]:
    """Return p and its least value by the normal approximation, from doubled ranks."""
    n = n_first + n_second
    off = np.abs(rank_sum - n_second * (n + 1))
    spread = n_first * n_second / (n * (n - 1.0)) * np.square(ranks - (n + 1.0)).sum(axis=0)
    ordered = np.sort(ranks, axis=0) - (n + 1.0)
    furthest = np.maximum(
        -ordered[:n_second].sum(axis=0), ordered[n_first:].sum(axis=0)
    )  # fmt: skip
    found = []
    for distance in (off, furthest):
        with np.errstate(divide="ignore", invalid="ignore"):
            # Half a step of U is one of doubled ranks.
            z = np.maximum(distance - 1.0, 0.0) / np.sqrt(spread)
        found.append(np.where(spread > 0, np.minimum(2.0 * ndtr(-z), 1.0), 1.0))
    return found[0], found[1]

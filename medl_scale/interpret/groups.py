"""Do groups of donors differ? Donors are the unit: cells of one donor are not independent.

Owns what users call with cells, and its checks. The tests and their table are in `donor_tests`, and what
they need of the cells in `donors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError, DataError
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.interpret.donor_tests import compare_donors
from medl_scale.interpret.donors import DonorMoments, donor_moments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from medl_scale.evaluate.inputs import Labels

    Doubles = NDArray[np.float64]

__all__ = ["compare_groups"]

_BLOCK_VALUES = 1 << 23


def compare_groups(
    values: ArrayLike,
    donors: ArrayLike,
    groups: ArrayLike,
    *,
    between: tuple[str, str] | None = None,
    features: Sequence[str] | None = None,
    sources: ArrayLike | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Test every feature for a difference between two groups of donors.

    Parameters
    ----------
    values
        (n, n_features) numbers, a row a cell: measured, projected, a latent, or a pixel.
    donors
        (n,) donor of each row; for an as-if projection the batch projected to.
    groups
        (n,) group of each row's donor.
    between
        The two groups, (first, second); differences are second minus first. By default the two there
        are, sorted. Rows of other groups are left out.
    features
        (n_features,) names; `feature_0`, ... by default.
    sources
        (n,) the cell each row was made from, if every cell was projected to every donor compared. What
        is common to the rows of a cell is then taken out of them.
    level
        Probability of the mixed model's confidence intervals.

    Returns
    -------
    DataFrame
        As `compare_donors` returns.

    Raises
    ------
    DataError
        If values are not finite numbers, donors or groups are missing, a donor is in two groups, a
        group has fewer than 2 donors, or a source does not have one row for every donor.
    ConfigError
        If `between` does not name two groups that there are, or `features` not every column.

    Notes
    -----
    Without `sources`, rows of one donor count as independent given the donor. Where every source has one
    row for each donor, what is common to a source's rows cancels in the difference of two donors, and
    its mean over donors is subtracted (as a fixed effect): the rows' variance within donors is then
    that of the residuals of source and donor, with (n_sources - 1) * (n_donors - 1) degrees of freedom.
    The donors' differences, and so the rank test, stay what they are.
    """
    rows = _matrix(values)
    donor = encode_labels(donors, len(rows), name="donors")
    group = encode_labels(groups, len(rows), name="groups")
    first, second = _two_groups(group, between)
    names = _feature_names(features, rows.shape[1])
    group_of = _group_of_donors(donor, group)
    kept = np.isin(group.codes, (first, second))
    compared = np.flatnonzero(np.isin(group_of, (first, second)))
    codes = np.searchsorted(compared, donor.codes[kept])
    chosen = np.flatnonzero(kept)
    offsets, n_offsets = None, 0
    if sources is not None:
        source = encode_labels(np.asarray(sources)[kept], len(chosen), name="sources")
        _check_crossed(source, codes, len(compared))
        offsets, n_offsets = source.codes.astype(np.int64), len(source.levels) - 1
    moments = _moments(rows, chosen, codes, len(compared), offsets)
    return compare_donors(
        moments,
        [str(donor.levels[i]) for i in compared],
        {str(donor.levels[i]): str(group.levels[group_of[i]]) for i in compared},
        between=(str(group.levels[first]), str(group.levels[second])),
        features=names,
        subtracted=n_offsets,
        level=level,
    )


def _matrix(values: ArrayLike) -> NDArray[np.floating]:
    """Return values as a matrix of floats."""
    found = np.asarray(values)
    if found.ndim != 2 or 0 in found.shape:
        raise DataError(
            f"values must be a matrix, one row a cell (n, n_features); its shape is {found.shape}."
        )
    if found.dtype.kind not in "fiub":
        raise DataError(f"values must hold real numbers; its dtype is {found.dtype}.")
    return found if found.dtype.kind == "f" else found.astype(np.float64)


def _two_groups(group: Labels, between: tuple[str, str] | None) -> tuple[int, int]:
    """Return the codes of the groups to compare."""
    names = [str(level) for level in group.levels]
    listed = ", ".join(repr(name) for name in names)
    if between is None:
        if len(names) != 2:
            raise ConfigError(
                f"groups must hold two groups; it has {len(names)}: {listed}. "
                "Choose two with between=(first, second)."
            )
        return 0, 1
    asked = [str(name) for name in between]
    if len(asked) != 2 or len(set(asked)) != 2 or not set(asked) <= set(names):
        raise ConfigError(f"between must name two of the groups {listed}; got {between!r}.")
    return names.index(asked[0]), names.index(asked[1])


def _feature_names(features: Sequence[str] | None, n_features: int) -> list[str]:
    """Return the features' names."""
    if features is None:
        return [f"feature_{i}" for i in range(n_features)]
    if len(features) != n_features:
        raise ConfigError(
            f"features must name every column of values: {n_features:,} columns, but "
            f"{len(features):,} names."
        )
    return [str(name) for name in features]


def _group_of_donors(donor: Labels, group: Labels) -> NDArray[np.int64]:
    """Return the group of each donor."""
    table = np.zeros((len(donor.levels), len(group.levels)), bool)
    table[donor.codes, group.codes] = True
    several = np.flatnonzero(table.sum(axis=1) > 1)
    if len(several):
        listed = "; ".join(
            f"{donor.levels[i]} in {', '.join(map(str, group.levels[table[i]]))}"
            for i in several[:5]
        )
        raise DataError(
            f"Each donor must belong to one group; {len(several):,} belong to several: {listed}. "
            "Give their samples names of their own, or compare something that differs between donors."
        )
    return table.argmax(axis=1)


def _check_crossed(source: Labels, donor_codes: NDArray[np.int64], n_donors: int) -> None:
    """Raise unless every source has one row for every donor."""
    pairs = source.codes.astype(np.int64) * n_donors + donor_codes
    n_pairs = len(np.unique(pairs))
    wanted = len(source.levels) * n_donors
    if not len(pairs) == n_pairs == wanted:
        raise DataError(
            f"With sources, every source cell must have one row for every donor: "
            f"{len(source.levels):,} x {n_donors:,} = {wanted:,}; found {len(pairs):,} rows of "
            f"{n_pairs:,} pairs. Project all cells to all donors, or leave sources out."
        )


def _moments(
    values: NDArray[np.floating],
    chosen: NDArray[np.int64],
    codes: NDArray[np.int64],
    n_donors: int,
    sources: NDArray[np.int64] | None,
) -> DonorMoments:
    """Return each donor's moments over the chosen rows, squares without what sources have in common."""
    n_features = values.shape[1]
    moments = DonorMoments.none(n_donors, n_features)
    for block, rows in _blocks(values, chosen):
        moments = moments.merge(donor_moments(rows, codes[block], n_donors))
    if sources is None:
        return moments
    n_sources = int(sources.max()) + 1
    of_source = DonorMoments.none(n_sources, n_features)
    for block, rows in _blocks(values, chosen):
        of_source = of_source.merge(donor_moments(rows, sources[block], n_sources))
    centred = DonorMoments.none(n_donors, n_features)
    for block, rows in _blocks(values, chosen):
        rows -= of_source.mean[sources[block]]
        centred = centred.merge(donor_moments(rows, codes[block], n_donors))
    # The means stay those before centring, where equal donors are equal to the last bit.
    return DonorMoments(moments.n, moments.mean, centred.squares)


def _blocks(
    values: NDArray[np.floating], chosen: NDArray[np.int64]
) -> Iterator[tuple[slice, Doubles]]:
    """Yield positions in `chosen` and copies of their rows in float64, some at a time."""
    n_rows = max(1, _BLOCK_VALUES // values.shape[1])
    for start in range(0, len(chosen), n_rows):
        block = slice(start, start + n_rows)
        rows = values[chosen[block]].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise DataError(
                f"values must be finite; row {int(chosen[block][bad[0]]):,} holds NaN or an infinite "
                "number. Leave such rows or features out."
            )
        yield block, rows

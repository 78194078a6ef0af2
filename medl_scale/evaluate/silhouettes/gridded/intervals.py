"""From intervals of mean distances to silhouettes, bounds on their errors, and what is in doubt."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["bound_silhouettes", "list_doubts"]

# Rounding of offsets to float32, relative to mean distances (see `evaluate.layout`), and of the ends
# of intervals; that of positions in float64, in units of the scale.
_DATA_ROUNDING = 6.0 * 2.0**-24
_POSITION_ROUNDING = 4e-15


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _silhouette(a: Any, b: Any) -> Any:
    """Return (b - a) / max(a, b); 0 where both are 0."""
    largest = max(a, b)
    return (b - a) / largest if largest > 0.0 else 0.0


# No value is NaN: without that promise a minimum is taken one by one.
@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})  # type: ignore[untyped-decorator]
def _least_ends(mean: Any, width: Any) -> Any:
    """Return the least of some means, and of the lower and the upper ends of their intervals."""
    best = lower = upper = np.float32(np.inf)
    for j in range(mean.size):
        best = min(best, mean[j])
        lower = min(lower, mean[j] - width[j])
        upper = min(upper, mean[j] + width[j])
    return best, lower, upper


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def bound_silhouettes(
    mean: Any,
    width: Any,
    a: Any,
    a_width: Any,
    own: Any,
    is_final: Any,
    tol: Any,
    share: Any,
    flags: Any,
) -> Any:
    """Return silhouettes and proven bounds of their errors, and mark what keeps bounds above `tol`.

    Parameters
    ----------
    mean, width
        (m, n_labels) float32 mean distances to each label and bounds of their errors; the own label's
        are not read.
    a, a_width
        (m,) float64 mean distance to the other cells of the own label, and its bound.
    own
        (m,) column of the own label.
    is_final
        (m, n_labels) true where nothing better can be had.
    share
        An error matters where it exceeds `share * tol` of the silhouette's denominator, or anyhow if
        none does.
    flags
        (m, n_labels) boolean; overwritten. Labels that might be the nearest, or are the own, and whose
        error matters, for cells whose bound is above `tol`.

    Returns
    -------
    (m,) float64 silhouettes and bounds.

    Notes
    -----
    The least of several means lies between the least lower and the least upper end of their
    intervals, whichever label is the nearest. A silhouette grows with b and falls with a, so that the
    ends of both intervals give the ends of its own.
    """
    m, n_labels = mean.shape
    value, bound = np.empty(m), np.empty(m)
    for i in range(m):
        o = own[i]
        flags[i] = False
        before = _least_ends(mean[i, :o], width[i, :o])
        after = _least_ends(mean[i, o + 1 :], width[i, o + 1 :])
        best = max(np.float64(min(before[0], after[0])), 0.0)
        lower = np.float64(min(before[1], after[1]))
        upper = np.float64(min(before[2], after[2]))
        slack = _DATA_ROUNDING * (best + upper + a[i] + a_width[i]) + _POSITION_ROUNDING
        lower, upper = max(lower - slack, 0.0), upper + slack
        low, high = max(a[i] - a_width[i] - slack, 0.0), a[i] + a_width[i] + slack
        # Where a cell coincides with all of two labels, its silhouette is 0, and rounding not asked.
        is_nowhere = a[i] + best <= 4.0 * _POSITION_ROUNDING
        value[i] = 0.0 if is_nowhere else _silhouette(a[i], best)
        bound[i] = (
            max(_silhouette(low, upper) - value[i], value[i] - _silhouette(high, lower)) + 1e-15
        )
        if bound[i] <= tol:
            continue
        least = share * tol * max(a[i], best)
        while True:
            flags[i, o] = a_width[i] > least and not is_final[i, o]
            found = flags[i, o]
            for j in range(n_labels):
                if j != o and not is_final[i, j]:
                    flags[i, j] = width[i, j] > least and mean[i, j] - width[i, j] <= upper
                    found |= flags[i, j]
            if found or least == 0.0:
                break
            # Many small errors that together matter.
            least = 0.0
    return value, bound


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def list_doubts(flags: Any) -> Any:
    """Return the columns that have a true value, where the rows of each begin, and all of these rows."""
    m, n_columns = flags.shape
    ends = np.zeros(n_columns + 1, np.int64)
    for i in range(m):
        for j in range(n_columns):
            ends[j + 1] += flags[i, j]
    columns = np.flatnonzero(ends[1:])
    for j in range(n_columns):
        ends[j + 1] += ends[j]
    starts = np.append(ends[columns], ends[-1])
    rows = np.empty(ends[-1], np.int64)
    for i in range(m):
        for j in range(n_columns):
            if flags[i, j]:
                rows[ends[j]] = i
                ends[j] += 1
    return columns, starts, rows

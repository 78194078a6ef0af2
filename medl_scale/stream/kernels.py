"""The compiled loops over stored values: logarithm, transformation, scattering to dense rows.

What arrives here was checked by nobody since it left the disk, so every column and every value is
looked at before it is used. A kernel returns where it stopped and why; `densify` puts that in words.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = [
    "BAD_COLUMN",
    "BAD_TOTAL",
    "BAD_VALUE",
    "FINE",
    "count_factor",
    "densify_counts",
    "densify_values",
    "transform_rows",
]

FINE, BAD_VALUE, BAD_COLUMN, BAD_TOTAL = range(4)
# Most counts are small: their logarithms are looked up in a table made anew for every row.
_TABLE_SIZE = 32
# The bits of a float32: the exponent begins at bit 23 and is stored with 127 added.
_EXPONENT_BIT = np.int32(23)
_BIAS = np.int32(127)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
# ln 2 in two parts, the first with so few bits that its products with exponents are exact.
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _log1p(x: Any) -> Any:
    """Return log(1 + x) of a float32 x >= 0, without branches so that loops vectorise.

    With 1 + x = 2^k * (1 + f) and f near 0, log(1 + x) is k ln 2 plus a polynomial in f (that of
    the Cephes library's logf). As 2^k - 1 is exact, so is f: no digit of a small x is lost.
    """
    bits = np.float32(x + np.float32(1)).view(np.int32) - _SQRT_HALF_BITS
    exponent = np.int32(np.int32(bits) >> _EXPONENT_BIT)
    power = np.int32((exponent + _BIAS) << _EXPONENT_BIT).view(np.float32)
    inverse = np.int32((_BIAS - exponent) << _EXPONENT_BIT).view(np.float32)
    f = (x - (power - np.float32(1))) * inverse
    series = np.float32(7.0376836292e-2)
    series = series * f - np.float32(1.1514610310e-1)
    series = series * f + np.float32(1.1676998740e-1)
    series = series * f - np.float32(1.2420140846e-1)
    series = series * f + np.float32(1.4249322787e-1)
    series = series * f - np.float32(1.6668057665e-1)
    series = series * f + np.float32(2.0000714765e-1)
    series = series * f - np.float32(2.4999993993e-1)
    series = series * f + np.float32(3.3333331174e-1)
    k = np.float32(exponent)
    square = f * f
    small = series * f * square + k * _LN2_LOW - np.float32(0.5) * square
    return (f + small) + k * _LN2_HIGH


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_factor(target_sum: Any, total: Any) -> Any:
    """Return what counts are multiplied by, 0 where the total is not a positive number."""
    return np.float32(target_sum / total) if 0 < total < np.inf else np.float32(0)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _transform(stored: Any, factor: Any, takes_log: Any, scale: Any, out: Any) -> None:
    """Transform the values of one row; what may not be becomes NaN."""
    if takes_log:
        for j in range(stored.size):
            x = np.float32(stored[j]) * factor
            out[j] = _log1p(x) * scale if x >= 0 else np.float32(np.nan)
    else:
        for j in range(stored.size):
            out[j] = np.float32(stored[j]) * scale


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def densify_counts(
    data: Any,
    indices: Any,
    indptr: Any,
    positions: Any,
    totals: Any,
    takes_log: Any,
    target_sum: Any,
    scale: Any,
    out: Any,
) -> tuple[int, int]:
    """Write rows of integer counts to `out`; return where it stopped and why."""
    table = np.empty(_TABLE_SIZE, np.float32)
    # Unsigned, a column needs one comparison, and numba does not look for negative places.
    n_vars = np.uintp(out.shape[1])
    for i in range(positions.size):
        start, stop = indptr[positions[i]], indptr[positions[i] + 1]
        counts, columns, row = data[start:stop], indices[start:stop], out[i]
        factor = count_factor(target_sum, totals[i])
        if factor == 0:
            return i, BAD_TOTAL
        for count in range(_TABLE_SIZE):
            table[count] = _log1p(np.float32(count) * factor) * scale
        # A row is a few kilobytes: cleared just before it is written to, it is in the fast cache.
        row[:] = 0
        for j in range(counts.size):
            count, column = counts[j], np.uintp(columns[j])
            if count < 0:
                return i, BAD_VALUE
            if column >= n_vars:
                return i, BAD_COLUMN
            if count < _TABLE_SIZE:
                row[column] = table[np.uintp(count)]
            else:
                row[column] = _log1p(np.float32(count) * factor) * scale
    return 0, FINE


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def densify_values(
    data: Any,
    indices: Any,
    indptr: Any,
    positions: Any,
    totals: Any,
    takes_log: Any,
    target_sum: Any,
    scale: Any,
    out: Any,
) -> tuple[int, int]:
    """Write rows of numbers to `out`; return where it stopped and why."""
    n_vars = out.shape[1]
    values = np.empty(n_vars, np.float32)
    for i in range(positions.size):
        start, stop = indptr[positions[i]], indptr[positions[i] + 1]
        columns, row = indices[start:stop], out[i]
        if columns.size > n_vars:
            return i, BAD_COLUMN
        factor = count_factor(target_sum, totals[i])
        if takes_log and factor == 0:
            return i, BAD_TOTAL
        _transform(data[start:stop], factor, takes_log, scale, values)
        row[:] = 0
        for j in range(columns.size):
            if not np.isfinite(values[j]):
                return i, BAD_VALUE
            if not 0 <= columns[j] < n_vars:
                return i, BAD_COLUMN
            row[columns[j]] = values[j]
    return 0, FINE


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def transform_rows(
    data: Any,
    indices: Any,
    indptr: Any,
    totals: Any,
    takes_log: Any,
    target_sum: Any,
    scale: Any,
    n_vars: Any,
    out: Any,
) -> tuple[int, int]:
    """Transform the values of all rows in place order; return where it stopped and why."""
    for i in range(totals.size):
        start, stop = indptr[i], indptr[i + 1]
        factor = count_factor(target_sum, totals[i])
        if takes_log and factor == 0:
            return i, BAD_TOTAL
        _transform(data[start:stop], factor, takes_log, scale, out[start:stop])
        for j in range(start, stop):
            if not np.isfinite(out[j]):
                return i, BAD_VALUE
            if not 0 <= indices[j] < n_vars:
                return i, BAD_COLUMN
    return 0, FINE

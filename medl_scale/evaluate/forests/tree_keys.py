"""A cell as the loops over trees see it, and how cells are sorted along a feature.

Its payload is its class and its weight in 32 bits. Its key along a feature is the payload and, above it,
the feature's value as an integer of the same order, so that one comparison of integers sorts both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = [
    "CLASS_MASK",
    "WEIGHT_BITS",
    "WEIGHT_MASK",
    "WEIGHT_SHIFT",
    "make_keys",
    "sort_keys",
    "value_of",
]

WEIGHT_BITS = 12
"""Of a payload; the class takes the other 20."""
WEIGHT_MASK = np.uint64((1 << WEIGHT_BITS) - 1)
WEIGHT_SHIFT = np.uint64(WEIGHT_BITS)
CLASS_MASK = np.uint64((1 << (32 - WEIGHT_BITS)) - 1)
_VALUE_SHIFT = np.uint64(32)
_SIGN = np.uint32(0x80000000)
_ALL = np.uint32(0xFFFFFFFF)
_COUNTED_SIZE = 48
_LARGEST_BUCKET = 48


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def make_keys(rows: Any, matrix: Any, f: int, payload: Any, keys: Any) -> Any:
    """Write the key of each cell along feature f; return the lowest and the highest value."""
    lowest = highest = matrix[rows[0], f]
    for i in range(len(rows)):
        value = matrix[rows[i], f]
        lowest, highest = min(lowest, value), max(highest, value)
        bits = np.float32(value).view(np.uint32)
        # Of a negative number all bits turn, so that larger ones come first.
        ordered = bits ^ (_ALL if bits & _SIGN else _SIGN)
        keys[i] = (np.uint64(ordered) << _VALUE_SHIFT) | np.uint64(payload[rows[i]])
    return lowest, highest


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def value_of(key: Any) -> Any:
    """Return the value in a key, float32."""
    ordered = np.uint32(key >> _VALUE_SHIFT)
    return np.uint32(ordered ^ (_SIGN if ordered & _SIGN else _ALL)).view(np.float32)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def sort_keys(keys: Any, spare: Any, ends: Any, n: int, lowest: float, highest: float) -> None:
    """Write the first n keys, sorted, to `spare`; keys are left as they are.

    Few keys are sorted by counting for each how many are smaller, which takes no branches. Many fall
    into as many buckets, evenly spaced between the lowest and the highest value; latents fill these
    well enough for a pass of insertions to finish, and where a bucket is too full it is sorted first.

    Parameters
    ----------
    keys, spare
        (>= n,) uint64.
    ends
        (>= n + 2,) int32 to work with.
    n
        Number of keys.
    lowest, highest
        Of their values.
    """
    if n <= _COUNTED_SIZE:
        for i in range(n):
            key = keys[i]
            place = 0
            for j in range(i):
                place += keys[j] <= key
            for j in range(i + 1, n):
                place += keys[j] < key
            spare[place] = key
        return
    low = np.float64(lowest)
    scale = n / (np.float64(highest) - low)
    # The highest value has a bucket of its own, number n.
    ends[: n + 2] = 0
    for i in range(n):
        ends[int((np.float64(value_of(keys[i])) - low) * scale) + 1] += 1
    fullest = 0
    for bucket in range(n + 1):
        fullest = max(fullest, ends[bucket + 1])
        ends[bucket + 1] += ends[bucket]
    for i in range(n):
        key = keys[i]
        bucket = int((np.float64(value_of(key)) - low) * scale)
        spare[ends[bucket]] = key
        ends[bucket] += 1
    if fullest > _LARGEST_BUCKET:
        start = 0
        for bucket in range(n + 1):
            stop = ends[bucket]
            if stop - start > _LARGEST_BUCKET:
                _heap_sort(spare, start, stop)
            start = stop
    for i in range(1, n):
        key = spare[i]
        j = i - 1
        while j >= 0 and spare[j] > key:
            spare[j + 1] = spare[j]
            j -= 1
        spare[j + 1] = key


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _heap_sort(keys: Any, start: int, stop: int) -> None:
    """Sort keys[start:stop] in place, however they are distributed."""
    n = stop - start
    first = n // 2
    last = n - 1
    while last > 0:
        if first > 0:
            first -= 1
            root = first
        else:
            keys[start], keys[start + last] = keys[start + last], keys[start]
            last -= 1
            root = 0
        key = keys[start + root]
        while True:
            child = 2 * root + 1
            if child > last:
                break
            if child < last and keys[start + child + 1] > keys[start + child]:
                child += 1
            if keys[start + child] <= key:
                break
            keys[start + root] = keys[start + child]
            root = child
        keys[start + root] = key

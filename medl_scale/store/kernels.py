"""The loops over stored entries, compiled: one visit of each, no copies of the block.

All take the three arrays of compressed rows. They add in the order of the rows and in float64, and
square in the type of the values, as scanpy's kernels do: sums then agree to the last bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = [
    "add_clipped",
    "add_moments",
    "add_totals",
    "add_welford",
    "all_valid",
    "fill_chosen",
    "measure_rows",
    "place_rows",
]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def all_valid(values: Any, highest: float, integers: bool) -> bool:  # noqa: FBT001
    """Say whether all values are in [0, highest], finite, and integers where asked."""
    for value in values:
        if not (value >= 0 and value <= highest) or value == np.inf:
            return False
        if integers and value != np.floor(value):
            return False
    return True


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def measure_rows(
    values: Any,
    indices: Any,
    indptr: Any,
    least: int,
    n_genes: Any,
    totals: Any,
    n_cells: Any,
    maxima: Any,
) -> None:
    """Count and add up each row; count and compare each column over rows of `least` genes."""
    for row in range(len(indptr) - 1):
        found = 0
        total = 0.0
        for entry in range(indptr[row], indptr[row + 1]):
            total += values[entry]
            found += values[entry] != 0
        n_genes[row] = found
        totals[row] = total
        if found >= least:
            for entry in range(indptr[row], indptr[row + 1]):
                gene = indices[entry]
                n_cells[gene] += values[entry] != 0
                maxima[gene] = max(maxima[gene], values[entry])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_totals(values: Any, indices: Any, indptr: Any, genes: Any, totals: Any) -> None:
    """Add each row's values over the genes that stay."""
    for row in range(len(indptr) - 1):
        total = 0.0
        for entry in range(indptr[row], indptr[row + 1]):
            if genes[indices[entry]]:
                total += values[entry]
        totals[row] = total


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_moments(
    values: Any, indices: Any, indptr: Any, groups: Any, sums: Any, squares: Any
) -> None:
    """Add values and their squares to the sums of their group (-1: none) and gene."""
    for row in range(len(indptr) - 1):
        group = groups[row]
        if group >= 0:
            for entry in range(indptr[row], indptr[row + 1]):
                value = values[entry]
                sums[group, indices[entry]] += value
                squares[group, indices[entry]] += value * value


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_welford(
    values: Any, indices: Any, indptr: Any, groups: Any, found: Any, means: Any, spreads: Any
) -> None:
    """Update running means and summed squared deviations of the entries that are stored."""
    for row in range(len(indptr) - 1):
        group = groups[row]
        if group >= 0:
            for entry in range(indptr[row], indptr[row + 1]):
                gene = indices[entry]
                value = np.float64(values[entry])
                found[group, gene] += 1
                before = value - means[group, gene]
                means[group, gene] += before / found[group, gene]
                spreads[group, gene] += before * (value - means[group, gene])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_clipped(
    values: Any, indices: Any, indptr: Any, groups: Any, bounds: Any, sums: Any, squares: Any
) -> None:
    """Add values, cut at the bound of their group and gene, and their squares."""
    for row in range(len(indptr) - 1):
        group = groups[row]
        if group >= 0:
            for entry in range(indptr[row], indptr[row + 1]):
                gene = indices[entry]
                value = min(np.float64(values[entry]), bounds[group, gene])
                sums[group, gene] += value
                squares[group, gene] += value**2


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def fill_chosen(
    values: Any,
    indices: Any,
    indptr: Any,
    rows: Any,
    positions: Any,
    out_values: Any,
    out_indices: Any,
    out_lengths: Any,
) -> int:
    """Copy entries of `rows`, in that order, in columns with a position >= 0; return how many."""
    filled = 0
    for number in range(len(rows)):
        row = rows[number]
        start = filled
        for entry in range(indptr[row], indptr[row + 1]):
            position = positions[indices[entry]]
            if position >= 0 and values[entry] != 0:
                out_values[filled] = values[entry]
                out_indices[filled] = position
                filled += 1
        out_lengths[number] = filled - start
    return filled


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def place_rows(entries: Any, lengths: Any, starts: Any, out: Any) -> None:
    """Copy rows that lie one after another to where each is to start in `out`."""
    read = 0
    for number in range(len(lengths)):
        start = starts[number]
        for entry in range(lengths[number]):
            out[start + entry] = entries[read]
            read += 1

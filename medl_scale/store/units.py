"""What the stored values may be in each unit, and the errors that tell what they are instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import DataError
from medl_scale.store.kernels import all_valid

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from medl_scale.config import InputUnits
    from medl_scale.store.inputs import Block

__all__ = ["check_values", "looks_like_counts", "natural_values"]

_MAX_LOGARITHM = 50.0
"""exp(50) is 5e21: no logarithm of an expression is that large."""


def check_values(block: Block, units: InputUnits, cells: NDArray[Any], genes: pd.Index) -> None:
    """Raise if values of a block are not of these units.

    Parameters
    ----------
    block
        Cells as they were read.
    units
        What they should be.
    cells, genes
        Names of all cells and all genes.

    Raises
    ------
    DataError
        Counts the values that cannot be, and names the first cell and gene.
    """
    values = block.counts.data
    highest = np.inf if units == "counts" else _MAX_LOGARITHM
    if values.size == 0 or all_valid(values, highest, integers=units == "counts"):
        return
    not_a_number = np.isnan(values)
    reasons = {
        "NaN": not_a_number,
        "infinite": np.isinf(values),
        "negative": (values < 0) & np.isfinite(values),
    }
    finite = np.isfinite(values) & (values >= 0)
    if units == "counts":
        reasons["fractional"] = finite & (values != np.floor(values))
        expected, advice = "counts must be non-negative integers", _advice(values)
    else:
        reasons[f"above {_MAX_LOGARITHM:g}"] = finite & (values > _MAX_LOGARITHM)
        expected = f"{units} values must be finite logarithms >= 0"
        advice = "If they are counts, leave --input-units at counts; else mend the values."
    found = ", ".join(f"{int(bad.sum()):,} {name}" for name, bad in reasons.items() if bad.any())
    first = int(np.flatnonzero(np.any(list(reasons.values()), axis=0))[0])
    row = int(np.searchsorted(block.counts.indptr, first, "right")) - 1
    cell, gene = cells[block.rows.start + row], genes[block.counts.indices[first]]
    raise DataError(
        f"{expected}; {block.place} has values that are not: {found} among cells "
        f"{block.rows.start + 1:,} to {block.rows.stop:,}, the first {values[first]:g} in cell "
        f"{str(cell)!r}, gene {str(gene)!r}. {advice}"
    )


def looks_like_counts(values: NDArray[Any]) -> bool:
    """Say whether values that should be logarithms are all integers, some above 1."""
    return bool(values.size and values.max() > 1 and all_valid(values, np.inf, integers=True))


def natural_values(values: NDArray[Any], units: InputUnits) -> NDArray[Any]:
    """Return values on the scale that is stored: 2^x - 1 of `log2p1`, others as they are."""
    if units != "log2p1":
        return values
    floats = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    return np.exp2(floats) - np.ones((), floats.dtype)


def _advice(values: NDArray[Any]) -> str:
    """Return what to do about values that are no counts."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() >= 0 and finite.max() < 20:
        return (
            "They look like logarithms: name the layer that holds counts with --layer, or say "
            "--input-units lognorm (or log2p1)."
        )
    return "Name the layer that holds counts with --layer, or say what they are with --input-units."

"""What the what-if viewer shows, and how it is packed into a page: integers, deflated, cell by cell."""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["BYTES_OF_NUMBER", "ViewerCell", "ViewerData", "pack"]

BYTES_OF_NUMBER = 1.75
"""What one number takes in a page, as base64, where differences have an s.d. of up to a third: its low
byte, and 2.5 bits of the high one. Measured are 1.4; incompressible ones would take 8 / 3."""
_FINEST_STEP = 1e-3
_LARGEST = 16_000
_MISSING = -32_768
_SHOWN_PERCENTILE = 99.5


class ViewerCell(NamedTuple):
    """One cell that can be chosen."""

    name: str
    label: str
    batch: str
    """Its own."""


@dataclass(frozen=True, eq=False)
class ViewerData:
    """Cells as measured and as if of other batches, with intervals.

    Raises
    ------
    DataError
        If shapes do not fit, there is no cell or target, or an expression is not a finite number.
    """

    run: str
    model: str
    units: str
    """Of all values, as readers understand them."""
    level: float
    """Probability of the credible intervals."""
    intervals: str
    """How they were made, in words."""
    gene_names: tuple[str, ...]
    pixels: NDArray[np.int64]
    """(n_genes,) flat pixel of each gene on the grid."""
    shape: tuple[int, int]
    """(rows, columns) of the grid."""
    cells: tuple[ViewerCell, ...]
    """Those of one label follow each other."""
    targets: tuple[str, ...]
    """Batches; then `average` if `has_average`."""
    has_average: bool
    """Whether the last target is the population: no batch's effects."""
    measured: Floats
    """(n_cells, n_genes)."""
    own: Floats
    """(n_cells, n_genes): under the cell's own batch, its reconstruction."""
    as_if: Floats
    """(n_cells, n_targets, n_genes)."""
    lower: Floats
    """(n_cells, n_targets, n_genes): of the interval of `as_if` - `own`; NaN where none is kept."""
    upper: Floats
    notes: tuple[str, ...] = ()
    """How cells, batches and intervals were chosen, in sentences."""

    def __post_init__(self) -> None:
        n_cells, n_targets, n_genes = len(self.cells), len(self.targets), len(self.gene_names)
        wanted = {
            "pixels": (n_genes,),
            "measured": (n_cells, n_genes),
            "own": (n_cells, n_genes),
            "as_if": (n_cells, n_targets, n_genes),
            "lower": (n_cells, n_targets, n_genes),
            "upper": (n_cells, n_targets, n_genes),
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape or not all(shape):
                raise DataError(
                    f"A viewer of {n_cells} cells, {n_targets} targets and {n_genes:,} genes needs "
                    f"'{name}' of shape {shape}, none of it zero; got {found}. Choose at least one of "
                    "each, and pass arrays that fit."
                )
        for name in ("measured", "own", "as_if"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(
                    f"A viewer shows finite expression; '{name}' has NaN or infinite values. Choose "
                    "other cells, or fit the model again."
                )

    @property
    def step(self) -> float:
        """What values are rounded to: a power of ten, 0.001 unless they are large."""
        arrays = (self.measured, self.own, self.as_if, self.lower, self.upper)
        most = max(float(np.nanmax(np.abs(array), initial=0.0)) for array in arrays)
        return max(_FINEST_STEP, 10.0 ** math.ceil(math.log10(max(most, 1e-30) / _LARGEST)))


def pack(data: ViewerData) -> str:
    """Return a viewer's data as JSON that may stand inside a `<script>` element.

    The numbers of a cell are int16 multiples of `step`: measured, own, and then per target the
    difference from own, and the interval's ends less that difference (-32768 for none). All low bytes
    come before all high ones, as these hardly vary; then they are deflated (RFC 1950).
    """
    step = data.step
    shown = np.concatenate([data.measured.ravel(), data.own.ravel(), data.as_if.ravel()])
    high = float(np.percentile(shown, _SHOWN_PERCENTILE))
    moves = np.abs(data.as_if - data.own[:, None])
    reach = float(np.percentile(moves, _SHOWN_PERCENTILE))
    packed: dict[str, Any] = {
        "run": data.run,
        "model": data.model,
        "units": data.units,
        "level": data.level,
        "intervals": data.intervals,
        "step": step,
        "genes": data.gene_names,
        "pixels": data.pixels.tolist(),
        "shape": data.shape,
        # One scale for all images, so that they compare; what lies beyond has the end's colour.
        "high": round(max(high, step), 6),
        "reach": round(max(reach, step), 6),
        "targets": data.targets,
        "average": data.has_average,
        "cells": [
            {**cell._asdict(), "numbers": _numbers(data, place, step)}
            for place, cell in enumerate(data.cells)
        ],
    }
    # No end tag, and no comment, may start within.
    return json.dumps(packed, separators=(",", ":")).replace("<", "\\u003c")


def _numbers(data: ViewerData, cell: int, step: float) -> str:
    """Return the numbers of one cell as text."""
    own = _steps(data.own[cell], step)
    moves = _steps(data.as_if[cell], step) - own
    ends = [
        np.where(np.isnan(end), _MISSING, _steps(np.nan_to_num(end), step) - moves)
        for end in (data.lower[cell], data.upper[cell])
    ]
    by_target = np.stack([moves, *ends], axis=1)
    every = np.concatenate([_steps(data.measured[cell], step), own, by_target.ravel()])
    planes = every.astype("<i2").view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def _steps(values: Floats, step: float) -> NDArray[np.int64]:
    """Return values as multiples of a step."""
    return np.rint(values.astype(np.float64) / step).astype(np.int64)

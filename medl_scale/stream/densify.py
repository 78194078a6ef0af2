"""From the stored values of a few rows to log-normalised ones, dense or as they lie, in one pass.

Counts become log1p(count * target_sum / size_factor), values that are log-normalised already stay;
both are then multiplied by `scale`. Owns the checks of what was read; the loops are in `kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import DataError, StoreError
from medl_scale.stream.kernels import (
    BAD_COLUMN,
    BAD_TOTAL,
    BAD_VALUE,
    densify_counts,
    densify_values,
    transform_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.config import InputUnits
    from medl_scale.stream.contract import CsrRows

__all__ = ["Transform", "check_rows", "densify", "transformed"]


@dataclass(frozen=True)
class Transform:
    """What makes a stored value the input of a network."""

    units: InputUnits
    """`counts` and `log2p1` (stored as 2^x - 1) are normalised and logged, `lognorm` is not."""
    target_sum: float
    """Total of a cell after normalisation."""
    scale: float = 1.0
    """Factor of the log-normalised value."""

    @property
    def takes_log(self) -> bool:
        """Whether stored values are normalised and logged."""
        return self.units != "lognorm"


def densify(
    stored: CsrRows,
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    size_factors: NDArray[np.float32],
    transform: Transform,
    out: NDArray[np.float32],
) -> None:
    """Write rows of `stored`, transformed, to the dense `out`.

    Parameters
    ----------
    stored
        What a source read.
    positions
        (m,), which of its rows.
    rows
        (m,), their numbers in the atlas.
    size_factors
        (n_obs,) float32 of all rows of the atlas.
    transform
        What is done to the values.
    out
        (m, n_vars) float32; whatever it held is overwritten.

    Raises
    ------
    DataError
        If a value or a size factor is not a finite number, or a count is negative; it names the
        row.
    StoreError
        If a stored column does not exist.

    Notes
    -----
    The logarithm differs from the true one by 1.2e-7 of its value at most, for x up to 1e30. It is
    made of additions and multiplications alone, so it is the same on every machine, for integers
    and for floats, and whether looked up or computed.
    """
    counts = transform.takes_log and stored.data.dtype.kind in "iu"
    kernel = densify_counts if counts else densify_values
    place, verdict = kernel(*stored, positions, size_factors[rows], *_numbers(transform), out)
    check_rows(verdict, rows, place, size_factors)


def transformed(
    stored: CsrRows,
    rows: NDArray[np.int64],
    size_factors: NDArray[np.float32],
    transform: Transform,
    n_vars: int,
) -> NDArray[np.float32]:
    """Return the values of `stored`, transformed, in their order.

    Parameters
    ----------
    stored, rows, size_factors, transform
        As for `densify`; `rows` has one number for each row of `stored`.
    n_vars
        Number of columns that there are.

    Returns
    -------
    (nnz,) float32, bitwise what `densify` writes.

    Raises
    ------
    DataError, StoreError
        As `densify` does.
    """
    values = np.empty(stored.data.size, np.float32)
    place, verdict = transform_rows(
        *stored, size_factors[rows], *_numbers(transform), n_vars, values
    )
    check_rows(verdict, rows, place, size_factors)
    return values


def _numbers(transform: Transform) -> tuple[bool, np.float64, np.float32]:
    """Return a transform as the kernels take it."""
    return transform.takes_log, np.float64(transform.target_sum), np.float32(transform.scale)


def check_rows(
    verdict: int, rows: NDArray[np.int64], place: int, size_factors: NDArray[np.float32]
) -> None:
    """Raise what a kernel found wrong with the row at `place`.

    Raises
    ------
    DataError, StoreError
        As `densify` does; neither if the verdict is `kernels.FINE`.
    """
    if verdict == BAD_TOTAL:
        raise DataError(
            f"Size factors must be positive numbers; that of row {rows[place]:,} of the atlas is "
            f"{size_factors[rows[place]]}. Prepare the atlas again."
        )
    if verdict == BAD_VALUE:
        raise DataError(
            f"Values must be finite, and counts not negative; row {rows[place]:,} of the atlas "
            "holds another. Prepare the atlas again."
        )
    if verdict == BAD_COLUMN:
        raise StoreError(
            f"Row {rows[place]:,} of the atlas names a gene that does not exist: the store is "
            "damaged. Copy it again, or prepare it again."
        )

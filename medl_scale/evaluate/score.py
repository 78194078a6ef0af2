"""What a metric says: a value, how exact it is, and how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medl_scale.config import check_at_least, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Kind", "Score"]

Kind = Literal["exact", "certified", "confidence"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """A figure that states its error.

    `float(score)` is the value, and `numpy.asarray(score)` the value of every cell where there is
    one.

    Notes
    -----
    What each kind promises:

    - `exact`: all cells and all pairs that can matter were summed; `error` bounds the rounding.
    - `certified`: an approximation whose distance from the exact figure is at most `error`, proven.
    - `confidence`: an estimate; `value` plus and minus `error` covers the exact figure with the
      probability `confidence`.
    """

    value: float
    kind: Kind
    error: float
    """Half-width around `value`, in its units; see `kind`."""
    method: str
    """How it was found, in words, such as `gridded` or `pruned (31 % of pairs)`."""
    n: int
    """Cells that were scored."""
    seconds: float
    """Wall time it took."""
    confidence: float | None = None
    """Level of the interval, such as 0.99; None unless `kind` is `confidence`."""
    per_cell: NDArray[np.float64] | None = None
    """(n,) the value of every cell, in the order given; None where a cell has none."""
    per_cell_error: NDArray[np.float64] | None = None
    """(n,) bound on the error of each `per_cell` value."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("exact", "certified", "confidence"))
        check_at_least("error", self.error, 0.0)

    def __float__(self) -> float:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - as NumPy calls it
        if self.per_cell is None:
            raise TypeError("This score has no value per cell; take float(score).")
        return np.array(self.per_cell, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        level = f" at {self.confidence:.0%}" if self.confidence is not None else ""
        return (
            f"Score({self.value:.6g}, {self.kind} ± {self.error:.1g}{level}, {self.method}, "
            f"n={self.n:,}, {self.seconds:.3g} s)"
        )

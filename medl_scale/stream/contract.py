"""What a source of rows is: anything that gives raw CSR rows in the order asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from medl_scale.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CsrRows", "Source"]


class CsrRows(NamedTuple):
    """Rows in the order asked for; what a row holds is left as it is stored."""

    data: NDArray[Any]
    """(nnz,), unsigned integers for counts, else float32."""
    indices: NDArray[Any]
    """(nnz,), columns, uint16 or int32."""
    indptr: NDArray[np.int64]
    """(n_rows + 1,), where each row begins."""


class Source(ABC):
    """Where rows come from. Safe to use from one thread at a time."""

    n_obs: int
    n_vars: int

    def fetch(self, runs: Sequence[slice]) -> CsrRows:
        """Read the rows of `runs` in one joint request.

        Parameters
        ----------
        runs
            Slices of rows without steps, in any order, repeated or not.

        Returns
        -------
        The rows of the first run, then of the second, and so on. The arrays may be views into
        what the source holds: they must not be written to.

        Raises
        ------
        DataError
            If a run leaves the rows that there are.
        StoreError
            If the store is damaged.
        """
        wanted = [rows for rows in runs if rows.start < rows.stop]
        for rows in wanted:
            if not 0 <= rows.start < rows.stop <= self.n_obs:
                raise DataError(
                    f"Rows must lie between 0 and {self.n_obs:,}; "
                    f"{rows.start:,} to {rows.stop:,} were asked for."
                )
        return self._read(wanted or [slice(0, 0)])

    @abstractmethod
    def _read(self, runs: list[slice]) -> CsrRows:
        """Read checked runs; only a single run may be empty."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the source holds; it cannot be read any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

"""One pass over rows in the order of the store, as transformed values that stay sparse."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from medl_scale.stream.densify import transformed
from medl_scale.stream.runs import row_numbers, sequential_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Columns
    from medl_scale.stream.contract import CsrRows, Source
    from medl_scale.stream.densify import Transform

__all__ = ["TransformedRows", "transformed_pass"]


class TransformedRows(NamedTuple):
    """Rows that were read together."""

    values: NDArray[np.float32]
    """(nnz,) transformed values."""
    stored: CsrRows
    """What they were made of."""
    batch_codes: NDArray[np.int32]
    """(m,)."""


def transformed_pass(
    source: Source,
    columns: Columns,
    slices: Sequence[slice],
    transform: Transform,
    read_rows: int,
    *,
    name: str,
    progress: Progress | None,
) -> Iterator[TransformedRows]:
    """Yield the rows of `slices`, `read_rows` at a time, and report to `progress` as step `name`.

    Raises
    ------
    DataError
        If a value is not a finite number.
    StoreError
        If the store is damaged.
    """
    total = sum(rows.stop - rows.start for rows in slices)
    with progress.step(name, total) if progress else nullcontext(lambda _: None) as advance:
        for runs in sequential_runs(slices, read_rows):
            stored, rows = source.fetch(runs), row_numbers(runs)
            values = transformed(stored, rows, columns.size_factors, transform, source.n_vars)
            yield TransformedRows(values, stored, columns.batch_codes[rows])
            advance(rows.size)

"""Rows as short pieces of equal width: what travels to an accelerator in place of dense arrays.

A row's values lie in as many pieces of `CHUNK` values as it needs, the last one filled up with zeros
in column 0, which add nothing. So rows of any length are gathered on the device by whole pieces that
lie together, and the number of a piece fits 32 bits where the number of a value might not. Owns the
checks that `densify` makes, since a device cannot raise; what is done there is in `train.device_rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from medl_scale.stream.densify import check_rows
from medl_scale.stream.kernels import BAD_COLUMN, BAD_TOTAL, BAD_VALUE, FINE, count_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.stream.contract import CsrRows
    from medl_scale.stream.densify import Transform

__all__ = ["CHUNK", "ChunkedRows", "bucket_size", "chunked"]

CHUNK = 32
"""Values of a piece: one sector of a GPU's memory for counts of 8 bits, two for columns of 16."""
_LEAST_BUCKET = 64


class ChunkedRows(NamedTuple):
    """Rows in pieces. Those beyond the rows' own hold zeros in column 0."""

    data: NDArray[Any]
    """(n_chunks, CHUNK), as stored: unsigned integers, else float32."""
    indices: NDArray[Any]
    """(n_chunks, CHUNK), columns, uint16 or int32."""
    counts: NDArray[np.int32]
    """(m,) pieces of each row."""
    factors: NDArray[np.float32]
    """(m,) what counts are multiplied by before the logarithm; 1 where there is none."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(int(array.nbytes) for array in self)


def bucket_size(n: int) -> int:
    """Return the size that n pieces are padded to: at most an eighth more, and few different ones."""
    step = max(_LEAST_BUCKET, 1 << max(0, (n - 1).bit_length() - 4))
    return max(-(-n // step), 1) * step


def chunked(
    stored: CsrRows,
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    size_factors: NDArray[np.float32],
    transform: Transform,
    n_vars: int,
    *,
    n_chunks: int | None = None,
) -> ChunkedRows:
    """Cut rows of `stored` into pieces.

    Parameters
    ----------
    stored, positions, rows, size_factors, transform
        As for `densify`.
    n_vars
        Number of columns that there are.
    n_chunks
        Pieces to return; None for `bucket_size` of those that the rows have.

    Raises
    ------
    DataError, StoreError
        As `densify` does.
    """
    lengths = stored.indptr[positions + 1] - stored.indptr[positions]
    counts = (-(-lengths // CHUNK)).astype(np.int32)
    size = bucket_size(int(counts.sum())) if n_chunks is None else n_chunks
    data = np.zeros((size, CHUNK), _device_dtype(stored.data.dtype))
    columns = np.uint16 if stored.indices.dtype == np.uint16 else np.int32
    indices = np.zeros((size, CHUNK), columns)
    factors = np.ones(positions.size, np.float32)
    place, verdict = _pack(
        *stored,
        positions,
        size_factors[rows],
        transform.takes_log,
        np.float64(transform.target_sum),
        n_vars,
        data,
        indices,
        factors,
    )
    check_rows(verdict, rows, place, size_factors)
    return ChunkedRows(data, indices, counts, factors)


def _device_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that values travel as: devices take no 64-bit numbers, nor need signs."""
    if stored.kind in "iu" and stored.itemsize <= 4:
        return np.dtype(f"u{stored.itemsize}")
    return np.dtype(np.float32)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _pack(
    data: Any,
    indices: Any,
    indptr: Any,
    positions: Any,
    totals: Any,
    takes_log: Any,
    target_sum: Any,
    n_vars: Any,
    out_data: Any,
    out_indices: Any,
    factors: Any,
) -> tuple[int, int]:
    """Copy rows into pieces; return where it stopped and why."""
    width = out_data.shape[1]
    chunk = 0
    for i in range(positions.size):
        start, stop = indptr[positions[i]], indptr[positions[i] + 1]
        factor = np.float32(1)
        if takes_log:
            factor = count_factor(target_sum, totals[i])
            if factor == 0:
                return i, BAD_TOTAL
        factors[i] = factor
        for j in range(start, stop):
            value = np.float32(data[j]) * factor
            if not np.isfinite(value) or (takes_log and value < 0):
                return i, BAD_VALUE
            if not 0 <= indices[j] < n_vars:
                return i, BAD_COLUMN
            place = chunk + (j - start) // width
            out_data[place, (j - start) % width] = data[j]
            out_indices[place, (j - start) % width] = indices[j]
        chunk += (stop - start + width - 1) // width
    return 0, FINE

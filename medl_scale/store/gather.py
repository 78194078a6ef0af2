"""Blocks of rows that arrive in any order, made into one Zarr array, each row exactly once."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from medl_scale.errors import DataError, LatentsIncompleteError
from medl_scale.store.seal import seal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    type FloatArray = NDArray[np.float32]

__all__ = ["Rows", "gather"]

type Rows = NDArray[np.integer[Any]] | slice

_CHUNK_ROWS = 32_768


def gather(
    scratch: Path,
    blocks: Iterable[tuple[Rows, FloatArray]],
    *,
    shape: tuple[int, int],
    attributes: Mapping[str, Any],
    name: str,
) -> Path:
    """Write blocks of rows to a sealed Zarr v3 array and return its folder, inside `scratch`.

    Parameters
    ----------
    scratch
        A folder with room for the values twice.
    blocks
        Pairs of rows, (m,) int or a slice, and values, (m, shape[1]) float32.
    shape
        Of the array.
    attributes
        Of the array.
    name
        How errors call it.

    Raises
    ------
    DataError
        If a block has rows that do not exist or came before, another shape than its rows ask for,
        or values that are not finite.
    LatentsIncompleteError
        If rows are missing after the last block.
    """
    n_rows, width = shape
    array = zarr.create_array(
        scratch / "array",
        shape=shape,
        chunks=(min(_CHUNK_ROWS, n_rows), width),
        dtype=np.float32,
        compressors=BloscCodec(cname="lz4", clevel=3, shuffle="shuffle"),
        attributes=dict(attributes),
        zarr_format=3,
    )
    with (scratch / "rows").open("w+b") as file:
        _gather_rows(file, blocks, n_rows, width, name)
        file.seek(0)
        for start in range(0, n_rows, _CHUNK_ROWS):
            n = min(_CHUNK_ROWS, n_rows - start)
            values = np.fromfile(file, dtype=np.float32, count=n * width)
            array[start : start + n] = values.reshape(n, width)
    seal(scratch / "array")
    return scratch / "array"


def _gather_rows(
    file: BinaryIO,
    blocks: Iterable[tuple[Rows, FloatArray]],
    n_obs: int,
    n_latent: int,
    name: str,
) -> None:
    """Write each row of each block to its place in `file`; check that all came exactly once."""
    row_bytes = 4 * n_latent
    came = np.zeros(n_obs, dtype=bool)
    for asked, values in blocks:
        rows = np.arange(n_obs)[asked] if isinstance(asked, slice) else np.asarray(asked)
        _check_block(rows, values, came, n_latent, name)
        order = np.argsort(rows, kind="stable")
        rows, ordered = rows[order], np.ascontiguousarray(values[order], dtype=np.float32)
        came[rows] = True
        # Neighbouring rows are written together. A memory map would be simpler, but a full disk
        # ends a process that writes to one.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for start, stop in pairwise([*starts, rows.size]):
            file.seek(int(rows[start]) * row_bytes)
            file.write(ordered[start:stop].data)
    n_missing = n_obs - int(came.sum())
    if n_missing:
        raise LatentsIncompleteError(
            f"{name} needs all {n_obs:,} cells; {n_missing:,} are missing, the first is row "
            f"{int(np.argmin(came)):,}. Encode every cell before writing; nothing was changed."
        )
    file.flush()


def _check_block(
    rows: NDArray[np.integer[Any]],
    values: FloatArray,
    came: NDArray[np.bool_],
    n_latent: int,
    name: str,
) -> None:
    """Raise unless the rows exist and are new, and the values fit them and are finite."""
    if values.shape != (rows.size, n_latent):
        raise DataError(
            f"{name}: a block of {rows.size} rows must have values of shape "
            f"({rows.size}, {n_latent}); got {values.shape}. Nothing was changed."
        )
    outside = (rows < 0) | (rows >= came.size)
    if outside.any():
        raise DataError(
            f"{name}: rows must lie in 0..{came.size - 1}; got {int(rows[outside][0])}. "
            "Nothing was changed."
        )
    distinct, times = np.unique(rows, return_counts=True)
    again = distinct[came[distinct] | (times > 1)]
    if again.size:
        raise DataError(
            f"{name}: every row must come once; {again.size} of this block came before, such as "
            f"row {int(again[0])}. Nothing was changed."
        )
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise DataError(
            f"{name}: latents must be finite; those of {int(bad.sum())} cells are not, such as row "
            f"{int(rows[bad][0])}. Train again with a lower learning rate; nothing was changed."
        )

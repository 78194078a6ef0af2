"""Writing the matrix of a prepared atlas: sharded Zarr v3 arrays, filled from first to last.

256 rows a chunk and 32,768 a shard, in rows of average length, compressed by blosc-lz4: the layout
that was fastest to stream of the eight that were measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.codecs import BloscCodec

if TYPE_CHECKING:
    import zarr
    from numpy.typing import DTypeLike, NDArray

    from medl_scale.store.shuffle import Rows

__all__ = ["CsrWriter", "index_type"]

CHUNK_ROWS = 256
SHARD_ROWS = 32_768


def index_type(n_vars: int) -> np.dtype[Any]:
    """Return the type of column indices on their way to the store: two bytes where they suffice."""
    return np.dtype(np.uint16 if n_vars <= np.iinfo(np.uint16).max else np.int32)


def pointer_type(n_entries: int) -> np.dtype[Any]:
    """Return the type of row pointers: that of the indices, int32, unless entries exceed it.

    SciPy wants both alike: with two types, `tocoo` and what builds on it (such as scanpy's quality
    metrics) fail on a matrix read from the store. Indices of two bytes would be read 20 % faster.
    """
    return np.dtype(np.int32 if n_entries <= np.iinfo(np.int32).max else np.int64)


class CsrWriter:
    """Compressed rows of an AnnData store, appended in order."""

    def __init__(
        self, root: zarr.Group, shape: tuple[int, int], n_entries: int, dtype: DTypeLike
    ) -> None:
        self.group = root.create_group("X")
        self.group.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)}
        )
        chunk = max(1, round(CHUNK_ROWS * n_entries / shape[0]))
        shard = chunk * (SHARD_ROWS // CHUNK_ROWS)
        codec = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")
        self.shard = shard
        self.arrays = {
            name: self.group.create_array(
                name,
                shape=(n_entries,),
                dtype=np.dtype(kind),
                chunks=(chunk,),
                shards=(shard,),
                compressors=codec,
                # A missing shard then always means a truncated store.
                config={"write_empty_chunks": True},
            )
            for name, kind in (("data", dtype), ("indices", np.int32))
        }
        self.codec = codec
        self.lengths: list[NDArray[np.int32]] = []
        self._written = 0
        self._held = 0
        self._shards = {name: np.empty(shard, array.dtype) for name, array in self.arrays.items()}

    def append(self, rows: Rows) -> None:
        """Add rows below those there are."""
        self.lengths.append(rows.lengths)
        read = 0
        while read < len(rows.values):
            n = min(len(rows.values) - read, self.shard - self._held)
            for name, entries in (("data", rows.values), ("indices", rows.indices)):
                self._shards[name][self._held : self._held + n] = entries[read : read + n]
            read += n
            self._held += n
            if self._held == self.shard:
                self._flush()

    def close(self) -> None:
        """Write what is left, and the row pointer."""
        self._flush()
        lengths = np.concatenate([np.zeros(1, np.int32), *self.lengths])
        pointer = np.cumsum(lengths, dtype=np.int64)
        array = self.group.create_array(
            "indptr",
            shape=pointer.shape,
            dtype=pointer_type(int(pointer[-1])),
            chunks=(min(len(pointer), 2**17),),
            compressors=self.codec,
        )
        array[:] = pointer

    def _flush(self) -> None:
        """Write the shard that is held: a whole one, but for the last."""
        if self._held == 0:
            return
        place = slice(self._written, self._written + self._held)
        for name, array in self.arrays.items():
            array[place] = self._shards[name][: self._held]
        self._written += self._held
        self._held = 0

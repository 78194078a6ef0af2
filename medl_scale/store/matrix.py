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
    """Return the type of column indices: two bytes where they suffice."""
    return np.dtype(np.uint16 if n_vars <= np.iinfo(np.uint16).max else np.int32)


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
            for name, kind in (("data", dtype), ("indices", index_type(shape[1])))
        }
        self.codec = codec
        self.written = 0
        self.lengths: list[NDArray[np.int32]] = []
        self._held: dict[str, list[NDArray[Any]]] = {name: [] for name in self.arrays}

    def append(self, rows: Rows) -> None:
        """Add rows below those there are."""
        self.lengths.append(rows.lengths)
        self._held["data"].append(rows.values)
        self._held["indices"].append(rows.indices)
        self._flush(last=False)

    def close(self) -> None:
        """Write what is left, and the row pointer."""
        self._flush(last=True)
        lengths = np.concatenate([np.zeros(1, np.int32), *self.lengths])
        pointer = np.cumsum(lengths, dtype=np.int64)
        array = self.group.create_array(
            "indptr",
            shape=pointer.shape,
            dtype=np.int64,
            chunks=(min(len(pointer), 2**17),),
            compressors=self.codec,
        )
        array[:] = pointer

    def _flush(self, *, last: bool) -> None:
        """Write the entries that fill whole shards; at the end, all."""
        held = sum(map(len, self._held["data"]))
        size = held if last else held // self.shard * self.shard
        if size == 0:
            return
        for name, array in self.arrays.items():
            entries = np.concatenate(self._held[name])
            for start in range(0, size, self.shard):
                stop = min(start + self.shard, size)
                array[self.written + start : self.written + stop] = entries[start:stop]
            self._held[name] = [entries[size:].copy()]
        self.written += size

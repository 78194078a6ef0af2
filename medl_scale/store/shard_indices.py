"""Shard indices of a store at a URL, asked for once each.

A shard says at its end where its chunks lie, and Zarr reads that end anew for every read of the
shard. From a server that doubles the requests, and makes each read wait for two answers in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, override

from zarr.abc.store import Store, SuffixByteRequest
from zarr.storage import WrapperStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["StoreWithIndices"]


class StoreWithIndices(WrapperStore[Store]):
    """A store that is only read and does not change, with the ends of its objects kept in memory.

    16 bytes a chunk: 2 KiB for the 32,768 rows of a shard.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._kept: dict[tuple[str, int], Buffer] = {}

    @override
    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if not isinstance(byte_range, SuffixByteRequest):
            return await super().get(key, prototype, byte_range)
        asked = key, byte_range.suffix
        if asked not in self._kept:
            found = await super().get(key, prototype, byte_range)
            if found is None:
                return None
            self._kept[asked] = found
        return self._kept[asked]

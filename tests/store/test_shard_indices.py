from collections import Counter

import numpy as np
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.storage import WrapperStore

from medl_scale.store.access import zarr_store
from medl_scale.store.shard_indices import StoreWithIndices


class Counting(WrapperStore):
    """Counts who asks for the ends of objects."""

    def __init__(self, store):
        super().__init__(store)
        self.ends = Counter()

    async def get(self, key, prototype, byte_range=None):
        if isinstance(byte_range, SuffixByteRequest):
            self.ends[key] += 1
        return await super().get(key, prototype, byte_range)


def test_a_shard_is_asked_once_where_its_chunks_lie(tmp_path):
    values = np.arange(1000)
    url = f"memory://{tmp_path.name}"
    zarr.create_array(zarr_store(url, read_only=False), data=values, chunks=(10,), shards=(250,))
    counting = Counting(zarr_store(url))
    array = zarr.open_array(StoreWithIndices(counting), mode="r")
    for start in (3, 240, 600, 3, 700, 990):
        np.testing.assert_array_equal(array[start : start + 20], values[start : start + 20])
    assert counting.ends == {"c/0": 1, "c/1": 1, "c/2": 1, "c/3": 1}
    plain = zarr.open_array(counting, mode="r")
    for _ in range(2):
        np.testing.assert_array_equal(plain[5:15], values[5:15])
    assert counting.ends["c/0"] == 3


def test_what_is_not_there_is_asked_for_again(tmp_path):
    store = zarr_store(f"memory://{tmp_path.name}", read_only=False)
    array = zarr.create_array(store, shape=(100,), chunks=(10,), shards=(50,), dtype="i4")
    reader = zarr.open_array(StoreWithIndices(store), mode="r")
    assert not reader[:10].any()
    array[:50] = 1
    assert reader[:10].all()

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

from medl_scale.errors import ConfigError, DataError, StoreError
from medl_scale.store.atlas import read_columns
from medl_scale.stream import CachedSource, EpochPlan, Transform, blocks, open_source, stream
from medl_scale.stream.source import DiskSource, MemorySource
from tests.stream.conftest import N_OBS, N_VARS

if TYPE_CHECKING:
    from medl_scale.stream import Minibatch

TRAIN = (slice(0, 240), slice(470, N_OBS))
SCALED = Transform("counts", 1e4, 0.1)


def plan_of(epoch: int = 0) -> EpochPlan:
    return EpochPlan(TRAIN, 48, 16, 128, seed=3, epoch=epoch)


def assert_same(found: list[Minibatch], expected: list[Minibatch]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.whole is None
        for one, other in zip(a[:4], b[:4], strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


@pytest.fixture
def expected(counts, columns):
    return list(stream(MemorySource(counts), columns, plan_of(), SCALED, prefetch=0))


def test_a_minibatch_is_what_numpy_makes_of_its_rows(counts, columns, dense):
    plan = plan_of()
    made = stream(MemorySource(counts), columns, plan, SCALED)
    for t, minibatch in enumerate(made):
        rows = plan.minibatch_rows(t)
        assert np.array_equal(minibatch.rows, rows)
        assert minibatch.x.dtype == np.float32
        assert np.allclose(minibatch.x, dense[rows] * 0.1, rtol=6e-7, atol=0)
        assert np.array_equal(minibatch.batch_codes, columns.batch_codes[rows])
        assert np.array_equal(minibatch.label_codes, columns.label_codes[rows])
        assert minibatch.batch_codes.dtype == minibatch.label_codes.dtype == np.int32


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("budget", [None, 0, 9_000, 2**30])
def test_disk_cache_and_prefetch_change_no_bit(on_disk, columns, expected, prefetch, budget):
    source = DiskSource(on_disk)
    if budget is not None:
        source = CachedSource(source, budget, run_size=16)
    for _ in range(2):
        made = stream(source, columns, plan_of(), SCALED, prefetch=prefetch)
        assert_same(list(made), expected)


def test_an_atlas_gives_the_same_bits_in_memory_and_on_disk(in_memory, on_disk, expected):
    for ref in (in_memory, on_disk):
        with open_source(ref, cache_memory=5_000) as source:
            assert_same(
                list(stream(source, read_columns(ref), plan_of(), SCALED)),
                [one._replace(label_codes=np.full_like(one.label_codes, -1)) for one in expected],
            )  # the atlas has no labels


@pytest.mark.parametrize("world_size", [2, 3, 16])
def test_ranks_together_see_what_one_alone_sees(counts, columns, expected, world_size):
    source = MemorySource(counts)
    ranks = [
        list(stream(source, columns, plan_of(), SCALED, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for t, alone in enumerate(expected):
        for field in range(4):
            together = np.concatenate([of_rank[t][field] for of_rank in ranks])
            assert np.array_equal(together, alone[field])
        for of_rank in ranks:
            assert np.array_equal(of_rank[t].whole.rows, alone.rows)
            assert of_rank[t].whole.sizes == tuple(len(other[t].rows) for other in ranks)


@pytest.mark.parametrize("start", [1, 4, 9])
def test_starting_later_gives_the_tail(counts, columns, expected, start):
    made = stream(MemorySource(counts), columns, plan_of(), SCALED, start=start)
    assert_same(list(made), expected[start:])


def test_minibatches_stay_as_they_are_while_they_are_held(counts, columns, expected):
    copies = [
        one._replace(x=one.x.copy())
        for one in stream(MemorySource(counts), columns, plan_of(), SCALED)
    ]
    assert_same(expected, copies)


def test_arrays_are_used_again_when_minibatches_are_dropped(counts, columns):
    where = {
        one.x.__array_interface__["data"][0]
        for one in stream(MemorySource(counts), columns, plan_of(), SCALED, prefetch=2)
    }
    assert len(where) <= 5


def test_epochs_have_the_same_rows_in_another_order(counts, columns):
    source = MemorySource(counts)
    first, second = (
        np.concatenate([one.rows for one in stream(source, columns, plan_of(epoch), SCALED)])
        for epoch in (0, 1)
    )
    assert np.array_equal(np.sort(first), np.sort(second))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("block_rows", [1, 32, 100, 9_000])
def test_blocks_hold_the_rows_in_order(on_disk, columns, dense, prefetch, block_rows):
    slices = [slice(5, 105), slice(300, 500)]
    made = list(blocks(DiskSource(on_disk), columns, slices, SCALED, block_rows, prefetch=prefetch))
    rows = np.concatenate([block.rows for block in made])
    assert rows.tolist() == [*range(5, 105), *range(300, 500)]
    assert {block.rows.size for block in made[:-1]} <= {block_rows}
    x = np.concatenate([block.x for block in made])
    assert np.allclose(x, dense[rows] * 0.1, rtol=6e-7, atol=0)
    codes = np.concatenate([block.batch_codes for block in made])
    assert np.array_equal(codes, columns.batch_codes[rows])


def test_blocks_of_no_rows_are_none(counts, columns):
    assert list(blocks(MemorySource(counts), columns, [], SCALED, 10)) == []


def test_blocks_and_minibatches_of_a_row_are_bitwise_equal(counts, columns, expected):
    source = MemorySource(counts)
    whole = np.concatenate(
        [block.x for block in blocks(source, columns, [slice(0, N_OBS)], SCALED, 64)]
    )
    for one in expected:
        assert np.array_equal(whole[one.rows], one.x)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_bad_value_in_the_store_stops_the_stream_and_names_the_row(columns, prefetch):
    values = np.ones((N_OBS, N_VARS), np.float32)
    values[600, 7] = np.nan
    source = MemorySource(sparse.csr_array(values))
    with pytest.raises(DataError, match="row 600 of the atlas holds another"):
        list(stream(source, columns, plan_of(), SCALED, prefetch=prefetch))
    with pytest.raises(DataError, match="row 600 of the atlas holds another"):
        list(blocks(source, columns, TRAIN, SCALED, 50, prefetch=prefetch))


def test_a_store_truncated_while_it_is_read_is_an_error_that_names_it(on_disk, columns, tmp_path):
    damaged = shutil.copytree(on_disk, tmp_path / "damaged.zarr")
    source = DiskSource(damaged)
    for shard in (damaged / "X" / "data" / "c").iterdir():
        shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"damaged\.zarr cannot be read"):
        list(stream(source, columns, plan_of(), SCALED))


def test_what_cannot_be_is_refused_before_anything_is_read(counts, columns):
    source = MemorySource(counts)
    with pytest.raises(ConfigError, match="got 17"):
        stream(source, columns, plan_of(), SCALED, world_size=17)
    with pytest.raises(ConfigError, match="10 minibatches, 0 to 9; got 10"):
        stream(source, columns, plan_of(), SCALED, start=10)


def test_the_time_waited_is_told(counts, columns):
    with stream(MemorySource(counts), columns, plan_of(), SCALED) as made:
        assert made.wait_s == 0
        next(made)
        assert made.wait_s > 0

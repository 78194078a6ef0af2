from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from medl_scale.errors import AtlasError, DataError, StoreError
from medl_scale.stream import CachedSource, open_source
from medl_scale.stream.runs import row_numbers
from medl_scale.stream.source import DiskSource, MemorySource
from tests.stream.conftest import N_OBS, N_VARS, write_csr

if TYPE_CHECKING:
    from pathlib import Path

run = st.tuples(st.integers(0, N_OBS), st.integers(0, 150)).map(
    lambda at: slice(at[0], min(at[0] + at[1], N_OBS))
)


def at_url(path: Path) -> str:
    """Copy a store to a place that only fsspec reaches; return its URL."""
    url = f"memory://{uuid.uuid4().hex}/{path.name}"
    fsspec.filesystem("memory").put(str(path), url, recursive=True)
    return url


SOURCES = {
    "disk": lambda path, _: DiskSource(path),
    "at a URL": lambda path, _: DiskSource(at_url(path)),
    "memory": lambda _, matrix: MemorySource(matrix),
    "memory, dense": lambda _, matrix: MemorySource(matrix.toarray()),
    "memory, columns first": lambda _, matrix: MemorySource(sparse.csc_matrix(matrix)),
    "all of it cached": lambda path, _: CachedSource(DiskSource(path), 2**30, run_size=16),
    "some of it cached": lambda _, matrix: CachedSource(MemorySource(matrix), 12_000, run_size=30),
    "nothing cached": lambda _, matrix: CachedSource(MemorySource(matrix), 0, run_size=7),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request, on_disk, counts):
    """Every kind of source in turn: all of them must pass the tests that ask for it."""
    with SOURCES[request.param](on_disk, counts) as source:
        yield source


@pytest.fixture(scope="module")
def disk(on_disk):
    with DiskSource(on_disk) as source:
        yield source


@settings(max_examples=25)
@given(runs=st.lists(run, max_size=6))
def test_rows_come_in_the_order_asked(source, counts, runs):
    found = source.fetch(runs)
    expected = counts[row_numbers(runs)]
    assert found.indptr.dtype == np.int64
    assert found.data.dtype == np.uint16
    assert np.array_equal(found.indptr, expected.indptr)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.data, expected.data)


@pytest.mark.parametrize("runs", [[], [slice(3, 3)]], ids=["no run", "an empty run"])
def test_nothing_is_read_where_nothing_is_asked(source, runs):
    data, indices, indptr = source.fetch(runs)
    assert data.size == indices.size == 0
    assert data.dtype == np.uint16
    assert indptr.tolist() == [0]


def test_a_source_knows_its_shape(source):
    assert (source.n_obs, source.n_vars) == (N_OBS, N_VARS)


@pytest.mark.parametrize("rows", [slice(-1, 3), slice(N_OBS, N_OBS + 1), slice(0, N_OBS + 1)])
def test_rows_that_do_not_exist_are_refused(source, rows):
    with pytest.raises(DataError, match="Rows must lie between 0 and 701"):
        source.fetch([slice(0, 2), rows])


def test_zarrs_decodes_what_is_on_disk(disk):
    from zarrs import ZarrsCodecPipeline

    arrays = disk._loader._sparse_dataset_elem_cache[0]
    for array in (arrays.data, arrays.indices):
        assert isinstance(array.codec_pipeline, ZarrsCodecPipeline)
        assert array.codec_pipeline.impl is not None


def test_zarr_is_left_as_it_was(on_disk):
    before = zarr.config.get("codec_pipeline.path")
    with DiskSource(on_disk):
        assert zarr.config.get("codec_pipeline.path") == before


def test_what_lies_at_a_url_is_left_to_zarr_which_asks_for_much_at_once(on_disk, monkeypatch):
    from zarr.core.codec_pipeline import BatchedCodecPipeline

    url, asked = at_url(on_disk), []
    source = DiskSource(url)
    read = BatchedCodecPipeline.read

    async def spying(pipeline, *args, **options):
        asked.append(zarr.config.get("async.concurrency"))
        return await read(pipeline, *args, **options)

    monkeypatch.setattr(BatchedCodecPipeline, "read", spying)
    before = zarr.config.get("async.concurrency")
    source.fetch([slice(0, 9), slice(500, 600)])
    assert set(asked) == {64}
    assert zarr.config.get("async.concurrency") == before


def test_an_s3_server_gives_the_rows_that_the_disk_gives(s3, on_disk, counts):
    url = f"{s3.bucket()}/atlas.zarr"
    fsspec.filesystem("s3").put(str(on_disk), url, recursive=True)
    runs = [slice(0, 16), slice(120, 140), slice(690, N_OBS)]
    with open_source(url) as remote, open_source(on_disk) as local:
        for found, expected in zip(remote.fetch(runs), local.fetch(runs), strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


def test_columns_from_disk_keep_their_narrow_type(disk):
    assert disk.fetch([slice(0, 9)]).indices.dtype == np.uint16


def test_an_atlas_on_disk_is_read_through_a_cache_where_there_is_memory(on_disk):
    with open_source(on_disk) as source:
        assert isinstance(source, DiskSource)
    with open_source(str(on_disk), cache_memory=10_000) as source:
        assert isinstance(source, CachedSource)


def test_an_atlas_in_memory_is_not_cached(in_memory):
    assert isinstance(open_source(in_memory, cache_memory=10_000), MemorySource)


def test_what_is_not_a_prepared_atlas_is_refused(tmp_path, in_memory):
    with pytest.raises(AtlasError, match=r"nothing.zarr does not exist"):
        open_source(tmp_path / "nothing.zarr")
    bare = in_memory.copy()
    del bare.uns["medl_scale"]
    with pytest.raises(AtlasError, match="not a prepared atlas"):
        open_source(bare)


def test_a_matrix_that_is_not_in_memory_is_refused():
    with pytest.raises(AtlasError, match=r"found list\. Use adata\.to_memory\(\)"):
        MemorySource([[1, 2]])


@pytest.fixture
def damaged(on_disk, tmp_path):
    """A copy of the atlas to be damaged."""
    return shutil.copytree(on_disk, tmp_path / "damaged.zarr")


def shards(store: Path, name: str) -> list[Path]:
    return sorted(path for path in (store / "X" / name / "c").iterdir() if path.is_file())


@pytest.mark.parametrize("name", ["data", "indices"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_an_error_that_names_the_store(damaged, name, kept):
    shard = shards(damaged, name)[2]
    shard.write_bytes(shard.read_bytes()[: int(kept * shard.stat().st_size)])
    source = DiskSource(damaged)
    with pytest.raises(StoreError, match=r"damaged\.zarr cannot be read .* truncated or damaged"):
        source.fetch([slice(0, N_OBS)])


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_object_is_an_error_that_names_the_url(damaged, kept):
    shard = shards(damaged, "data")[2]
    shard.write_bytes(shard.read_bytes()[: int(kept * shard.stat().st_size)])
    url = at_url(damaged)
    source = DiskSource(url)
    with pytest.raises(StoreError, match=rf"{url} cannot be read .* truncated or damaged"):
        source.fetch([slice(0, N_OBS)])


def test_a_store_at_a_url_without_one_of_its_arrays_is_an_error_that_names_it(damaged):
    shutil.rmtree(damaged / "X" / "indptr")
    url = at_url(damaged)
    with pytest.raises(StoreError, match=rf"{url} cannot be read"):
        DiskSource(url)


def test_a_cache_does_not_keep_what_could_not_be_read(damaged):
    shard = shards(damaged, "data")[2]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    source = CachedSource(DiskSource(damaged), 2**30, run_size=16)
    with pytest.raises(StoreError, match="truncated or damaged"):
        source.fetch([slice(0, N_OBS)])
    assert source.cached_bytes == 0


@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
def test_a_store_without_one_of_its_arrays_is_an_error_that_names_it(damaged, name):
    shutil.rmtree(damaged / "X" / name)
    with pytest.raises(StoreError, match=r"damaged\.zarr cannot be read"):
        DiskSource(damaged)


@pytest.mark.parametrize(
    "change",
    [lambda p: p[:-1], lambda p: p[::-1], lambda p: p + 1],
    ids=["short", "falling", "shifted"],
)
def test_a_matrix_whose_parts_do_not_agree_is_an_error_that_names_the_store(
    damaged, counts, change
):
    write_csr(damaged, counts)
    group = zarr.open_group(damaged / "X", mode="a")
    group.create_array("indptr", data=change(counts.indptr.astype(np.int64)), overwrite=True)
    with pytest.raises(StoreError, match=r"damaged\.zarr is damaged: its rows and its values"):
        DiskSource(damaged)

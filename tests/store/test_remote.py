import itertools
import threading
import time

import anndata as ad
import numpy as np
import pytest

from medl_scale.errors import (
    AtlasError,
    ConfigError,
    LatentsIncompleteError,
    OutputExistsError,
    StoreError,
)
from medl_scale.progress import SilentProgress
from medl_scale.store.access import file_sizes, filesystem, read_file
from medl_scale.store.atlas import describe, is_prepared
from medl_scale.store.latents import read_latent, read_latent_provenance, write_latent
from medl_scale.store.places import join
from medl_scale.store.remote import remove_consolidated, uploaded_directory
from tests.store.test_latents import N_OBS, in_blocks, make_store, values_of


@pytest.fixture
def memory(tmp_path):
    return f"memory://{tmp_path.name}/atlas.zarr"


@pytest.fixture(params=["memory://", "s3://"])
def url(request, memory):
    """A place at which nothing is yet."""
    if request.param == "memory://":
        return memory
    return f"{request.getfixturevalue('s3').bucket()}/deep/atlas.zarr"


def upload(url, *, overwrite=False, **options):
    with uploaded_directory(url, overwrite=overwrite, progress=SilentProgress()) as folder:
        make_store(folder, **options)


def pipe(url, name, content=b"x"):
    system, root = filesystem(url)
    system.pipe_file(f"{root}{name}", content)


def beside(url):
    """Everything in the folder of a store, by its name there."""
    return sorted(file_sizes(url.rpartition("/")[0]))


def test_what_was_uploaded_reads_back_and_nothing_else_is_left(url, tmp_path):
    upload(url)
    local = make_store(tmp_path / "local.zarr")
    assert [name.removeprefix("atlas.zarr/") for name in beside(url)] == sorted(file_sizes(local))
    assert b"consolidated_metadata" in read_file(url, "zarr.json")
    found, expected = ad.read_zarr(url), ad.read_zarr(local)
    np.testing.assert_array_equal(found.X, expected.X)
    np.testing.assert_array_equal(found.obs["number"], expected.obs["number"])


def test_a_store_is_replaced_only_when_asked_and_then_wholly(url):
    upload(url, n_obs=20)
    pipe(url, "/old[1]/zarr.json")
    with pytest.raises(OutputExistsError, match=r"atlas\.zarr exists already\. Choose another"):
        upload(url, n_obs=30)
    assert ad.read_zarr(url).n_obs == 20
    upload(url, n_obs=30, overwrite=True)
    assert ad.read_zarr(url).n_obs == 30
    assert not any("old" in name for name in beside(url))


def test_what_is_no_store_is_never_replaced(memory):
    pipe(memory, "/notes.txt")
    with pytest.raises(OutputExistsError, match="exists and is not a Zarr store; it is not replac"):
        upload(memory, overwrite=True)
    assert beside(memory) == ["atlas.zarr/notes.txt"]


def test_a_whole_bucket_is_no_place_for_a_store(s3):
    url = s3.bucket()
    with pytest.raises(ConfigError, match=rf"{url} is a whole bucket\. .* such as {url}/atlas"):
        upload(url)


def test_an_error_before_the_upload_leaves_the_old_store(memory):
    upload(memory, n_obs=20)
    before = beside(memory)
    upload_folder = uploaded_directory(memory, overwrite=True, progress=SilentProgress())
    with pytest.raises(ZeroDivisionError), upload_folder as folder:
        make_store(folder, n_obs=30 // 0)
    assert beside(memory) == before
    assert ad.read_zarr(memory).n_obs == 20


class Failing:
    """Lets some uploads of files pass, then the storage fails."""

    def __init__(self, monkeypatch, n_passed):
        import s3fs

        real, passed = s3fs.S3FileSystem._put_file, itertools.count()

        async def put(system, *args, **options):
            if next(passed) >= n_passed:
                raise ConnectionResetError("the line was cut")
            return await real(system, *args, **options)

        monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", put)


def test_an_upload_that_fails_leaves_no_half_store(s3, monkeypatch, tmp_path):
    url = f"{s3.bucket()}/atlas.zarr"
    n_passed = len(file_sizes(make_store(tmp_path / "local.zarr"))) - 1
    with monkeypatch.context() as patch:
        Failing(patch, n_passed)
        with pytest.raises(StoreError, match=r"atlas\.zarr cannot be reached \(ConnectionReset"):
            upload(url)
    assert s3.objects(url.rpartition("/")[0]) == {}
    upload(url)
    assert ad.read_zarr(url).n_obs == N_OBS


def test_what_a_killed_upload_leaves_is_no_atlas_and_is_replaced(url):
    pipe(url, ".medl-tmp-upload")
    pipe(url, "/X/zarr.json", b"{}")
    pipe(url, "/uns/medl_scale/part_bounds/zarr.json", b"{}")
    pipe(url, "/obs/lost/c/0")
    assert not is_prepared(url)
    with pytest.raises(AtlasError, match=r"atlas\.zarr is not a prepared atlas: no Zarr v3 store"):
        describe(url)
    upload(url)
    assert not any("lost" in name or "tmp" in name for name in beside(url))


def test_a_bucket_that_is_not_there_is_told_before_anything_is_made(s3):
    url = f"{s3.bucket()}-not/atlas.zarr"
    entered = uploaded_directory(url, overwrite=False, progress=SilentProgress())
    with pytest.raises(StoreError, match=r"-not/atlas\.zarr cannot be written: .* Make the bucket"):
        entered.__enter__()


def write(url, values, key="X_medl_fe", **provenance):
    write_latent(url, key, in_blocks(values), n_latent=values.shape[1], provenance=provenance)


def test_anndata_reads_latents_that_were_written_and_replaced_at_a_url(url):
    upload(url)
    write(url, values_of(), fold=1)
    write(url, values_of(n_latent=9), fold=3)
    adata = ad.read_zarr(url)
    np.testing.assert_array_equal(adata.obsm["X_medl_fe"], values_of(n_latent=9))
    assert adata.obsm["X_other"].shape == (N_OBS, 3)
    assert adata.uns["medl_scale_latents"]["X_medl_fe"] == {"fold": 3}
    assert adata.uns["mine"] == "kept"
    np.testing.assert_array_equal(read_latent(url, "X_medl_fe"), values_of(n_latent=9))
    assert read_latent_provenance(url, "X_medl_fe") == {"fold": 3}


def test_obsm_is_made_where_there_is_none(memory):
    upload(memory, obsm=False)
    write(memory, values_of())
    np.testing.assert_array_equal(ad.read_zarr(memory).obsm["X_medl_fe"], values_of())


def test_a_store_without_consolidated_metadata_stays_without(memory):
    upload(memory)
    assert remove_consolidated(memory)
    write(memory, values_of())
    assert b"consolidated_metadata" not in read_file(memory, "zarr.json")
    assert not remove_consolidated(memory)


def test_bad_blocks_leave_the_old_latent_at_a_url(memory):
    upload(memory)
    write(memory, values_of())
    with pytest.raises(
        LatentsIncompleteError, match=r"obsm\['X_medl_fe'\] of memory://.* needs all"
    ):
        write_latent(
            memory, "X_medl_fe", in_blocks(values_of(seed=1))[1:], n_latent=4, provenance={}
        )
    np.testing.assert_array_equal(read_latent(memory, "X_medl_fe"), values_of())


def test_only_an_anndata_store_takes_latents_at_a_url(memory):
    with pytest.raises(
        AtlasError, match=r"Latents go into an AnnData Zarr v3 store; memory://.* is"
    ):
        write(memory, values_of())


def test_an_absent_latent_is_named_with_those_there_are(memory):
    upload(memory)
    with pytest.raises(
        LatentsIncompleteError, match=r"no latent 'X_medl_re' in .*found: 'X_other'"
    ):
        read_latent(memory, "X_medl_re")


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_truncated_latent_is_named(memory, damage):
    upload(memory)
    write(memory, values_of())
    system, root = filesystem(join(memory, "obsm", "X_medl_fe"))
    if damage == "lost":
        system.rm_file(f"{root}/c/0/0")
    else:
        system.pipe_file(f"{root}/c/0/0", b"")
    with pytest.raises(StoreError, match="X_medl_fe is truncated: 1 of its files are missing or"):
        read_latent(memory, "X_medl_fe")


def test_a_writer_that_dies_leaves_no_latent_rather_than_a_mixture(s3, monkeypatch):
    url = f"{s3.bucket()}/atlas.zarr"
    upload(url)
    write(url, values_of())
    with monkeypatch.context() as patch:
        # The values arrive, what makes them an array does not.
        Failing(patch, 1)
        with pytest.raises(StoreError, match="cannot be reached"):
            write(url, values_of(seed=1, n_latent=3))
    with pytest.raises(LatentsIncompleteError, match="no latent 'X_medl_fe'"):
        read_latent(url, "X_medl_fe")
    write(url, values_of(seed=1, n_latent=3))
    np.testing.assert_array_equal(
        ad.read_zarr(url).obsm["X_medl_fe"], values_of(seed=1, n_latent=3)
    )


def test_who_reads_while_others_write_gets_the_old_the_new_or_none(memory):
    upload(memory)
    stop = threading.Event()

    def write_for_ever():
        for generation in itertools.count():
            write(memory, np.full((N_OBS, 2 + generation % 3), generation, "float32"))
            if stop.is_set():
                return

    writer = threading.Thread(target=write_for_ever)
    writer.start()
    seen, ends = [], time.monotonic() + 30
    try:
        while len(set(seen)) < 5 and time.monotonic() < ends:
            try:
                latent = read_latent(memory, "X_medl_fe")
            except (LatentsIncompleteError, StoreError):
                continue
            generation = int(latent[0, 0])
            assert latent.shape == (N_OBS, 2 + generation % 3)
            assert (latent == generation).all()
            seen.append(generation)
    finally:
        stop.set()
        writer.join()
    assert len(set(seen)) == 5
    assert seen == sorted(seen)

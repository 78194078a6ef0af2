import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.errors import AtlasError, DataError, LatentsIncompleteError, StoreError
from medl_scale.store.atomic import sweep_leftovers
from medl_scale.store.latents import (
    read_latent,
    read_latent_array,
    read_latent_provenance,
    write_latent,
    write_latent_array,
)
from tests.store.disks import fill, small_disk

N_OBS = 60
PROVENANCE = {"model": "fe", "fold": 0, "versions": {"keras": "3.15"}}


def make_store(path: Path, n_obs: int = N_OBS, *, obsm: bool = True) -> Path:
    """An AnnData Zarr v3 store as another program may write it."""
    root = zarr.open_group(path, mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for axis, n in (("obs", n_obs), ("var", 2)):
        frame = root.create_group(axis)
        frame.attrs.update(
            {
                "encoding-type": "dataframe",
                "encoding-version": "0.2.0",
                "_index": "_index",
                "column-order": ["number"],
            }
        )
        ad.io.write_elem(frame, "number", np.arange(n))
        ad.io.write_elem(frame, "_index", np.array([f"{axis}{i}" for i in range(n)], dtype=object))
    ad.io.write_elem(root, "X", np.zeros((n_obs, 2), dtype="float32"))
    ad.io.write_elem(root, "uns", {"mine": "kept"})
    if obsm:
        ad.io.write_elem(root, "obsm", {"X_other": np.ones((n_obs, 3))})
    return path


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "atlas.zarr")


def values_of(n_obs=N_OBS, n_latent=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_obs, n_latent)).astype("float32")


def in_blocks(values, size=7):
    return [
        (slice(start, min(start + size, len(values))), values[start : start + size])
        for start in range(0, len(values), size)
    ]


def write(store, key="X_medl_fe", blocks=None, *, n_latent=4, provenance=PROVENANCE):
    blocks = in_blocks(values_of()) if blocks is None else blocks
    write_latent(store, key, blocks, n_latent=n_latent, provenance=provenance)


def test_anndata_reads_the_latent_and_its_provenance(store):
    write(store)
    write(store, "X_medl_re", in_blocks(values_of(n_latent=2)), n_latent=2)
    adata = ad.read_zarr(store)
    np.testing.assert_array_equal(adata.obsm["X_medl_fe"], values_of())
    assert adata.obsm["X_medl_fe"].dtype == np.float32
    assert adata.uns["medl_scale_latents"]["X_medl_fe"]["versions"] == {"keras": "3.15"}
    assert adata.uns["medl_scale_latents"]["X_medl_re"]["fold"] == 0
    assert adata.uns["mine"] == "kept"
    assert adata.obsm["X_other"].shape == (N_OBS, 3)
    assert read_latent_provenance(store, "X_medl_fe") == PROVENANCE


def test_obsm_is_made_where_there_is_none(tmp_path):
    store = make_store(tmp_path / "atlas.zarr", obsm=False)
    write(store)
    np.testing.assert_array_equal(ad.read_zarr(store).obsm["X_medl_fe"], values_of())


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_a_store_with_consolidated_metadata_shows_the_new_latent(store):
    write(store)
    zarr.consolidate_metadata(store, zarr_format=3)
    write(store, blocks=in_blocks(values_of(n_latent=9)), n_latent=9)
    np.testing.assert_array_equal(ad.read_zarr(store).obsm["X_medl_fe"], values_of(n_latent=9))


def test_a_latent_is_replaced_by_one_of_another_width(store):
    write(store)
    write(store, blocks=in_blocks(values_of(n_latent=2)), n_latent=2, provenance={"model": "new"})
    np.testing.assert_array_equal(read_latent(store, "X_medl_fe"), values_of(n_latent=2))
    assert ad.read_zarr(store).uns["medl_scale_latents"]["X_medl_fe"] == {"model": "new"}


def test_provenance_of_many_kinds_can_be_read_back(store):
    provenance = {
        "nothing": None,
        "number": np.float32(0.5),
        "numbers": np.arange(3),
        "words": ["a", "b"],
        "mixed": [1, "a", None],
        "path": Path("runs/a"),
        "when": pd.Timestamp("2030-01-01"),
        "empty": [],
    }
    write(store, provenance=provenance)
    found = ad.read_zarr(store).uns["medl_scale_latents"]["X_medl_fe"]
    assert found["number"] == 0.5
    assert list(found["numbers"]) == [0, 1, 2]
    assert list(found["words"]) == ["a", "b"]
    assert json.loads(found["mixed"]) == [1, "a", None]
    assert found["path"] == "runs/a"
    assert read_latent_provenance(store, "X_medl_fe")["mixed"] == [1, "a", None]


@given(
    n_obs=st.integers(1, 40),
    n_latent=st.integers(1, 5),
    n_cuts=st.integers(0, 8),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_blocks_in_any_order_and_of_any_rows_read_back_equal(
    tmp_path_factory, n_obs, n_latent, n_cuts, seed
):
    path = tmp_path_factory.mktemp("latents") / "latents.zarr" / "fe" / "fold_0"
    rng = np.random.default_rng(seed)
    values = values_of(n_obs, n_latent, seed)
    parts = np.array_split(rng.permutation(n_obs), n_cuts + 1)
    write_latent_array(
        path,
        ((rows, values[rows]) for rows in parts),
        n_obs=n_obs,
        n_latent=n_latent,
        provenance={"seed": seed},
    )
    np.testing.assert_array_equal(read_latent_array(path), values)
    assert read_latent_provenance(path) == {"seed": seed}
    shutil.rmtree(path.parents[2])


def test_more_rows_than_a_chunk_read_back_equal(tmp_path):
    values = values_of(70_000, 2)
    blocks = in_blocks(values, 30_000)[::-1]
    write_latent_array(tmp_path / "latent.zarr", blocks, n_obs=70_000, n_latent=2, provenance={})
    np.testing.assert_array_equal(read_latent_array(tmp_path / "latent.zarr"), values)


def test_the_latents_of_a_run_form_a_zarr_hierarchy(tmp_path):
    for model in ("fe", "re"):
        write_latent_array(
            tmp_path / "run" / "latents.zarr" / model / "fold_1",
            in_blocks(values_of()),
            n_obs=N_OBS,
            n_latent=4,
            provenance={},
        )
    root = zarr.open_group(tmp_path / "run" / "latents.zarr", mode="r")
    assert sorted(root.keys()) == ["fe", "re"]
    assert root["re/fold_1"].shape == (N_OBS, 4)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["latents.zarr"]


BAD_BLOCKS = {
    "missing rows": (
        lambda values: in_blocks(values)[1:],
        LatentsIncompleteError,
        r"needs all 60 cells; 7 are missing, the first is row 0\. Encode every cell",
    ),
    "rows twice in two blocks": (
        lambda values: [*in_blocks(values), (slice(3, 5), values[3:5])],
        DataError,
        r"every row must come once; 2 of this block came before, such as row 3\.",
    ),
    "rows twice in one block": (
        lambda values: [(np.array([1, 2, 1]), values[:3])],
        DataError,
        r"every row must come once; 1 of this block came before, such as row 1\.",
    ),
    "rows that do not exist": (
        lambda values: [(np.array([0, 60]), values[:2])],
        DataError,
        r"rows must lie in 0\.\.59; got 60\.",
    ),
    "negative rows": (
        lambda values: [(np.array([-1]), values[:1])],
        DataError,
        r"rows must lie in 0\.\.59; got -1\.",
    ),
    "another width": (
        lambda values: [(slice(0, 5), values[:5, :3])],
        DataError,
        r"a block of 5 rows must have values of shape \(5, 4\); got \(5, 3\)\.",
    ),
    "values that are not finite": (
        lambda values: [(slice(0, 60), np.where(values > 1e9, values, np.nan))],
        DataError,
        r"latents must be finite; those of 60 cells are not, such as row 0\.",
    ),
}


@pytest.mark.parametrize("name", BAD_BLOCKS)
def test_bad_blocks_are_refused_and_the_old_latent_stays(store, name):
    make_blocks, error, message = BAD_BLOCKS[name]
    write(store)
    with pytest.raises(error, match=message):
        write(store, blocks=make_blocks(values_of(seed=1)))
    np.testing.assert_array_equal(read_latent(store, "X_medl_fe"), values_of())
    assert [entry.name for entry in store.parent.iterdir()] == [store.name]


def test_an_error_of_the_encoder_leaves_the_old_latent(store):
    def blocks():
        yield from in_blocks(values_of(seed=1))[:3]
        raise FloatingPointError("boo")

    write(store)
    with pytest.raises(FloatingPointError, match="boo"):
        write(store, blocks=blocks())
    np.testing.assert_array_equal(read_latent(store, "X_medl_fe"), values_of())


@pytest.mark.parametrize("key", ["", "a/b", ".hidden"])
def test_a_key_must_be_a_plain_name(store, key):
    with pytest.raises(DataError, match="An obsm key is a plain name such as 'X_medl_fe'"):
        write(store, key)


def test_only_an_anndata_store_takes_latents(tmp_path):
    zarr.open_group(tmp_path / "other.zarr", mode="w", zarr_format=3)
    for name in ("other.zarr", "nothing.zarr"):
        with pytest.raises(
            AtlasError, match=r"Latents go into an AnnData Zarr v3 store; .* is none"
        ):
            write(tmp_path / name)


def test_an_absent_latent_is_named_with_those_there_are(store):
    write(store)
    with pytest.raises(
        LatentsIncompleteError, match=r"no latent 'X_medl_re' in .*; found: 'X_medl_fe', 'X_other'"
    ):
        read_latent(store, "X_medl_re")


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["lost", "cut"]
)
def test_a_truncated_latent_is_named(store, damage):
    write(store)
    damage(store / "obsm" / "X_medl_fe" / "c" / "0" / "0")
    with pytest.raises(StoreError, match="X_medl_fe is truncated: 1 of its files are missing or"):
        read_latent(store, "X_medl_fe")


def test_a_full_disk_leaves_the_old_latent(tmp_path):
    with small_disk(tmp_path, n_bytes=4 << 20) as disk:
        store = make_store(disk / "atlas.zarr", 20_000)
        old, new = values_of(20_000), values_of(20_000, seed=1)
        write(store, blocks=in_blocks(old, 1000))
        for leave_bytes in (100_000, 330_000, 600_000):
            fill(disk, leave_bytes=leave_bytes)
            with pytest.raises(StoreError, match=r"disk is full while writing latents to .*atlas"):
                write(store, blocks=in_blocks(new, 1000))
            np.testing.assert_array_equal(read_latent(store, "X_medl_fe"), old)
            assert sorted(entry.name for entry in disk.iterdir()) == ["atlas.zarr", "filling"]
        (disk / "filling").unlink()
        write(store, blocks=in_blocks(new, 1000))
        np.testing.assert_array_equal(ad.read_zarr(store).obsm["X_medl_fe"], new)


WRITE_FOR_EVER = """
import itertools, sys
import numpy as np
from medl_scale.store.latents import write_latent
for generation in itertools.count():
    width = 2 + generation % 3
    blocks = [(slice(i, i + 20), np.full((20, width), generation, "float32")) for i in (40, 0, 20)]
    write_latent(sys.argv[1], "X_medl_fe", blocks, n_latent=width, provenance={"g": generation})
    print(generation, flush=True)
"""


def test_a_killed_writer_leaves_the_old_or_the_new_latent(store):
    for delay_ms in (2, 9, 17, 30):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(store)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        writer.stdout.readline()
        time.sleep(delay_ms / 1000)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        latent = read_latent(store, "X_medl_fe")
        generation = read_latent_provenance(store, "X_medl_fe")["g"]
        assert (latent == generation).all()
        assert latent.shape == (N_OBS, 2 + generation % 3)
        adata = ad.read_zarr(store)
        np.testing.assert_array_equal(adata.obsm["X_medl_fe"], latent)
        # The copy in uns may be one write behind; the next write brings it up to date.
        assert generation - adata.uns["medl_scale_latents"]["X_medl_fe"]["g"] in {0, 1}
    sweep_leftovers(store.parent)
    assert [entry.name for entry in store.parent.iterdir()] == [store.name]

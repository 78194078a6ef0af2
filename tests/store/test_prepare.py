"""From inputs to a prepared atlas: what it holds, and that bad input or a crash loses nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from medl_scale.errors import ConfigError, DataError, OutputExistsError, StoreError
from medl_scale.store import matrix as matrix_module
from medl_scale.store import readers
from medl_scale.store import shuffle as shuffle_module
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.prepare import prepare
from tests.store.counts import config, make_counts, scanpy_genes, write_mtx
from tests.store.disks import small_disk


@pytest.fixture(scope="module")
def adata():
    return make_counts()


def test_the_atlas_holds_the_counts_of_the_chosen_genes(tmp_path, adata):
    atlas = prepare([adata], tmp_path / "atlas.zarr", config())
    stored = ad.read_zarr(tmp_path / "atlas.zarr")
    rows = stored.obs["medl_original_row"].to_numpy()
    original = adata[rows, stored.var_names]
    assert (stored.X.toarray() == original.X.toarray()).all()
    assert stored.X.data.dtype == np.uint8
    assert list(stored.obs_names) == list(original.obs_names)
    assert list(stored.obs["age"]) == list(original.obs["age"])
    assert list(stored.var["chromosome"]) == list(original.var["chromosome"])
    assert sorted(rows) != list(rows)
    kept = np.diff(adata.X.indptr) >= 3
    assert sorted(rows) == list(np.flatnonzero(kept))
    assert describe(tmp_path / "atlas.zarr") == atlas
    assert (atlas.n_obs, atlas.n_vars) == stored.shape


def test_size_factors_are_totals_over_genes_that_stay(tmp_path, adata):
    prepare([adata], tmp_path / "atlas.zarr", config())
    stored = ad.read_zarr(tmp_path / "atlas.zarr")
    found = (adata.X > 0).sum(axis=0).A1 >= 3
    assert not found[[5, 6]].any()
    totals = adata.X[:, found].sum(axis=1).A1[stored.obs["medl_original_row"]]
    assert list(stored.obs["medl_size_factor"]) == list(totals)
    assert stored.obs["medl_size_factor"].dtype == np.float32


def test_parts_lie_one_after_another_and_keep_their_batches(tmp_path, adata):
    atlas = prepare([adata], tmp_path / "atlas.zarr", config(folds=4))
    stored = ad.read_zarr(tmp_path / "atlas.zarr")
    for part in range(4):
        rows = slice(atlas.part_bounds[part], atlas.part_bounds[part + 1])
        assert (stored.obs["medl_part"].iloc[rows] == part).all()
        train = np.concatenate([stored.obs["donor"].iloc[rows] for rows in atlas.split(part).train])
        assert set(train) == {"a", "b", "c"}
    table = pd.crosstab(stored.obs["medl_part"], [stored.obs["donor"], stored.obs["cell_type"]])
    assert np.ptp(table.to_numpy(), axis=0).max() <= 1


def test_one_seed_gives_one_atlas_whatever_the_blocks(tmp_path, adata, monkeypatch):
    prepare([adata], tmp_path / "one.zarr", config(seed=3))
    monkeypatch.setattr(readers, "_BLOCK_VALUES", 200)
    monkeypatch.setattr(shuffle_module, "_RANGE_BYTES", 500)
    monkeypatch.setattr(matrix_module, "CHUNK_ROWS", 4)
    monkeypatch.setattr(matrix_module, "SHARD_ROWS", 16)
    prepare([adata], tmp_path / "two.zarr", config(seed=3))
    prepare([adata], tmp_path / "other.zarr", config(seed=4))
    one, two, other = (ad.read_zarr(tmp_path / f"{name}.zarr") for name in ("one", "two", "other"))
    assert len(list((tmp_path / "two.zarr" / "X" / "data" / "c").iterdir())) > 3
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert (one.X.toarray() == two.X.toarray()).all()
    assert list(one.obs_names) != list(other.obs_names)


def test_the_layout_is_the_one_that_streams_best(tmp_path, adata):
    prepare([adata], tmp_path / "atlas.zarr", config())
    group = zarr.open_group(tmp_path / "atlas.zarr", mode="r")["X"]
    per_row = group["data"].shape[0] / group.attrs["shape"][0]
    for name in ("data", "indices"):
        (chunk,), (shard,) = group[name].chunks, group[name].shards
        assert chunk == round(256 * per_row)
        assert shard == 128 * chunk
        assert group[name].compressors[0].cname == "lz4"
    assert group["indices"].dtype == group["indptr"].dtype == np.int32


def test_an_atlas_read_by_anndata_serves_scipy_and_scanpy(tmp_path, adata):
    import scanpy

    prepare([adata], tmp_path / "atlas.zarr", config())
    read = ad.read_zarr(tmp_path / "atlas.zarr")
    assert read.X.tocoo().nnz == read.X.nnz
    scanpy.pp.calculate_qc_metrics(read, percent_top=None, inplace=True)
    assert (read.obs["total_counts"] == np.asarray(read.X.sum(axis=1)).ravel()).all()


def test_large_counts_get_the_type_they_need(tmp_path):
    for largest, dtype in ((255, np.uint8), (256, np.uint16), (70_000, np.uint32)):
        adata = make_counts()
        adata.X.data[0] = largest
        prepare([adata], tmp_path / "atlas.zarr", config(n_top_genes=None), overwrite=True)
        stored = ad.read_zarr(tmp_path / "atlas.zarr").X
        assert stored.dtype == dtype
        assert stored.max() == largest


def test_log_normalised_values_are_kept_as_they_are(tmp_path):
    import scanpy

    adata = make_counts()
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    prepare([adata], tmp_path / "atlas.zarr", config(input_units="lognorm"))
    stored = ad.read_zarr(tmp_path / "atlas.zarr")
    original = adata[stored.obs["medl_original_row"].to_numpy(), stored.var_names]
    assert (stored.X.toarray() == original.X.toarray()).all()
    assert (read_columns(tmp_path / "atlas.zarr").size_factors == 1).all()
    wanted = scanpy_genes(make_counts(), 20, "seurat", None, min_genes=3)
    assert list(stored.var_names) == list(wanted.index)


def test_log2_values_are_undone_and_normalised(tmp_path):
    adata = make_counts()
    logs = adata.copy()
    logs.X.data = np.log2(adata.X.data * np.float32(1.5) + 1)
    prepare([logs], tmp_path / "atlas.zarr", config(input_units="log2p1"))
    stored = ad.read_zarr(tmp_path / "atlas.zarr")
    original = adata[stored.obs["medl_original_row"].to_numpy()]
    wanted = 1.5 * original[:, stored.var_names].X.toarray()
    np.testing.assert_allclose(stored.X.toarray(), wanted, rtol=1e-5)
    kept = (adata.X > 0).sum(axis=0).A1 >= 3
    totals = 1.5 * original.X[:, kept].sum(axis=1).A1
    np.testing.assert_allclose(stored.obs["medl_size_factor"], totals, rtol=1e-5)


def test_several_files_of_several_kinds_become_one_atlas(tmp_path, adata):
    adata[:50].copy().write_h5ad(tmp_path / "one.h5ad")
    write_mtx(tmp_path / "two", adata[50:].copy())
    changes = {"batch_from_file": True, "batch_key": "file", "labels_key": None}
    atlas = prepare(
        [tmp_path / "one.h5ad", tmp_path / "two"], tmp_path / "atlas.zarr", config(**changes)
    )
    stored = ad.read_zarr(tmp_path / "atlas.zarr")
    rows = stored.obs["medl_original_row"].to_numpy()
    assert (stored.X.toarray() == adata[rows, stored.var_names].X.toarray()).all()
    assert atlas.batch_levels == ("one", "two")
    assert list(stored.obs["file"]) == ["one" if row < 50 else "two" for row in rows]
    assert [one["n_obs"] for one in atlas.provenance["inputs"]] == [50, 70]
    assert not (tmp_path / "atlas.zarr" / ".scratch").exists()


def test_all_genes_can_be_kept(tmp_path, adata):
    atlas = prepare([adata], tmp_path / "atlas.zarr", config(n_top_genes=None))
    stored = ad.read_zarr(tmp_path / "atlas.zarr")
    found = (adata.X > 0).sum(axis=0).A1 >= 3
    assert atlas.n_vars == found.sum() < adata.n_vars
    assert list(stored.var_names) == list(adata.var_names[found])
    np.testing.assert_array_equal(stored.obs["medl_size_factor"], stored.X.sum(axis=1).A1)


def test_provenance_counts_what_was_removed(tmp_path):
    adata = make_counts()
    counts = adata.X.toarray()
    counts[3] = 0
    counts[4] = 0
    counts[4, 6] = 1  # its only gene is removed
    rare = int(((counts > 0).sum(axis=0) < 4).sum())
    adata.X = sp.csr_matrix(counts)
    atlas = prepare([adata], tmp_path / "atlas.zarr", config(min_genes=0, min_cells=4))
    assert atlas.provenance["n_cells_removed"] == {"too_few_genes": 1, "no_counts_left": 1}
    assert atlas.provenance["n_genes_removed"] == {
        "too_few_cells": rare,
        "less_variable": 40 - rare,
    }
    assert atlas.provenance["config"]["batch_key"] == "donor"
    assert atlas.n_obs == 118


def without(column):
    def change(adata):
        adata.obs[column] = adata.obs[column].astype(object)
        adata.obs.iloc[[2, 5], adata.obs.columns.get_loc(column)] = None

    return change


def one_batch(adata):
    adata.obs["donor"] = "a"


def lonely_batch(adata):
    adata.obs["donor"] = ["z", *adata.obs["donor"].astype(str)[1:]]


def fractional(adata):
    adata.X.data[0] = 0.5


def negative(adata):
    adata.X.data[0] = -1


def missing(adata):
    adata.X.data[0] = np.nan


@pytest.mark.parametrize(
    ("change", "changes", "message"),
    [
        (None, {"batch_key": "doner"}, r"no obs column 'doner'. There are: 'donor', 'cell_type', 'age'. Did you mean 'donor'"),
        (None, {"labels_key": "celltype"}, r"no obs column 'celltype'.*Did you mean 'cell_type'"),
        (None, {"hvg_batch_key": "sample"}, r"no obs column 'sample'"),
        (without("donor"), {}, r"obs\['donor'\].*--batch-key, is missing \(NaN\) for 2 of 120 cells"),
        (without("cell_type"), {}, r"obs\['cell_type'\].*NaN\) for 2 of 120 cells: fill them with 'Unknown'"),
        (one_batch, {}, r"Two batches or more are expected in obs\['donor'\]; there is only 'a'"),
        (lonely_batch, {}, r"Every batch needs 2 cells.*'z' has 1"),
        (fractional, {}, r"counts must be non-negative integers.* 1 fractional .*cell 'cell0'"),
        (negative, {}, r"1 negative .*cell 'cell0'"),
        (missing, {}, r"1 NaN .*cell 'cell0'"),
        (None, {"min_genes": 50_000}, r"None of the 120 cells has 50,000 genes or more. Lower --min-genes"),
        (None, {"min_cells": 50_000}, r"None of the 60 genes is found in 50,000 cells or more"),
        (None, {"input_units": "lognorm"}, r"said to be lognorm, but all are integers.*look like counts"),
        (None, {"layer": "raw"}, r"no layer 'raw'. There are: none"),
    ],
)  # fmt: skip
def test_bad_input_is_explained_and_nothing_is_left(tmp_path, change, changes, message):
    adata = make_counts()
    if change is not None:
        change(adata)
    with pytest.raises(DataError, match=message):
        prepare([adata], tmp_path / "atlas.zarr", config(**changes))
    assert not list(tmp_path.iterdir())


def test_a_prepared_atlas_is_not_prepared_again(tmp_path, adata):
    prepare([adata], tmp_path / "atlas.zarr", config())
    for source in (tmp_path / "atlas.zarr", ad.read_zarr(tmp_path / "atlas.zarr")):
        with pytest.raises(DataError, match="is a prepared atlas already"):
            prepare([source], tmp_path / "again.zarr", config())


def test_what_is_there_is_only_replaced_when_asked(tmp_path, adata):
    output = tmp_path / "atlas.zarr"
    prepare([adata], output, config())
    with pytest.raises(OutputExistsError, match=r"atlas\.zarr exists already"):
        prepare([adata], output, config(seed=1))
    assert describe(output).provenance["config"]["seed"] == 0
    prepare([adata], output, config(seed=1), overwrite=True)
    assert describe(output).provenance["config"]["seed"] == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("dear to someone")
    with pytest.raises(OutputExistsError, match=r"thesis exists and is not a Zarr store"):
        prepare([adata], tmp_path / "thesis", config(), overwrite=True)
    assert (tmp_path / "thesis" / "chapter1").exists()


def test_an_input_is_never_overwritten(tmp_path, adata):
    adata.write_zarr(tmp_path / "raw.zarr")
    with pytest.raises(ConfigError, match=r"The output .*raw\.zarr is also an input"):
        prepare([tmp_path / "raw.zarr"], tmp_path / "raw.zarr", config(), overwrite=True)


@pytest.mark.parametrize("name", ["data", "indices"])
def test_a_truncated_input_is_named_and_nothing_is_left(tmp_path, adata, name):
    adata.write_zarr(tmp_path / "raw.zarr")
    chunk = tmp_path / "raw.zarr" / "X" / name / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-10])
    with pytest.raises(StoreError, match=r"raw\.zarr cannot be read"):
        prepare([tmp_path / "raw.zarr"], tmp_path / "atlas.zarr", config())
    assert [path.name for path in tmp_path.iterdir()] == ["raw.zarr"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    adata = make_counts(3000, 400)
    with small_disk(tmp_path, n_bytes=2**20) as disk:
        prepare([adata[:40].copy()], disk / "atlas.zarr", config())
        before = describe(disk / "atlas.zarr")
        with pytest.raises(StoreError, match=r"disk is full while writing .*atlas\.zarr"):
            prepare([adata], disk / "atlas.zarr", config(n_top_genes=None), overwrite=True)
        assert describe(disk / "atlas.zarr") == before
        assert [path.name for path in disk.iterdir()] == ["atlas.zarr"]


def test_a_full_disk_is_told_when_columns_are_turned_to_rows(tmp_path):
    adata = make_counts(3000, 400)
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "raw.h5ad")
    with (
        small_disk(tmp_path, n_bytes=2**18) as disk,
        pytest.raises(StoreError, match=r"disk is full while writing .*atlas\.zarr"),
    ):
        prepare([tmp_path / "raw.h5ad"], disk / "atlas.zarr", config())


ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from medl_scale.progress import SilentProgress
from medl_scale.store.prepare import prepare
from tests.store.counts import config

class Stop(SilentProgress):
    # Says that the step is reached, then waits to be killed.
    def step(self, name, total, unit="cells"):
        if name == sys.argv[3]:
            print("reached", flush=True)
            sys.stdin.read()
        return super().step(name, total, unit)

prepare([sys.argv[1]], sys.argv[2], config(), progress=Stop())
"""


@pytest.mark.parametrize("step", ["ranking genes", "writing cells"])
def test_a_killed_prepare_leaves_no_output_and_the_next_sweeps(tmp_path, adata, step):
    adata.write_h5ad(tmp_path / "raw.h5ad")
    output = tmp_path / "atlas.zarr"
    neighbour = tmp_path / "other.zarr.medl-tmp-123"
    neighbour.mkdir()
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        PROGRAM,
        str(tmp_path / "raw.h5ad"),
        str(output),
        step,
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "reached\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert not output.exists()
    assert len(list(tmp_path.glob("atlas.zarr.medl-tmp-*"))) == 1
    prepare([tmp_path / "raw.h5ad"], output, config())
    assert {path.name for path in tmp_path.iterdir()} == {"raw.h5ad", "atlas.zarr", neighbour.name}
    assert describe(output).n_obs > 0

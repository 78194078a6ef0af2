import io
import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from medl_scale.errors import ConfigError, OutputExistsError, StoreError
from medl_scale.progress import JsonProgress
from medl_scale.store.ground_truth import ground_truth
from medl_scale.store.simulate import simulate
from tests.store.disks import fill, small_disk

SIZES = {"n_cells": 3000, "n_genes": 400, "n_batches": 5, "n_labels": 6, "seed": 3}


@pytest.fixture(scope="module")
def adata(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "atlas.zarr"
    simulate(path, **SIZES)
    return ad.read_zarr(path)


def same(one: ad.AnnData, other: ad.AnnData) -> bool:
    return (
        one.shape == other.shape
        and (one.X != other.X).nnz == 0
        and one.obs.equals(other.obs)
        and one.var.equals(other.var)
        and all(np.array_equal(one.varm[key], other.varm[key]) for key in one.varm)
    )


def test_it_is_an_anndata_of_counts_with_batches_and_types(adata):
    assert adata.shape == (3000, 400)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.uint16
    assert adata.X.data.min() > 0
    assert adata.X.has_canonical_format
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert list(adata.obs["batch"].cat.categories) == [f"batch_{i}" for i in range(1, 6)]
    assert list(adata.obs["cell_type"].cat.categories) == [f"type_{i}" for i in range(1, 7)]
    assert adata.varm["type_profile"].shape == (400, 6)
    assert adata.varm["batch_shift"].shape == (400, 5)
    assert int(adata.uns["simulation"]["seed"]) == 3


def test_h5ad_and_zarr_hold_the_same(adata, tmp_path):
    simulate(tmp_path / "atlas.h5ad", **SIZES)
    assert same(ad.read_h5ad(tmp_path / "atlas.h5ad"), adata)
    backed = ad.read_h5ad(tmp_path / "atlas.h5ad", backed="r")
    np.testing.assert_array_equal(backed.X[10:20].toarray(), adata.X[10:20].toarray())
    backed.file.close()


def test_the_same_seed_gives_the_same_atlas_and_another_seed_another(adata, tmp_path):
    simulate(tmp_path / "again.zarr", **SIZES)
    simulate(tmp_path / "other.zarr", **SIZES | {"seed": 4})
    assert same(ad.read_zarr(tmp_path / "again.zarr"), adata)
    assert not same(ad.read_zarr(tmp_path / "other.zarr"), adata)


def test_the_truth_in_the_store_is_that_of_the_seed(adata):
    truth = ground_truth(n_genes=400, n_batches=5, n_labels=6, seed=3)
    np.testing.assert_array_equal(adata.varm["type_profile"], truth.type_profile.T)
    np.testing.assert_array_equal(adata.varm["batch_scale"], truth.batch_scale.T)
    np.testing.assert_array_equal(adata.varm["batch_shift"], truth.batch_shift.T)
    np.testing.assert_array_equal(adata.var["dispersion"], truth.dispersion)
    np.testing.assert_array_equal(adata.uns["simulation"]["type_shares"], truth.type_shares)


def test_counts_follow_the_negative_binomial_of_the_truth(adata):
    batch = adata.obs["batch"].cat.codes.to_numpy()
    cell_type = adata.obs["cell_type"].cat.codes.to_numpy()
    scale, profile = adata.varm["batch_scale"].T[batch], adata.varm["type_profile"].T[cell_type]
    shift = adata.varm["batch_shift"].T[batch]
    mean = adata.obs["library_size"].to_numpy()[:, None] * (scale * profile + shift)
    theta = adata.var["dispersion"].to_numpy()
    expected = stats.nbinom(theta, theta / (theta + mean))
    counts = adata.X.toarray()
    # Sums over cells are normal; over the genes their z-scores are standard normal.
    for found, truth, variance in (
        (counts, mean, expected.var()),
        (counts == 0, expected.pmf(0), expected.pmf(0) * (1 - expected.pmf(0))),
        (counts == 1, expected.pmf(1), expected.pmf(1) * (1 - expected.pmf(1))),
        (counts > 10, expected.sf(10), expected.sf(10) * expected.cdf(10)),
    ):
        enough = variance.sum(axis=0) > 5
        z = ((found - truth).sum(axis=0) / np.sqrt(variance.sum(axis=0)))[enough]
        assert abs(z.mean()) < 4 / np.sqrt(enough.sum())
        assert abs(z.std() - 1) < 4 / np.sqrt(2 * enough.sum())


@pytest.mark.parametrize(("n_genes", "n_cells"), [(2000, 600), (30_000, 150)])
def test_density_is_that_of_real_data(tmp_path, n_genes, n_cells):
    simulate(tmp_path / "a.zarr", n_cells=n_cells, n_genes=n_genes)
    density = ad.read_zarr(tmp_path / "a.zarr").X.nnz / n_cells / n_genes
    assert 0.05 < density < 0.10


def test_small_panels_still_detect_genes_in_nearly_every_cell(tmp_path):
    simulate(tmp_path / "a.zarr", n_cells=1000, n_genes=100)
    n_detected = np.diff(ad.read_zarr(tmp_path / "a.zarr").X.indptr)
    assert (n_detected >= 10).mean() > 0.95


@given(
    n_batches=st.integers(1, 12),
    n_labels=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_types_and_batches_are_all_there_but_not_everywhere(n_batches, n_labels, seed):
    truth = ground_truth(n_genes=5, n_batches=n_batches, n_labels=n_labels, seed=seed)
    present = truth.type_shares > 0
    np.testing.assert_allclose(truth.type_shares.sum(axis=1), 1, rtol=1e-5)
    assert present.any(axis=0).all()
    assert (present.sum(axis=1) >= min(2, n_labels)).all()
    if n_batches > 1 and n_labels > 4:
        assert not present.all()


def test_every_batch_shows_all_its_types_and_no_other(adata):
    seen = np.zeros((5, 6), dtype=int)
    np.add.at(seen, (adata.obs["batch"].cat.codes, adata.obs["cell_type"].cat.codes), 1)
    np.testing.assert_array_equal(seen > 0, adata.uns["simulation"]["type_shares"] > 0)
    frequency = np.sort(seen.sum(axis=0))
    assert frequency[-1] > 2 * frequency[0]


def test_types_can_be_told_apart_and_batches_shift_them(adata):
    counts = adata.X.toarray()
    logged = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    scores = PCA(20, random_state=0).fit_transform(logged)
    even = np.arange(3000) % 2 == 0
    for column, least in (("cell_type", 0.8), ("batch", 0.4)):
        codes = adata.obs[column].cat.codes.to_numpy()
        neighbours = KNeighborsClassifier(15).fit(scores[even], codes[even])
        assert neighbours.score(scores[~even], codes[~even]) > least


def test_the_smallest_atlases_have_two_cells_a_batch(tmp_path):
    simulate(tmp_path / "a.zarr", n_cells=6, n_genes=1, n_batches=3, n_labels=2)
    adata = ad.read_zarr(tmp_path / "a.zarr")
    assert adata.obs["batch"].value_counts().tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_genes": 0}, ConfigError, "n_genes must be at least 1; got 0."),
        ({"n_batches": 0}, ConfigError, "n_batches must be at least 1; got 0."),
        ({"n_labels": 0}, ConfigError, "n_labels must be at least 1; got 0."),
        ({"seed": -1}, ConfigError, "seed must be at least 0; got -1."),
        ({"n_cells": 9}, ConfigError, "5 batches and 6 cell types need at least 10 cells; got 9."),
        ({"n_labels": 90, "n_cells": 80}, ConfigError, "90 cell types need at least 90 cells"),
    ],
    ids=str,
)
def test_silly_sizes_are_refused_before_anything_is_written(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        simulate(tmp_path / "a.zarr", **SIZES | change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.csv", "a", "a.zarr.gz"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"written as '.zarr' or '.h5ad'; got 'a"):
        simulate(tmp_path / name, **SIZES)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5ad"])
def test_an_existing_atlas_is_not_overwritten_unasked(tmp_path, name):
    sizes = SIZES | {"n_cells": 40}
    read = ad.read_zarr if name.endswith("zarr") else ad.read_h5ad
    simulate(tmp_path / name, **sizes)
    with pytest.raises(OutputExistsError, match=r"exists already\. Choose another output"):
        simulate(tmp_path / name, **sizes | {"n_cells": 50})
    assert read(tmp_path / name).n_obs == 40
    simulate(tmp_path / name, **sizes | {"n_cells": 50}, overwrite=True)
    assert read(tmp_path / name).n_obs == 50
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.zarr", "a.h5ad"])
def test_a_full_disk_leaves_the_old_atlas(tmp_path, name):
    read = ad.read_zarr if name.endswith("zarr") else ad.read_h5ad
    with small_disk(tmp_path, n_bytes=24 << 20) as disk:
        simulate(disk / name, **SIZES | {"n_cells": 100, "n_genes": 50})
        # HDF5 takes a reserve of 16 MiB, so it is full before the first count, or after some.
        for leave_bytes in (1 << 20, 18 << 20):
            fill(disk, leave_bytes=leave_bytes if name.endswith("h5ad") else leave_bytes >> 4)
            with pytest.raises(StoreError, match="disk is full while writing"):
                simulate(disk / name, **SIZES | {"n_cells": 20_000}, overwrite=True)
            assert read(disk / name).n_obs == 100
            assert sorted(entry.name for entry in disk.iterdir()) == [name, "filling"]


def test_progress_counts_every_cell(tmp_path):
    stream = io.StringIO()
    simulate(tmp_path / "a.zarr", **SIZES, progress=JsonProgress(stream))
    first, last = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["step"], first["total"]) == ("Simulating", 3000)
    assert last["done"] == 3000


MEASURE = """
import resource, sys
from medl_scale.store.simulate import simulate
simulate(sys.argv[1], n_cells=int(sys.argv[2]), n_genes=50)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_cells(tmp_path):
    def peak_kib(n_cells):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / f"{n_cells}.zarr"), str(n_cells)]
        root = Path(__file__).parents[2]
        return int(subprocess.run(command, capture_output=True, check=True, cwd=root).stdout)

    assert peak_kib(300_000) < 1.25 * peak_kib(40_000)

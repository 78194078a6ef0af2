"""A small prepared atlas, in memory and on disk, with chunks and shards of a few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from hypothesis import settings
from scipy import sparse

from medl_scale.store.atlas import Atlas, Columns, manifest_of

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

N_OBS, N_VARS = 701, 40
CHUNK_ROWS, SHARD_ROWS = 16, 128
BATCHES = ("a", "b", "c")

# A kernel is compiled when it is first called, which takes longer than any deadline.
settings.register_profile("compiling", deadline=None)
settings.load_profile("compiling")


def write_csr(path: Path, matrix: sparse.csr_array) -> None:
    """Write `matrix` as the X of a store, in the narrow types and the sharded layout of an atlas."""
    group = zarr.open_group(path, mode="a", zarr_format=3).create_group("X", overwrite=True)
    group.attrs.update(
        {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(matrix.shape)}
    )
    chunk = max(1, CHUNK_ROWS * matrix.nnz // matrix.shape[0])
    for name, values in (("data", matrix.data), ("indices", matrix.indices.astype(np.uint16))):
        group.create_array(
            name, data=values, chunks=(chunk,), shards=(chunk * SHARD_ROWS // CHUNK_ROWS,)
        )
    group.create_array("indptr", data=matrix.indptr.astype(np.int64))


@pytest.fixture(scope="session")
def counts() -> sparse.csr_array:
    """Counts (701, 40) uint16, some above 255, one row without any."""
    random = np.random.default_rng(1)
    dense = random.poisson(random.lognormal(-1, 1.5, N_VARS), (N_OBS, N_VARS))
    dense[random.random(dense.shape) < 0.01] = 300
    dense[17] = 0
    return sparse.csr_array(dense.astype(np.uint16))


@pytest.fixture(scope="session")
def columns(counts: sparse.csr_array) -> Columns:
    """Codes and size factors of the rows of `counts`."""
    random = np.random.default_rng(2)
    totals = np.asarray(counts.sum(axis=1), np.float32) + 5
    labels = random.integers(-1, 4, N_OBS, dtype=np.int32)
    return Columns(random.integers(0, len(BATCHES), N_OBS, dtype=np.int32), labels, totals)


@pytest.fixture(scope="session")
def in_memory(counts: sparse.csr_array, columns: Columns) -> AnnData:
    """The atlas as an AnnData in memory."""
    import pandas as pd
    from anndata import AnnData

    atlas = Atlas(
        path=None,
        n_obs=N_OBS,
        n_vars=N_VARS,
        batch_key="batch",
        labels_key=None,
        unlabeled_category="Unknown",
        batch_levels=BATCHES,
        label_levels=(),
        input_units="counts",
        target_sum=1e4,
        part_bounds=(0, 240, 470, N_OBS),
        provenance={},
    )
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical.from_codes(columns.batch_codes, list(BATCHES)),
            "medl_size_factor": columns.size_factors,
        },
        index=[f"cell{i}" for i in range(N_OBS)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(N_VARS)])
    return AnnData(counts.copy(), obs=obs, var=var, uns={"medl_scale": manifest_of(atlas)})


@pytest.fixture(scope="session")
def on_disk(in_memory: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas as a store; tests that damage it must copy it."""
    from anndata.io import write_elem

    path = tmp_path_factory.mktemp("stream") / "atlas.zarr"
    write_elem(zarr.open_group(path, mode="w", zarr_format=3), "/", in_memory)
    write_csr(path, in_memory.X)
    return path


@pytest.fixture
def dense(counts: sparse.csr_array, columns: Columns) -> np.ndarray:
    """The log-normalised values, by NumPy in float64."""
    normalised = counts.toarray() * (1e4 / columns.size_factors.astype(np.float64))[:, None]
    return np.log1p(normalised)

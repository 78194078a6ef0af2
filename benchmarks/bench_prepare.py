"""How fast and how small `prepare` is: cells per second and core, peak memory, beside scanpy.

    python benchmarks/bench_prepare.py --cells 200000 --genes 20000 --density 0.07

Makes a store of that size block by block, prepares it in a process of its own, runs scanpy's
pipeline in memory on its first cells in another, and prints one JSON object. Both are measured
after a warm-up on a small store, so that imports and compilation do not count.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr

POOL_ROWS = 4_000
DEFAULT_CHUNK = 166_000


def pool(n_genes, density, rng):
    """Random rows with genes of unequal frequency, as (values, indices, lengths)."""
    share = rng.lognormal(0, 1.7, n_genes)
    for _ in range(30):
        share = np.clip(share * density / np.clip(share, 0, 0.98).mean(), 0, 5)
    found = rng.random((POOL_ROWS, n_genes), dtype=np.float32) < share.astype(np.float32)
    rows, genes = np.nonzero(found)
    values = rng.geometric(0.45, len(genes)).astype(np.float32)
    pointer = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=POOL_ROWS))))
    return sp.csr_matrix((values, genes.astype(np.int32), pointer), shape=found.shape)


def write_store(path, n_cells, n_genes, density, seed=0):
    """Write counts as anndata does by default: float32 values, int32 indices."""
    from anndata.io import write_elem

    rng = np.random.default_rng(seed)
    rows = pool(n_genes, density, rng)
    n_blocks = -(-n_cells // POOL_ROWS)
    root = h5py.File(path, "w") if path.suffix == ".h5ad" else zarr.open_group(path, mode="w")
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    group = root.create_group("X")
    shape = (n_blocks * POOL_ROWS, n_genes)
    shape_attribute = list(shape)
    group.attrs.update(
        {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape_attribute}
    )
    size = (rows.nnz * n_blocks,)
    make = group.create_dataset if path.suffix == ".h5ad" else group.create_array
    data = make("data", shape=size, dtype="float32", chunks=(DEFAULT_CHUNK,))
    indices = make("indices", shape=size, dtype="int32", chunks=(DEFAULT_CHUNK,))
    lengths = []
    for block in range(n_blocks):
        mixed = rows[rng.permutation(POOL_ROWS)]
        part = slice(block * rows.nnz, (block + 1) * rows.nnz)
        data[part], indices[part] = mixed.data, mixed.indices
        lengths.append(np.diff(mixed.indptr))
    pointer = np.concatenate(([0], np.cumsum(np.concatenate(lengths), dtype=np.int64)))
    make("indptr", shape=pointer.shape, dtype="int64")[:] = pointer
    levels = pd.Index([f"donor{number}" for number in range(20)], dtype=object)
    obs = pd.DataFrame(
        {"donor": pd.Categorical.from_codes(rng.integers(20, size=shape[0]), levels)},
        index=np.array([f"cell{number}" for number in range(shape[0])], dtype=object),
    )
    write_elem(root, "obs", obs)
    names = np.array([f"gene{number}" for number in range(n_genes)], dtype=object)
    write_elem(root, "var", pd.DataFrame(index=names))
    if path.suffix == ".h5ad":
        root.close()
    return shape[0]


def cost(work):
    """Wall and CPU seconds of `work()`, all threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure_prepare(source, small, target, top_genes):
    warnings.simplefilter("ignore")
    from medl_scale.config import PrepareConfig
    from medl_scale.store.prepare import prepare

    config = PrepareConfig(batch_key="donor", n_top_genes=top_genes)
    prepare([small], target / "warm.zarr", config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = cost(lambda: prepare([source], target / "atlas.zarr", config))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak / 1024, "idle_mib": before / 1024}


def measure_scanpy(small, top_genes):
    warnings.simplefilter("ignore")
    import anndata
    import scanpy

    def pipeline():
        read = anndata.read_h5ad if small.suffix == ".h5ad" else anndata.read_zarr
        adata = read(small)
        scanpy.pp.filter_cells(adata, min_genes=10)
        scanpy.pp.filter_genes(adata, min_cells=3)
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
        scanpy.pp.highly_variable_genes(adata, n_top_genes=top_genes)

    pipeline()
    wall, cpu = cost(pipeline)
    return {"wall_s": wall, "cpu_s": cpu}


def in_process(function, *arguments):
    """Return `function(*arguments)` of a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(function, *arguments).result()


def main():
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--density", type=float, default=0.07)
    parser.add_argument("--top-genes", type=int, default=3_000)
    parser.add_argument("--kind", choices=("zarr", "h5ad"), default="zarr")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        source, small = folder / f"source.{arguments.kind}", folder / f"small.{arguments.kind}"
        n_cells = write_store(source, arguments.cells, arguments.genes, arguments.density)
        n_small = write_store(small, 2 * POOL_ROWS, arguments.genes, arguments.density)
        ours = in_process(measure_prepare, source, small, folder, arguments.top_genes)
        scanpys = in_process(measure_scanpy, small, arguments.top_genes)
    finally:
        shutil.rmtree(folder)
    ours_per_cell, scanpys_per_cell = ours["cpu_s"] / n_cells, scanpys["cpu_s"] / n_small
    report = {
        "benchmark": "prepare",
        "kind": arguments.kind,
        "cells": n_cells,
        "genes": arguments.genes,
        "density": arguments.density,
        "cells_per_core_s": round(1 / ours_per_cell),
        "wall_s": round(ours["wall_s"], 1),
        "cpu_s": round(ours["cpu_s"], 1),
        "peak_mib": round(ours["peak_mib"]),
        "after_warm_up_mib": round(ours["idle_mib"]),
        "scanpy_in_memory_cells": n_small,
        "scanpy_in_memory_cells_per_core_s": round(1 / scanpys_per_cell),
        "speed_over_scanpy": round(scanpys_per_cell / ours_per_cell, 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

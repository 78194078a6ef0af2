"""Cells per CPU-second of the loader, beside annbatch's own loader on the same store.

Prints one JSON object a line. The store is synthetic (100,000 cells, 3,000 genes, about 219 counts
a cell) and laid out as `prepare` does. The cases take turns, so that whatever else the machine does
slows all of them; the best of several rounds is given, and the median beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from medl_scale.store.atlas import Columns
from medl_scale.stream import (
    CachedSource,
    CsrRows,
    EpochPlan,
    Source,
    Transform,
    stream,
    train_statistics,
)
from medl_scale.stream.buffers import Buffers
from medl_scale.stream.densify import densify
from medl_scale.stream.source import DiskSource

if TYPE_CHECKING:
    from collections.abc import Callable

MINIBATCH_SIZE = 512
WINDOW_SIZE = 16_384
CHUNK_ROWS, SHARD_ROWS = 256, 32_768
DENSITY = 0.074
BLOCK_ROWS = 10_000


def make_store(path: Path, n_obs: int, n_vars: int) -> np.ndarray:
    """Write a CSR store of counts; return the total of every cell, (n_obs,) float32."""
    random = np.random.default_rng(0)
    detected = np.clip(random.lognormal(-3.6, 1.25, n_vars), 0, 0.97)
    detected = np.clip(detected * DENSITY / detected.mean(), 0, 0.98)
    data, indices, lengths = [], [], []
    for start in range(0, n_obs, BLOCK_ROWS):
        n_rows = min(BLOCK_ROWS, n_obs - start)
        depth = np.exp(random.normal(-0.06, 0.35, (n_rows, 1))).astype(np.float32)
        rows, genes = np.nonzero(random.random((n_rows, n_vars), np.float32) < detected * depth)
        indices.append(genes.astype(np.int32))
        data.append(random.geometric(0.45, genes.size).clip(1, 60_000).astype(np.uint16))
        lengths.append(np.bincount(rows, minlength=n_rows))
    counts = np.concatenate(data)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    matrix = zarr.open_group(path, mode="w", zarr_format=3).create_group("X")
    matrix.attrs.update(
        {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_obs, n_vars]}
    )
    chunk = int(CHUNK_ROWS * counts.size / n_obs)
    compressor = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")
    for name, values in (("data", counts), ("indices", np.concatenate(indices))):
        matrix.create_array(
            name,
            data=values,
            chunks=(chunk,),
            shards=(chunk * (SHARD_ROWS // CHUNK_ROWS),),
            compressors=compressor,
        )
    matrix.create_array("indptr", data=indptr.astype(np.int32))
    print(json.dumps({"what": "store", "cells": n_obs, "counts_per_cell": counts.size / n_obs}))
    return np.add.reduceat(counts.astype(np.float64), indptr[:-1]).astype(np.float32)


def own_loader(path: Path, run_size: int):
    """Return annbatch's loader with the same runs, window and minibatch, decoding by zarrs."""
    from annbatch import Loader
    from anndata.io import sparse_dataset

    loader = Loader(
        chunk_size=run_size,
        preload_nchunks=WINDOW_SIZE // run_size,
        batch_size=MINIBATCH_SIZE,
        shuffle=True,
        preload_to_gpu=False,
        rng=np.random.default_rng(0),
    )
    return loader.add_dataset(sparse_dataset(zarr.open_group(path, mode="r")["X"]))


def cases(
    path: Path, totals: np.ndarray, n_vars: int, run_sizes: list[int]
) -> dict[str, Callable[[], int]]:
    """Return what is measured: functions that read all cells once and count them."""
    n_obs = totals.size
    codes = (np.arange(n_obs) % 19).astype(np.int32)
    columns = Columns(codes, np.full(n_obs, -1, np.int32), totals)
    transform = Transform("counts", 1e4, 0.1)
    train = (slice(0, n_obs),)
    disk, cached = DiskSource(path), CachedSource(DiskSource(path), 2**31)

    def plan(run_size: int) -> EpochPlan:
        return EpochPlan(train, MINIBATCH_SIZE, run_size, WINDOW_SIZE, seed=0, epoch=0)

    def ours(run_size: int, source: Source, prefetch: int = 0) -> int:
        made = stream(source, columns, plan(run_size), transform, prefetch=prefetch)
        return sum(minibatch.rows.size for minibatch in made)

    def fetched(run_size: int) -> int:
        return sum(disk.fetch(load.runs).indptr.size - 1 for load in plan(run_size).loads())

    def theirs(run_size: int) -> int:
        return sum(found["X"].shape[0] for found in own_loader(path, run_size))

    def theirs_dense(run_size: int) -> int:
        """What annbatch yields, made dense by our kernel: by SciPy and NumPy it takes longer."""
        buffers, n_cells = Buffers(MINIBATCH_SIZE, n_vars), 0
        for found in own_loader(path, run_size):
            rows = np.arange(found["X"].shape[0])
            stored = CsrRows(found["X"].data, found["X"].indices, found["X"].indptr)
            densify(stored, rows, rows, totals, transform, buffers.take(rows.size))
            n_cells += rows.size
        return n_cells

    measured: dict[str, Callable[[], int]] = {}
    for size in run_sizes:
        measured |= {
            f"runs of {size}: fetch only": lambda size=size: fetched(size),
            f"runs of {size}: loader": lambda size=size: ours(size, disk),
            f"runs of {size}: annbatch, sparse": lambda size=size: theirs(size),
            f"runs of {size}: annbatch, dense": lambda size=size: theirs_dense(size),
        }
    measured |= {
        "runs of 256: loader with prefetch": lambda: ours(256, disk, 2),
        "runs of 256: loader, all cached": lambda: ours(256, cached),
        "statistics": lambda: train_statistics(disk, columns, train, transform, 19).n,
    }
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run-sizes", type=int, nargs="+", default=[64, 256, 1024])
    options = parser.parse_args()

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    with tempfile.TemporaryDirectory(prefix="medl-bench-") as folder:
        path = Path(folder, "bench.zarr")
        totals = make_store(path, options.cells, options.genes)
        measured = cases(path, totals, options.genes, options.run_sizes)
        for run in measured.values():
            run()  # compiles the kernels, fills the caches
        cpu: dict[str, list[float]] = {name: [] for name in measured}
        wall: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(options.rounds):
            for name, run in measured.items():
                cpu_start, wall_start = time.process_time(), time.perf_counter()
                n_cells = run()
                cpu[name].append(n_cells / (time.process_time() - cpu_start))
                wall[name].append(n_cells / (time.perf_counter() - wall_start))

    for name in measured:
        result = {
            "what": name,
            "cells_per_cpu_s": round(max(cpu[name])),
            "median_cells_per_cpu_s": round(median(cpu[name])),
            "cells_per_s": round(max(wall[name])),
        }
        print(json.dumps(result))
    for size in options.run_sizes:
        for kind in ("sparse", "dense"):
            ours, theirs = cpu[f"runs of {size}: loader"], cpu[f"runs of {size}: annbatch, {kind}"]
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            name = f"runs of {size}: loader / annbatch, {kind}"
            print(json.dumps({"what": name, "median_ratio": round(median(ratios), 3)}))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"what": "peak memory", "bytes": peak}))


if __name__ == "__main__":
    main()

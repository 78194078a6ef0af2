"""Cells per CPU-second of the loader, beside annbatch's own loader on the same store.

Prints one JSON object a line. The store is synthetic: 100,000 cells, 3,000 genes, about 219
counts a cell, written as `prepare` writes it.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from medl_scale.store.atlas import Columns
from medl_scale.stream import CachedSource, EpochPlan, Transform, stream, train_statistics
from medl_scale.stream.source import DiskSource

MINIBATCH_SIZE = 512
WINDOW_SIZE = 16_384
CHUNK_ROWS, SHARD_ROWS = 256, 32_768
DENSITY = 0.073
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
        indices.append(genes.astype(np.uint16))
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
    matrix.create_array("indptr", data=indptr)
    return np.add.reduceat(counts.astype(np.float64), indptr[:-1]).astype(np.float32)


def measure(name: str, run: Callable[[], int], repeats: int, **fields: object) -> float:
    """Print the best of several runs; return its cells per CPU-second."""
    best = {"cells_per_cpu_s": 0.0, "cells_per_s": 0.0}
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        n_cells = run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if n_cells / cpu > best["cells_per_cpu_s"]:
            best = {"cells_per_cpu_s": round(n_cells / cpu), "cells_per_s": round(n_cells / wall)}
    print(json.dumps({"what": name, **fields, **best}), flush=True)
    return best["cells_per_cpu_s"]


@contextmanager
def zarrs() -> Iterator[None]:
    """Let Zarr decode with zarrs, also for annbatch's own loader."""
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run-sizes", type=int, nargs="+", default=[64, 256, 1024])
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="medl-bench-") as folder:
        path = Path(folder, "bench.zarr")
        totals = make_store(path, options.cells, options.genes)
        codes = (np.arange(options.cells) % 19).astype(np.int32)
        columns = Columns(codes, np.full(options.cells, -1, np.int32), totals)
        transform = Transform("counts", 1e4, 0.1)
        train = (slice(0, options.cells),)
        disk = DiskSource(path)

        def plan(run_size: int, epoch: int) -> EpochPlan:
            return EpochPlan(train, MINIBATCH_SIZE, run_size, WINDOW_SIZE, 0, epoch)

        def ours(run_size: int, source: DiskSource | CachedSource, prefetch: int = 0) -> int:
            made = stream(source, columns, plan(run_size, 0), transform, prefetch=prefetch)
            return sum(minibatch.rows.size for minibatch in made)

        def fetch_only(run_size: int) -> int:
            return sum(disk.fetch(load.runs).indptr.size - 1 for load in plan(run_size, 0).loads())

        def annbatch_own(run_size: int) -> int:
            import zarr as _zarr
            from anndata.io import sparse_dataset
            from annbatch import Loader

            loader = Loader(
                chunk_size=run_size,
                preload_nchunks=WINDOW_SIZE // run_size,
                batch_size=MINIBATCH_SIZE,
                shuffle=True,
                preload_to_gpu=False,
                rng=np.random.default_rng(0),
            )
            with zarrs():
                loader.add_dataset(sparse_dataset(_zarr.open_group(path, mode="r")["X"]))
                return sum(found["X"].shape[0] for found in loader)

        ours(256, disk)  # compiles the kernels
        for run_size in options.run_sizes:
            fields = {"run_size": run_size}
            repeats = options.repeats
            measure("fetch only", lambda size=run_size: fetch_only(size), repeats, **fields)
            mine = measure(
                "loader with densify", lambda size=run_size: ours(size, disk), repeats, **fields
            )
            theirs = measure(
                "annbatch's loader, sparse",
                lambda size=run_size: annbatch_own(size),
                repeats,
                **fields,
            )
            print(json.dumps({"what": "ratio to annbatch", **fields, "ratio": mine / theirs}))

        measure("loader with prefetch", lambda: ours(256, disk, 2), options.repeats, run_size=256)
        cached = CachedSource(disk, 2**30)
        ours(256, cached)
        measure("loader, all rows cached", lambda: ours(256, cached), options.repeats, run_size=256)
        measure(
            "statistics",
            lambda: train_statistics(disk, columns, train, transform, 19).n,
            options.repeats,
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"what": "peak memory", "bytes": peak}))


if __name__ == "__main__":
    main()

"""The sketch of a whole atlas against the bare decoder passes that it stands for.

The network is untrained and the latents are noise: neither changes the cost. Bare passes are
TensorFlow's own `decode`, block by block and batch by batch, whose values are thrown away; a part of
them is timed, and the rest counted as equally long. Both use all threads given.

    python -m benchmarks.bench_sketch [--quick] [--cells 100000] [--batches 20]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.bench_step import Case, Sizes, build, set_threads
from benchmarks.figures import Figure, tell
from medl_scale.config import ModelConfig
from medl_scale.interpret.folded import fold_decoder
from medl_scale.interpret.sketch_files import SketchAxes
from medl_scale.interpret.sketching import make_sketch
from medl_scale.models.network import DataSummary
from medl_scale.models.variational import gather_effects
from medl_scale.progress import SilentProgress
from medl_scale.stream import Transform
from medl_scale.train.fitted import FittedNetwork, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK_ROWS = 8192
DECODED_ROWS = 2048
GOAL = 1.3


def network(sizes: Sizes, n_batches: int, n_threads: int) -> FittedNetwork:
    """Return an untrained `me` in the guise of a fitted one."""
    _, engine = build(Case("me", n_batches), sizes, n_threads)
    zeros = np.zeros(sizes.n_vars, np.float32)
    summary = DataSummary(
        n_obs=100_000,
        n_batches=n_batches,
        n_labels=1,
        mean=zeros,
        sd=zeros + 1,
        batch_n=np.ones(n_batches, np.int64),
        batch_mean=np.zeros((n_batches, sizes.n_vars), np.float32),
    )
    vocabulary = Vocabulary(
        var_names=tuple(f"gene{i}" for i in range(sizes.n_vars)),
        batch_key="batch",
        batch_levels=tuple(f"batch{i}" for i in range(n_batches)),
        label_levels=(),
        transform=Transform("counts", 1e4, 0.125),
    )
    return FittedNetwork("me", engine, ModelConfig(hidden=sizes.hidden), summary, vocabulary)


def draw_groups(n_cells: int, n_labels: int, n_batches: int) -> NDArray[np.int64]:
    """Return the group of each cell: types and batches of unequal size, in any order."""
    rng = np.random.default_rng(0)
    shares = np.exp(0.8 * rng.standard_normal((n_labels, 1)))
    shares = shares * np.exp(0.5 * rng.standard_normal(n_batches))
    shares *= np.exp(0.3 * rng.standard_normal((n_labels, n_batches)))
    flat = shares.ravel() / shares.sum()
    return rng.choice(flat.size, n_cells, p=flat).astype(np.int64)


def latent_blocks(n_cells: int, n_latent: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield rows and noise in the place of their latents."""
    for start in range(0, n_cells, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, n_cells))
        rng = np.random.default_rng(start)
        yield rows, rng.standard_normal((rows.stop - start, n_latent), dtype=np.float32)


def bare_pass_s(fitted: FittedNetwork, repeats: int) -> tuple[float, float]:
    """Return wall and CPU seconds of decoding one cell under one batch."""
    import tensorflow as tf

    engine = fitted.engine
    tables = {name: tf.constant(table.loc) for name, table in fitted.effects().items()}
    values = {**engine.model, **engine.statistics}

    @tf.function(autograph=False)
    def decode(latent, codes):
        return fitted.network.decode(values, latent, gather_effects(tables, codes))

    latent = tf.random.normal((DECODED_ROWS, fitted.network.n_latent))
    codes = tf.zeros(DECODED_ROWS, tf.int32)
    decode(latent, codes).numpy()
    wall, cpu = time.perf_counter(), time.process_time()
    for repeat in range(repeats):
        decode(latent, codes + repeat % len(fitted.vocabulary.batch_levels)).numpy()
    n_passes = repeats * DECODED_ROWS
    return (time.perf_counter() - wall) / n_passes, (time.process_time() - cpu) / n_passes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--genes", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=60, help="blocks decoded barely")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    set_threads(options.threads)
    sizes = Sizes(n_vars=options.genes)
    n_cells, n_batches, n_labels, repeats = (
        options.cells, options.batches, options.labels, options.repeats,
    )  # fmt: skip
    if options.quick:
        sizes, n_cells, n_batches, n_labels, repeats = Sizes(64, 100, (32, 16)), 500, 3, 2, 2
    fitted = network(sizes, n_batches, options.threads)
    groups = draw_groups(n_cells, n_labels, n_batches)
    decoder = fold_decoder(fitted)
    levels = fitted.vocabulary.batch_levels
    axes = SketchAxes(
        labels=tuple(f"type{i}" for i in range(n_labels)),
        sources=levels,
        targets=levels,
        genes=fitted.vocabulary.var_names,
        n_cells=np.bincount(groups, minlength=n_labels * n_batches).reshape(n_labels, n_batches),
        gene_sd=decoder.gene_sd,
    )
    # Half before and half after, so that a machine that slows down slows both.
    first = bare_pass_s(fitted, repeats)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        make_sketch(
            Path(folder, "sketch.zarr"),
            axes,
            decoder,
            latent_blocks(n_cells, decoder.n_latent),
            groups,
            target_codes=range(n_batches),
            progress=SilentProgress(),
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        n_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss
    second = bare_pass_s(fitted, repeats)
    n_passes = n_cells * n_batches
    bare_wall, bare_cpu = (n_passes * (a + b) / 2 for a, b in zip(first, second, strict=True))
    figure = Figure(
        benchmark="sketch",
        what=f"{n_cells:,} cells x {n_batches} batches x {sizes.n_vars:,} genes, {n_labels} types",
        measured=round(cpu / bare_cpu, 3),
        unit="x the CPU time of the bare decoder passes",
        at_most=GOAL,
        details={
            "cpu_s": round(cpu, 2),
            "wall_s": round(wall, 2),
            "bare_cpu_s": round(bare_cpu, 2),
            "bare_wall_s": round(bare_wall, 2),
            "wall_ratio": round(wall / bare_wall, 3),
            "memory_grown_mib": round(grown / 1024, 1),
            "sketch_mib": round(n_bytes / 2**20, 1),
        },
    )
    tell([figure], f"The sketch on {options.threads} threads", with_goals=not options.quick)


if __name__ == "__main__":
    main()

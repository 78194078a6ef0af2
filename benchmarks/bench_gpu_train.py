"""Training steps on JAX's device in cells a second: rows kept there, sent as stored, and dense.

    python -m benchmarks.bench_gpu_train            # on a GPU, a few minutes
    python -m benchmarks.bench_gpu_train --quick    # tiny sizes, on CPUs too: does it run?

Beside each case stands the share of the card's own product peak (float32 as JAX multiplies by default,
which on NVIDIA's cards is TF32; float32 in full; bfloat16), and the seconds of a step that the host
needs to hand it over. Steps run ahead of the host as in a fit, and losses are read as late. Needs
numpy, scipy, pandas, h5py, zarr, numba, rich, keras and jax; no TensorFlow, Dask, AnnData or annbatch.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np

from benchmarks.bench_step import Case, Sizes, build, matrix_flops, random_feeds
from benchmarks.figures import Figure, tell
from medl_scale.config import ModelConfig
from medl_scale.models.build import latent_size
from medl_scale.stream.chunks import chunked
from medl_scale.stream.contract import CsrRows
from medl_scale.stream.densify import Transform
from medl_scale.train.engine import backend_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from medl_scale.models.precision import ProductPrecision
    from medl_scale.train.engine import Engine, Feeds

GOALS = {"fe": 2e6, "re": 1e6}
"""Cells a second from rows kept on an H200, at the best of the sizes measured."""
WAYS = ("kept", "sent", "dense")
TRANSFORM = Transform("counts", 1e4, 0.2)
LEARNING_RATE = 1e-3
N_BATCHES = 147
DENSITY = 0.07


class Scale(NamedTuple):
    """How much is measured."""

    n_rows: int = 200_000
    n_vars: int = 2916
    hidden: tuple[int, ...] = (512, 132)
    minibatches: tuple[int, ...] = (512, 2048, 8192)
    steps: int = 200
    rounds: int = 3
    peak_size: int = 8192


QUICK = Scale(600, 90, (32, 16), (64,), 4, 1, 128)


def simulated_rows(scale: Scale) -> tuple[CsrRows, np.ndarray]:
    """Return counts of 8 bits as CSR rows, and the rows' totals."""
    random = np.random.default_rng(0)
    lengths = random.binomial(scale.n_vars, DENSITY, scale.n_rows)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    # Columns that rise within a row, by steps of random length.
    indices = np.empty(indptr[-1], np.uint16)
    for row in range(scale.n_rows):
        found = random.choice(scale.n_vars, lengths[row], replace=False, shuffle=False)
        indices[indptr[row] : indptr[row + 1]] = np.sort(found)
    data = np.minimum(random.geometric(0.4, indptr[-1]), 255).astype(np.uint8)
    totals = np.add.reduceat(np.append(data, 0), indptr[:-1], dtype=np.float64)
    return CsrRows(data, indices, indptr), np.maximum(totals, 1).astype(np.float32)


def minibatch_rows(n_rows: int, size: int) -> Iterator[np.ndarray]:
    """Yield the rows of minibatches without end."""
    for epoch in itertools.count():
        order = np.random.default_rng(epoch).permutation(n_rows)
        yield from (order[i : i + size] for i in range(0, n_rows - size + 1, size))


def feeds_of(
    way: str, engine: Engine, rows: CsrRows, totals: np.ndarray, scale: Scale, feeds: Feeds
) -> Callable[[np.ndarray], Feeds]:
    """Return a function that makes the feeds of a minibatch's rows, whatever the way."""
    import dataclasses

    nothing = np.empty((0, scale.n_vars), np.float32)

    def make(places: np.ndarray) -> Feeds:
        if way == "dense":
            return feeds
        if way == "kept":
            cells: Any = engine.kept_rows(places)
        else:
            cells = engine.send_rows(chunked(rows, places, places, totals, TRANSFORM, scale.n_vars))
        return dataclasses.replace(feeds, x=nothing, cells=cells)

    return make


def blocks(rows: CsrRows, totals: np.ndarray, n_vars: int, size: int = 8192) -> Iterator[Any]:
    """Yield all rows in pieces, as a fit fills the device."""
    for start in range(0, len(totals), size):
        own = np.arange(start, min(start + size, len(totals)))
        found = chunked(rows, own, own, totals, TRANSFORM, n_vars)
        n_chunks = int(found.counts.sum())
        yield found._replace(data=found.data[:n_chunks], indices=found.indices[:n_chunks])


def peaks(size: int) -> dict[str, float]:
    """Return FLOP a second of square products, by precision."""
    import jax
    import jax.numpy as jnp

    found = {}
    random = np.random.default_rng(0)
    factors = [jnp.asarray(random.standard_normal((size, size), np.float32)) for _ in range(2)]
    for name, dtype, precision in (
        ("default", "float32", None),
        ("float32", "float32", "highest"),
        ("bf16", "bfloat16", None),
    ):
        a, b = (factor.astype(dtype) for factor in factors)
        multiply = jax.jit(lambda a, b, p=precision: jnp.matmul(a, b, precision=p))
        multiply(a, b).block_until_ready()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            last = [multiply(a, b) for _ in range(4)][-1]
            last.block_until_ready()
            times.append((time.perf_counter() - started) / 4)
        found[name] = 2 * size**3 / median(times)
    return found


def measure(
    engine: Engine, make: Callable[[np.ndarray], Feeds], rows: Iterator[np.ndarray], scale: Scale
) -> tuple[float, float]:
    """Return seconds of a step, and those that the host needs to hand one over."""
    unread: deque[Any] = deque()

    def run(n_steps: int) -> tuple[float, float]:
        handing = 0.0
        started = time.perf_counter()
        for _ in range(n_steps):
            before = time.perf_counter()
            unread.append(engine.step(make(next(rows)), learning_rate=LEARNING_RATE))
            handing += time.perf_counter() - before
            while len(unread) > engine.steps_ahead:
                if not np.isfinite(np.asarray(unread.popleft())).all():
                    raise FloatingPointError("a loss is not finite")
        while unread:
            np.asarray(unread.popleft())
        return (time.perf_counter() - started) / n_steps, handing / n_steps

    # Compiles, and meets the few sizes that minibatches come in.
    run(max(4, scale.steps // 10))
    times = [run(scale.steps) for _ in range(scale.rounds)]
    return median(step for step, _ in times), median(handing for _, handing in times)


def measured(
    models: list[str], precisions: list[ProductPrecision], scale: Scale, ceilings: dict[str, float]
) -> Iterator[Figure]:
    """Yield a figure for each model, precision, way and size."""
    import jax

    rows, totals = simulated_rows(scale)
    on_gpu = jax.devices()[0].platform != "cpu"
    for model, precision, size in itertools.product(models, precisions, scale.minibatches):
        case, sizes = Case(model, N_BATCHES), Sizes(size, scale.n_vars, scale.hidden)
        for way in WAYS:
            network, engine = build(case, sizes, os.cpu_count() or 1, precision=precision)
            feeds = random_feeds(network, case, sizes, seed=0)
            engine.takes_rows(TRANSFORM, scale.n_vars, None)
            if way == "kept" and not engine.keep_rows(
                blocks(rows, totals, scale.n_vars), 2 * rows.data.size * 3 + 2**26
            ):
                raise MemoryError("the rows do not fit the device")
            make = feeds_of(way, engine, rows, totals, scale, feeds)
            step_s, handing_s = measure(engine, make, minibatch_rows(scale.n_rows, size), scale)
            flops = matrix_flops(case, sizes, latent_size(model, ModelConfig()))
            peak = ceilings["bf16" if precision == "bf16" else "default"]
            # The goals are those of the largest size: small steps wait for the host.
            aimed = way == "kept" and precision == "float32" and size == max(scale.minibatches)
            yield Figure(
                benchmark="gpu_train",
                what=f"{model.upper()} {precision}, minibatch {size:,}, rows {way}",
                measured=round(size / step_s),
                unit="cells/s",
                at_least=GOALS.get(model) if aimed and on_gpu else None,
                details={
                    "step_us": round(1e6 * step_s, 1),
                    "host_us": round(1e6 * handing_s, 1),
                    "share_of_peak": round(flops / step_s / peak, 4),
                    "mflop_per_cell": round(flops / size / 1e6, 2),
                },
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["fe", "re", "me"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--minibatches", nargs="+", type=int, help="cells a step")
    parser.add_argument("--steps", type=int, help="steps of a round")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    if backend_name() != "jax":
        raise SystemExit("This benchmark measures JAX: set KERAS_BACKEND=jax, or unset it.")
    scale = QUICK if options.quick else Scale()
    if options.minibatches:
        scale = scale._replace(minibatches=tuple(options.minibatches))
    if options.steps:
        scale = scale._replace(steps=options.steps)
    models, precisions = options.models, options.precisions
    if options.quick:
        models, precisions = models[:2], precisions[:1]
    import jax

    device = jax.devices()[0]
    ceilings = peaks(scale.peak_size)
    figures = [
        Figure(
            benchmark="gpu_train",
            what=f"peak of products, {name}",
            measured=round(value / 1e12, 6),
            unit="TFLOP/s",
            details={"device": device.device_kind},
        )
        for name, value in ceilings.items()
    ]
    figures += measured(models, precisions, scale, ceilings)
    title = f"Training steps on {device.device_kind} ({device.platform})"
    tell(figures, title, with_goals=not options.quick)


if __name__ == "__main__":
    main()

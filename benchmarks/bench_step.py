"""Training steps of FE, RE and ME as a share of the process's own matrix-product peak.

    python -m benchmarks.bench_step

Every case and the peak, a product of two 2048 x 2048 float32 matrices, take turns, so that whatever
else the machine does slows all of them; the least CPU time of each is compared. A step is what the
loop asks of the engine: host arrays in, loss terms out, all weights updated.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.figures import Figure, tell
from medl_scale.config import ModelConfig
from medl_scale.models.build import build_network, initial_effects, latent_size
from medl_scale.models.network import DataSummary
from medl_scale.train.effects import NoiseTable
from medl_scale.train.engine import EffectOptions, Feeds, backend_name, build_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medl_scale.models.network import Network
    from medl_scale.models.precision import ProductPrecision
    from medl_scale.train.collective import Peers
    from medl_scale.train.engine import Engine

__all__ = ["Case", "Sizes", "build", "cpu_and_wall", "matrix_flops", "random_feeds", "set_threads"]

PEAK_SIZE = 2048
PEAK_REPEATS = 4
N_LABELS = 10
DENSITY = 0.07
LEARNING_RATE = 1e-3
GOALS = {("fe", False): 0.65, ("fe", True): 0.70}
EFFECTS_GOALS = {19: 0.50, 147: 0.45}
MOST_BATCHES_COST = 2.0


@dataclass(frozen=True)
class Sizes:
    """Sizes that all cases share."""

    minibatch_size: int = 512
    n_vars: int = 2916
    hidden: tuple[int, ...] = (512, 132)


class Case(NamedTuple):
    """One kind of step."""

    model: str
    n_batches: int
    compiled: bool = False

    @property
    def name(self) -> str:
        kind = " compiled" if self.compiled else " graph" if self.model == "fe" else ""
        return f"{self.model.upper()}{kind}, {self.n_batches:,} batches"


class Times(NamedTuple):
    """CPU and wall seconds of one step, round by round."""

    cpu: list[float]
    wall: list[float]


def matrix_flops(case: Case, sizes: Sizes, n_latent: int) -> int:
    """Return multiplications and additions of one step's matrix products.

    Nothing else counts: no activation, loss, batch normalisation, random effect or Adam update.
    """

    def forward(widths: Sequence[int]) -> int:
        return sum(n_in * n_out for n_in, n_out in itertools.pairwise(widths))

    genes, hidden = sizes.n_vars, sizes.hidden
    encoder = forward((genes, *hidden, n_latent))
    if case.model == "me":
        # A second head: mean and log-variance.
        encoder += hidden[-1] * n_latent
    # The same size tied or not.
    decoder = forward((n_latent, *reversed(hidden), genes))
    # Forward, gradient with respect to weights, gradient with respect to inputs; but nobody asks
    # for the gradient with respect to the minibatch.
    products = 3 * encoder - genes * hidden[0] + 3 * decoder
    if case.model == "fe":
        seen = sum(hidden) + n_latent
        adversary = forward((seen, *hidden, case.n_batches))
        # Its own update: forward and backward, on activations that take no gradient.
        products += 3 * adversary - seen * hidden[0]
        # Against it, with its new weights: forward, and backward to the activations. The tape
        # records the gradient with respect to its weights too, but nobody asks for it and it is
        # pruned from the graph.
        products += 2 * adversary
    if case.model == "re":
        products += 3 * forward((n_latent, 5, case.n_batches))
    return 2 * sizes.minibatch_size * products


def build(
    case: Case,
    sizes: Sizes,
    n_threads: int,
    peers: Peers | None = None,
    precision: ProductPrecision = "float32",
) -> tuple[Network, Engine]:
    """Return a network with default settings and its engine, as `fit` makes them."""
    rng = np.random.default_rng(1)
    share = np.full(case.n_batches, 1.0 / case.n_batches)
    mean = (rng.random(sizes.n_vars) * 0.05).astype(np.float32)
    summary = DataSummary(
        n_obs=100_000,
        n_batches=case.n_batches,
        n_labels=N_LABELS,
        mean=mean,
        sd=(rng.random(sizes.n_vars) * 0.05 + 0.01).astype(np.float32),
        batch_n=(share * 100_000).astype(np.int64),
        batch_mean=np.tile(mean, (case.n_batches, 1)),
    )
    config = ModelConfig(hidden=sizes.hidden)
    network = build_network(case.model, config, summary)
    tables = initial_effects(network, config, summary, rng)
    presence = 1.0 - (1.0 - share) ** sizes.minibatch_size
    effects = EffectOptions(
        tables, network.kl_weights, presence, one_draw_kl=False, noise=NoiseTable(0)
    )
    engine = build_engine(
        network,
        network.initial_values(rng),
        effects if tables else None,
        n_threads=n_threads,
        compiled=case.compiled,
        peers=peers,
        precision=precision,
    )
    return network, engine


def random_feeds(network: Network, case: Case, sizes: Sizes, seed: int) -> Feeds:
    """Return a minibatch of sparse values whose cells come from batches drawn at random."""
    rng = np.random.default_rng(seed)
    shape = (sizes.minibatch_size, sizes.n_vars)
    noise = mask = None
    if network.uses_latent_noise:
        noise = rng.standard_normal((sizes.minibatch_size, network.n_latent), dtype=np.float32)
    if network.input_dropout > 0:
        mask = (rng.random(shape) >= network.input_dropout).astype(np.uint8)
    return Feeds(
        x=((rng.random(shape) < DENSITY) * rng.random(shape)).astype(np.float32),
        batch_codes=rng.integers(0, case.n_batches, sizes.minibatch_size).astype(np.int32),
        label_codes=rng.integers(0, N_LABELS, sizes.minibatch_size).astype(np.int32),
        latent_noise=noise,
        keep_mask=mask,
    )


def set_threads(n_threads: int) -> None:
    """Give TensorFlow its threads, as `fit` does."""
    # It warns that one function is traced often: each case has an engine of its own.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # First, because it keeps back what TensorFlow tells at every start.
    if backend_name() != "tensorflow":
        raise SystemExit("These benchmarks measure TensorFlow's steps: unset KERAS_BACKEND.")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def cpu_and_wall(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return CPU seconds of all threads, and wall seconds, of one call of `work`."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def _product() -> Callable[[], object]:
    """Return a function that multiplies two matrices of PEAK_SIZE."""
    import tensorflow as tf

    matrix = tf.constant(np.random.default_rng(0).random((PEAK_SIZE, PEAK_SIZE), np.float32))
    multiply = tf.function(lambda a: tf.matmul(a, a), autograph=False)
    # Reading one number waits for the whole product.
    return lambda: multiply(matrix)[0, 0].numpy()


def _stepper(case: Case, sizes: Sizes, n_threads: int) -> Callable[[], object]:
    """Return a function that makes one step, each on another minibatch."""
    network, engine = build(case, sizes, n_threads)
    feeds = itertools.cycle([random_feeds(network, case, sizes, seed) for seed in range(4)])

    def step() -> None:
        terms = np.asarray(engine.step(next(feeds), learning_rate=LEARNING_RATE))
        if not np.isfinite(terms).all():
            raise FloatingPointError(f"{case.name}: loss terms {terms}")

    return step


def _measure(
    cases: Sequence[Case], sizes: Sizes, n_threads: int, rounds: int, steps: int
) -> tuple[dict[Case, Times], list[float]]:
    """Return the times of all cases, and the peak's in FLOP per CPU second, turn by turn."""
    product = _product()
    steppers = {}
    for case in cases:
        steppers[case] = _stepper(case, sizes, n_threads)
        for _ in range(3):
            steppers[case]()  # traces the graph, compiles the kernels
    times = {case: Times([], []) for case in cases}
    peaks: list[float] = []

    def peak() -> None:
        cpu, _ = cpu_and_wall(product, PEAK_REPEATS)
        peaks.append(2 * PEAK_SIZE**3 / cpu)

    product()
    for _ in range(rounds):
        for case, step in steppers.items():
            peak()
            cpu, wall = cpu_and_wall(step, steps)
            times[case].cpu.append(cpu)
            times[case].wall.append(wall)
    peak()
    return times, peaks


def _figures(
    cases: Sequence[Case], sizes: Sizes, times: dict[Case, Times], peaks: list[float]
) -> list[Figure]:
    """Return the figures of all cases."""
    figures = []
    peak = max(peaks)
    for case in cases:
        cpu, wall = times[case]
        flops = matrix_flops(case, sizes, latent_size(case.model, ModelConfig()))
        goal = GOALS.get((case.model, case.compiled)) or EFFECTS_GOALS.get(case.n_batches)
        details = {
            "cpu_ms": round(1e3 * min(cpu), 2),
            "median_cpu_ms": round(1e3 * median(cpu), 2),
            "wall_ms": round(1e3 * min(wall), 2),
            "cells_per_s": round(sizes.minibatch_size / min(wall)),
            "cpu_ms_beside_products": round(1e3 * (min(cpu) - flops / peak), 2),
            "mflop_per_cell": round(flops / sizes.minibatch_size / 1e6, 2),
            "peak_gflop_per_cpu_s": round(peak / 1e9, 1),
            "median_peak_gflop_per_cpu_s": round(median(peaks) / 1e9, 1),
            "median_fraction": round(flops / median(cpu) / median(peaks), 3),
        }
        measured = round(flops / min(cpu) / peak, 3)
        unit = "of the matrix-product peak"
        figures.append(
            Figure(
                benchmark="step",
                what=case.name,
                measured=measured,
                unit=unit,
                at_least=goal,
                details=details,
            )
        )
    for model in ("re", "me"):
        own = sorted(c for c in cases if c.model == model)
        few, many = own[0], own[-1]
        ratios = [b / a for a, b in zip(times[few].cpu, times[many].cpu, strict=True)]
        figures.append(
            Figure(
                benchmark="step",
                what=f"{model.upper()}, cost of {many.n_batches:,} batches",
                measured=round(min(times[many].cpu) / min(times[few].cpu), 3),
                unit=f"x that of {few.n_batches}",
                at_most=MOST_BATCHES_COST,
                details={"median_ratio": round(median(ratios), 3)},
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each case")
    parser.add_argument("--steps", type=int, default=6, help="steps of a case in its turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batches", type=int, nargs="+", default=[19, 147, 2000])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    set_threads(options.threads)
    sizes, rounds, steps = Sizes(), options.rounds, options.steps
    batches = sorted(set(options.batches))
    if options.quick:
        sizes, rounds, steps, batches = Sizes(64, 100, (32, 16)), 1, 2, [3, 40]
    fe_batches = batches[:1] if options.quick else batches
    cases = [Case("fe", n, compiled) for compiled in (False, True) for n in fe_batches]
    cases += [Case(model, n) for model in ("re", "me") for n in batches]
    times, peaks = _measure(cases, sizes, options.threads, rounds, steps)
    figures = _figures(cases, sizes, times, peaks)
    tell(figures, f"Steps on {options.threads} threads", with_goals=not options.quick)


if __name__ == "__main__":
    main()

"""`fit` from start to end: what is spent outside steps, and what it costs to feed one.

    python -m benchmarks.bench_fit

Simulates and prepares an atlas (not timed), then runs `medl-scale fit` as users do, in a process of
its own. Inside counts: training steps and validation, as the run's history has them, validation
with the making of its blocks. Outside counts everything else: starting Python, loading libraries,
the pass over the data for its statistics, compiling, waiting for minibatches, checkpoints, encoding
all cells, writing, drawing.

What feeding costs is measured twice: as the wait for minibatches in that run, and as the CPU time
of making a minibatch against that of a step, which no spare core can hide.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.bench_step import (
    LEARNING_RATE,
    Case,
    Sizes,
    build,
    cpu_and_wall,
    random_feeds,
    set_threads,
)
from benchmarks.figures import Figure, tell
from benchmarks.processes import Cost, medl_scale, simulated_atlas

if TYPE_CHECKING:
    from medl_scale.train.fit_files import FitSummary

MOST_OUTSIDE = 0.15
MOST_FEEDING = 0.10
MODEL = "me"


class Ended(NamedTuple):
    """One run of `medl-scale fit`."""

    cost: Cost
    summary: FitSummary


def run_fit(atlas: Path, run: Path, max_epochs: int | None) -> Ended:
    """Fit ME, for at most `max_epochs` or until it stops by itself."""
    from medl_scale.pipeline.run import Run

    limit = () if max_epochs is None else ("--max-epochs", max_epochs)
    cost = medl_scale(
        "fit", atlas, "--models", MODEL, "--output", run, *limit, "--overwrite",
        "--no-evaluate",
    )  # fmt: skip
    return Ended(cost, Run(run).finished()[MODEL, 0])


def outside(ended: Ended, what: str) -> Figure:
    """Return the share of a fit's time that is neither training step nor validation."""
    total, seconds = ended.cost.wall_s, ended.summary.seconds
    inside = seconds["step"] + seconds["validation"]
    per_epoch = inside / ended.summary.n_epochs
    parts = {
        "start_and_end": total - seconds["total"],
        "libraries_and_statistics": seconds["statistics"],
        "around_steps": seconds["training"] - inside,
        "encoding": seconds["encoding"],
    }
    return Figure(
        benchmark="fit",
        what=f"{what}: outside train and validation steps",
        measured=round(1.0 - inside / total, 4),
        unit="of the time",
        at_most=MOST_OUTSIDE,
        details={
            "total_s": round(total, 2),
            "step_s": round(seconds["step"], 2),
            "validation_s": round(seconds["validation"], 2),
            "outside_s": {name: round(value, 2) for name, value in parts.items()},
            "cpu_s": round(ended.cost.cpu_s, 2),
            "epochs": ended.summary.n_epochs,
            "steps": ended.summary.n_steps,
            "met_from_epochs": round(
                (total - inside) * (1.0 - MOST_OUTSIDE) / MOST_OUTSIDE / per_epoch, 1
            ),
            "peak_bytes": ended.cost.peak_bytes,
        },
    )


def waiting(ended: Ended, what: str) -> Figure:
    """Return how long steps waited for their minibatches."""
    seconds = ended.summary.seconds
    return Figure(
        benchmark="fit",
        what=f"{what}: wait for minibatches",
        measured=round(seconds["loader_wait"] / seconds["step"], 4),
        unit="of the steps' time",
        at_most=MOST_FEEDING,
        details={"wait_s": round(seconds["loader_wait"], 3), "step_s": round(seconds["step"], 2)},
    )


def feeding(atlas: Path, n_threads: int, rounds: int) -> list[Figure]:
    """Return the CPU time of making a minibatch over that of a step, in one process, in turns."""
    from medl_scale.config import StreamConfig
    from medl_scale.store.atlas import describe, read_columns
    from medl_scale.stream import EpochPlan, Transform, open_source, stream

    set_threads(n_threads)
    found, columns, config = describe(atlas), read_columns(atlas), StreamConfig()
    train = found.split(0).train
    size = min(config.minibatch_size, sum(rows.stop - rows.start for rows in train))
    sizes = Sizes(size, found.n_vars)
    case = Case(MODEL, len(found.batch_levels))
    network, engine = build(case, sizes, n_threads)
    feeds = random_feeds(network, case, sizes, seed=0)
    transform = Transform(found.input_units, found.target_sum)

    def step() -> None:
        engine.step(feeds, learning_rate=LEARNING_RATE)

    step()
    figures = []
    for name, cache in (("from the cache", config.cache_memory), ("from disk", 0)):
        made, steps = [], []
        with open_source(atlas, cache_memory=cache) as source:
            for epoch in range(rounds + 1):
                plan = EpochPlan(train, size, config.run_size, config.window_size, 0, epoch)

                def read_all(plan: EpochPlan = plan) -> None:
                    for _ in stream(source, columns, plan, transform, prefetch=0):
                        pass

                cpu, _ = cpu_and_wall(read_all, 1)
                if epoch:  # the first one fills the cache
                    made.append(cpu / plan.n_minibatches)
                    steps.append(cpu_and_wall(step, 10)[0])
        figures.append(
            Figure(
                benchmark="fit",
                what=f"making a minibatch {name}",
                measured=round(min(made) / min(steps), 4),
                unit="of a step's CPU time",
                at_most=MOST_FEEDING,
                details={
                    "minibatch_cpu_ms": round(1e3 * min(made), 3),
                    "step_cpu_ms": round(1e3 * min(steps), 2),
                    "median_ratio": round(
                        median(a / b for a, b in zip(made, steps, strict=True)), 4
                    ),
                },
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument("--max-epochs", type=int, help="end early instead of when it stops falling")
    parser.add_argument("--rounds", type=int, default=5, help="turns of feeding and steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scratch", type=Path, help="folder for the atlas and the run")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    n_cells, n_genes, epochs = options.cells, options.genes, options.max_epochs
    rounds = options.rounds
    if options.quick:
        n_cells, n_genes, epochs, rounds = 2_000, 200, 2, 1
    folder = Path(tempfile.mkdtemp(prefix="medl-bench-", dir=options.scratch))
    try:
        atlas, _ = simulated_atlas(folder, n_cells, n_genes)
        what = f"{n_cells:,} cells, {'all' if epochs is None else epochs} epochs"
        ended = run_fit(atlas, folder / "run", epochs)
        figures = [outside(ended, what), waiting(ended, what)]
        figures += feeding(atlas, options.threads, rounds)
    finally:
        shutil.rmtree(folder)
    tell(figures, f"fit --models {MODEL}", with_goals=not options.quick)


if __name__ == "__main__":
    main()

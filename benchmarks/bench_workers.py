"""Fits on Dask workers: what the way through Dask costs, and what a second worker brings.

    python -m benchmarks.bench_workers

Simulates and prepares an atlas (not timed), then runs `medl-scale fit` as users do, each command in a
process of its own, start and end included, with one thread a fit. The commands that are compared
take turns, and the shortest time of each counts.

Overhead: one fit on one worker of a local cluster, over the same fit in the command's own process.
Scaling: folds x models on two workers, over the same on one worker. Two workers need two cores:
what else runs on them counts against the goal.
Gang: two workers that share each fit. From the end of one fit until both work on the next.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.figures import Figure, tell
from benchmarks.processes import medl_scale, simulated_atlas
from medl_scale.config import ModelConfig, StreamConfig, TrainConfig
from medl_scale.distribute import Task, run_tasks
from medl_scale.distribute.clusters.local import local_client
from medl_scale.train.fit import fit_one
from medl_scale.train.fit_files import FitTask

if TYPE_CHECKING:
    from medl_scale.ranks import Ranks
    from medl_scale.train.fit_files import FitStatus

MOST_OVERHEAD = 1.05
MOST_OVERHEAD_S = 3.0
MOST_OF_ONE = 0.58
MOST_START_S = 1.0
N_RANKS = 2


def fit_seconds(atlas: Path, folder: Path, *options: object) -> float:
    """Return how long a fit takes."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    fixed = ("--output", run, "--threads", 1, "--no-evaluate", "--no-latents")
    return medl_scale("fit", atlas, *fixed, *options).wall_s


def seconds_in_turn(
    atlas: Path, folder: Path, ways: dict[str, tuple[object, ...]], rounds: int
) -> dict[str, list[float]]:
    """Return the times of each way, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, options in ways.items():
            times[name].append(fit_seconds(atlas, folder, *options))
    return times


def overhead(
    atlas: Path, folder: Path, cluster: Path, models: str, epochs: int, rounds: int
) -> list[Figure]:
    """Compare a fit on a worker with the same in the command's process."""
    work = ("--models", models.split(",")[0], "--max-epochs", epochs)
    times = seconds_in_turn(
        atlas,
        folder,
        {"direct": work, "worker": (*work, "--cluster", cluster)},
        rounds,
    )
    direct, worker = min(times["direct"]), min(times["worker"])
    details = {name: [round(one, 2) for one in found] for name, found in times.items()}
    return [
        Figure(
            benchmark="workers",
            what="one fit through Dask",
            measured=round(worker / direct, 4),
            unit="of the time without",
            at_most=MOST_OVERHEAD,
            details=details,
        ),
        Figure(
            benchmark="workers",
            what=f"the same, {MOST_OVERHEAD_S:g} s longer at most",
            measured=round(worker, 2),
            unit="s",
            at_most=round(direct + MOST_OVERHEAD_S, 2),
            details=details,
        ),
    ]


def scaling(
    atlas: Path, folder: Path, cluster: Path, models: str, folds: int, epochs: int, rounds: int
) -> Figure:
    """Compare two workers with one."""
    work = ("--models", models, "--folds", folds, "--max-epochs", epochs, "--cluster", cluster)
    times = seconds_in_turn(
        atlas,
        folder,
        {"one": (*work, "--workers", 1), "two": (*work, "--workers", 2)},
        rounds,
    )
    one, two = min(times["one"]), min(times["two"])
    return Figure(
        benchmark="workers",
        what=f"{folds} folds x {len(models.split(','))} models on 2 workers",
        measured=round(two / one, 3),
        unit="of the time on 1",
        at_most=MOST_OF_ONE,
        details={
            **{name: [round(each, 2) for each in found] for name, found in times.items()},
            "load": round(os.getloadavg()[0], 2),
        },
    )


class Span(NamedTuple):
    """When all ranks had begun a fit, and when the first had ended it; seconds of one clock."""

    begun: float
    ended: float


def timed_fit(task: FitTask, report: object, ranks: Ranks) -> Span:
    """Fit as one of several ranks, and return when."""
    told: list[float] = []

    def hear(status: FitStatus) -> None:
        told.append(time.time())

    fit_one(task, hear, ranks)
    # Only the first rank tells how it stands, when the others have answered it; only its value counts.
    return Span(told[0] if told else 0.0, time.time())


def warm_gang(atlas: Path, folder: Path, folds: int) -> Figure:
    """Measure how long a gang that has done a fit takes to begin the next."""
    fits = [
        FitTask(
            ref=str(atlas),
            model="re",
            fold=fold,
            folder=str(folder / "gang" / str(fold)),
            latents=str(folder / "gang" / "latents.zarr"),
            model_config=ModelConfig(),
            train_config=TrainConfig(max_epochs=1),
            stream_config=StreamConfig(),
            n_threads=1,
        )
        for fold in range(folds)
    ]
    tasks = [Task(f"fit {fit.fold}", fit, n_ranks=N_RANKS) for fit in fits]
    with local_client(N_RANKS, 1) as client:
        outcomes = run_tasks(timed_fit, tasks, client=client, n_workers=N_RANKS)
    failed = [outcome.error for outcome in outcomes if outcome.error or outcome.losses]
    if failed:
        raise SystemExit(f"A fit failed or lost a process: {failed[0]}")
    spans = sorted(outcome.value for outcome in outcomes)
    starts = [after.begun - before.ended for before, after in pairwise(spans)]
    return Figure(
        benchmark="workers",
        what=f"start of a fit in a warm gang of {N_RANKS}",
        measured=round(min(starts), 3),
        unit="s",
        at_most=MOST_START_S,
        details={"starts": [round(one, 3) for one in starts], "load": round(os.getloadavg()[0], 2)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=30_000)
    parser.add_argument("--genes", type=int, default=1_000)
    parser.add_argument("--models", default="me,re", help="the first is the one fit")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--epochs", type=int, default=40, help="of the one fit; an eighth when folded"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes without goals")
    options = parser.parse_args()
    if options.quick:
        # Enough that ranks can share a minibatch.
        options.cells, options.genes, options.models, options.folds = 1500, 60, "pca", 2
        options.epochs, options.rounds = 1, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atlas, _ = simulated_atlas(folder, options.cells, options.genes)
        cluster = folder / "cluster.yaml"
        cluster.write_text("kind: local\nworkers: 1\n")
        figures = overhead(atlas, folder, cluster, options.models, options.epochs, options.rounds)
        epochs = max(1, options.epochs // 8)
        figures.append(
            scaling(
                atlas,
                folder,
                cluster,
                options.models,
                options.folds,
                epochs,
                max(1, options.rounds - 1),
            )
        )
        figures.append(warm_gang(atlas, folder, options.folds))
    tell(figures, "fits on Dask workers", with_goals=not options.quick)


if __name__ == "__main__":
    main()

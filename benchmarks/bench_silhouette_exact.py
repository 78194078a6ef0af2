"""Exact silhouettes, by all pairs and by pruning, beside scikit-learn's in CPU time.

    python -m benchmarks.bench_silhouette_exact

Every case runs on one thread, in turns with scikit-learn on the same cells, centred and in float64:
its fastest and most accurate input, and the truth for the errors. The least CPU time of each counts.
At a million cells scikit-learn's time is extrapolated from the 40,000 of the same run by the square
of the number of cells, and ours is measured on all threads.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from benchmarks.figures import Figure, tell
from benchmarks.latents import make_latent
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.brute import brute_samples
from medl_scale.evaluate.silhouettes.layout import sort_by_label
from medl_scale.evaluate.silhouettes.pruned import pruned_samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.latents import Kind
    from medl_scale.evaluate.silhouettes.exact import ExactResult

METHODS = {"brute": brute_samples, "pruned": pruned_samples}
MOST_ERROR = 1e-5


class Case(NamedTuple):
    """Cells, what to score them with, and the goals for it."""

    kind: Kind
    d: int
    n_labels: int
    at_least: dict[str, float]

    @property
    def name(self) -> str:
        return f"d={self.d}, {self.n_labels} labels ({self.kind})"


CASES = (
    Case("celltype", 2, 19, {"brute": 20.0}),
    Case("celltype", 10, 19, {"brute": 12.0}),
    Case("celltype", 50, 19, {"brute": 5.0, "pruned": 15.0}),
    Case("mixed", 50, 147, {"brute": 5.0, "pruned": 7.0}),
)
LARGE = Case("mixed", 50, 147, {"pruned": 50.0})


class Measured(NamedTuple):
    """The least CPU and wall seconds, and what was found last."""

    cpu: float
    wall: float
    result: ExactResult | None
    values: NDArray[np.float64]
    """In the order of the cells."""


def ours(case: Case, method: str, n: int) -> Measured:
    """Score as the public functions do: from a latent in memory to a value for every cell."""
    latent, labels = make_latent(case.kind, n, case.d, case.n_labels, 0)

    def work() -> tuple[ExactResult, NDArray[np.float64]]:
        clusters = sort_by_label(latent, encode_labels(labels, n))
        result = METHODS[method](clusters)
        values = np.empty(n)
        values[clusters.order] = result.values
        return result, values

    cpu, wall, (result, values) = timed(work)
    return Measured(cpu, wall, result, values)


def scikit_learn(case: Case, n: int) -> Measured:
    """Score with scikit-learn on one thread."""
    from sklearn.metrics import silhouette_samples
    from threadpoolctl import threadpool_limits

    latent, labels = make_latent(case.kind, n, case.d, case.n_labels, 0)
    centred = latent - latent.mean(axis=0, dtype=np.float64)
    with threadpool_limits(1):
        cpu, wall, values = timed(lambda: silhouette_samples(centred, labels))
    return Measured(cpu, wall, None, values)


def timed[R](work: Callable[[], R]) -> tuple[float, float, R]:
    """Return CPU seconds of all threads, wall seconds, and what `work` gave."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def measure(case: Case, n: int, rounds: int) -> tuple[list[Figure], float]:
    """Return a case's figures, and scikit-learn's CPU seconds."""
    for method in case.at_least:
        ours(case, method, 2000)  # compiles the kernels
    scikit_learn(case, 2000)
    turns = []
    for _ in range(rounds):
        turns.append(
            {method: ours(case, method, n) for method in case.at_least}
            | {"sk": scikit_learn(case, n)}
        )
    truth = turns[-1]["sk"].values
    theirs = min(turn["sk"].cpu for turn in turns)
    figures = []
    for method, goal in case.at_least.items():
        cpu = min(turn[method].cpu for turn in turns)
        last = turns[-1][method]
        errors = np.abs(last.values - truth)
        details = {
            "n": n,
            "cpu_s": round(cpu, 3),
            "scikit_learn_cpu_s": round(theirs, 3),
            "pairs_per_cpu_s": round(n * n / cpu),
            "share_of_pairs": round(last.result.share, 4) if last.result else 1.0,
            "error_bound": float(last.result.errors.max()) if last.result else 0.0,
        }
        what = f"{method}, {case.name}, n={n:,}"
        figures += [
            figure(f"{what}: speed", theirs / cpu, "x scikit-learn", goal, None, details),
            figure(f"{what}: largest error", errors.max(), "", None, MOST_ERROR, {}),
        ]
    return figures, theirs


def measure_large(case: Case, n: int, small_n: int, scikit_learn_cpu_s: float) -> list[Figure]:
    """Return the figures of a case too large for scikit-learn, on all threads."""
    found = ours(case, "pruned", n)
    extrapolated = scikit_learn_cpu_s * (n / small_n) ** 2
    details = {
        "n": n,
        "cpu_s": round(found.cpu, 2),
        "wall_s": round(found.wall, 2),
        "threads": numba.get_num_threads(),
        "scikit_learn_cpu_s_extrapolated": round(extrapolated),
        "share_of_pairs": round(found.result.share, 4) if found.result else 1.0,
    }
    what = f"pruned, {case.name}, n={n:,}: speed"
    goal = case.at_least["pruned"]
    unit = "x scikit-learn, extrapolated"
    return [figure(what, extrapolated / found.cpu, unit, goal, None, details)]


def figure(
    what: str,
    measured: float,
    unit: str,
    at_least: float | None,
    at_most: float | None,
    details: dict[str, float],
) -> Figure:
    return Figure(
        benchmark="silhouette_exact",
        what=what,
        measured=float(f"{measured:.3g}"),
        unit=unit,
        at_least=at_least,
        at_most=at_most,
        details=details,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=40_000)
    parser.add_argument("--many-cells", type=int, default=1_000_000, help="0: leave them out")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each case")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    n, many, rounds = options.cells, options.many_cells, options.rounds
    if options.quick:
        n, many, rounds = 1500, 3000, 1
    figures = []
    numba.set_num_threads(1)
    for case in CASES:
        found, theirs = measure(case, n, rounds)
        figures += found
    if many:
        numba.set_num_threads(min(os.cpu_count() or 1, numba.config.NUMBA_NUM_THREADS))
        figures += measure_large(LARGE, many, n, theirs)
    tell(figures, "Exact silhouettes", with_goals=not options.quick)


if __name__ == "__main__":
    main()

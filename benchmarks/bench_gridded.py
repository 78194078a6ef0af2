"""Gridded silhouettes of 2-D latents beside scikit-learn and scib-metrics, and how they scale.

    python -m benchmarks.bench_gridded

At 40,000 cells all three take turns on the same cells, and the least CPU time of each counts. At a
million, scikit-learn's time is extrapolated from its own in this run by the square of the number of
cells, and the certificate is checked on 2,000 cells against sums in float64. Ten million cells are
scored in a process of their own, whose memory is measured from its start.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from benchmarks.figures import Figure, tell
from benchmarks.latents import make_latent
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.gridded import gridded_samples
from medl_scale.evaluate.silhouettes.layout import sort_by_label

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.latents import Kind
    from medl_scale.evaluate.silhouettes.gridded import GriddedResult
    from medl_scale.evaluate.silhouettes.layout import Clusters

N_CHECKED = 2000
OVER_SCIKIT_LEARN, OVER_SCIB_METRICS, OVER_EXTRAPOLATED = 20.0, 30.0, 500.0
MOST_SCORE_ERROR = 1e-4
MOST_WALL_S, MOST_BYTES = 60.0, 4 * 2**30


class Case(NamedTuple):
    """What latent and how many labels."""

    kind: Kind
    n_labels: int

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.n_labels} labels"


CASES = (Case("celltype", 19), Case("mixed", 147), Case("null", 147), Case("re", 147))
LARGEST = Case("mixed", 147)


class Run(NamedTuple):
    """What one call took, and gave."""

    cpu: float
    wall: float
    result: GriddedResult
    clusters: Clusters


def gridded(case: Case, n: int) -> Run:
    """Score a latent in memory."""
    latent, labels = make_latent(case.kind, n, 2, case.n_labels, 0)
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    clusters = sort_by_label(latent, encode_labels(labels, n))
    result = gridded_samples(clusters)
    values = np.empty(n)
    values[clusters.order] = result.values
    return Run(time.process_time() - cpu, time.perf_counter() - wall, result, clusters)


def cpu_of(work: Callable[[], object]) -> float:
    """Return CPU seconds of all threads."""
    gc.collect()
    cpu = time.process_time()
    work()
    return time.process_time() - cpu


def compare(case: Case, n: int, rounds: int) -> tuple[list[Figure], float]:
    """Return figures beside the peers on few cells, and scikit-learn's CPU seconds."""
    from scib_metrics.utils import silhouette_samples as scib_samples
    from sklearn.metrics import silhouette_samples

    latent, labels = make_latent(case.kind, n, 2, case.n_labels, 0)
    centred = latent - latent.mean(axis=0, dtype=np.float64)
    compiled = np.array(centred, np.float32)
    gridded(case, n)
    scib_samples(compiled, labels)
    ours, sklearns, scibs = [], [], []
    for _ in range(rounds):
        ours.append(gridded(case, n).cpu)
        sklearns.append(cpu_of(lambda: silhouette_samples(centred, labels)))
        scibs.append(cpu_of(lambda: scib_samples(compiled, labels)))
    details = {
        "cpu_s": round(min(ours), 3),
        "scikit_learn_cpu_s": round(min(sklearns), 2),
        "scib_metrics_cpu_s": round(min(scibs), 2),
    }
    over = f"{case.name}, n={n:,}"
    figures = [
        figure(over, min(sklearns) / min(ours), "x scikit-learn", OVER_SCIKIT_LEARN, details),
        figure(over, min(scibs) / min(ours), "x scib-metrics", OVER_SCIB_METRICS),
    ]
    return figures, min(sklearns)


def scale(case: Case, n: int, extrapolated: float) -> list[Figure]:
    """Return figures of many cells, `extrapolated` being scikit-learn's CPU seconds."""
    run = gridded(case, n)
    bounds = run.result.bounds
    rows = np.random.default_rng(0).choice(n, min(n, N_CHECKED), replace=False)
    errors = np.abs(silhouettes_of(run.clusters, rows) - run.result.values[rows])
    over = f"{case.name}, n={n:,}"
    details = {
        "cpu_s": round(run.cpu, 2),
        "wall_s": round(run.wall, 2),
        "method": run.result.method,
        "largest_bound": float(bounds.max()),
        "largest_error": float(errors.max()),
    }
    return [
        figure(
            over, extrapolated / run.cpu, "x scikit-learn, extrapolated", OVER_EXTRAPOLATED, details
        ),
        Figure(
            benchmark="gridded",
            what=f"{over}, largest error",
            measured=float(f"{(errors / bounds[rows]).max():.3g}"),
            unit="of its bound",
            at_most=1.0,
        ),
        Figure(
            benchmark="gridded",
            what=f"{over}, proven error of the mean",
            measured=float(f"{bounds.mean():.3g}"),
            unit="",
            at_most=MOST_SCORE_ERROR,
        ),
    ]


def silhouettes_of(clusters: Clusters, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return exact silhouettes of a few cells, by sums in float64."""
    points = clusters.points(slice(None))
    counts = clusters.counts
    found = np.empty(len(rows))
    for place, row in enumerate(rows):
        difference = points - points[row]
        sums = np.bincount(clusters.codes, np.sqrt((difference**2).sum(axis=1)))
        own = clusters.codes[row]
        a = sums[own] / (counts[own] - 1)
        b = np.delete(sums / counts, own).min()
        found[place] = (b - a) / max(a, b)
    return found


def largest(case: Case, n: int) -> tuple[float, float, int, str]:
    """Return wall and CPU seconds, most memory held so far, and the method."""
    gridded(case, 20_000)  # compiles the kernels
    run = gridded(case, n)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return run.wall, run.cpu, peak, run.result.method


def largest_figures(case: Case, n: int) -> list[Figure]:
    """Return the figures of a run in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        wall, cpu, peak, method = executor.submit(largest, case, n).result()
    over = f"{case.name}, n={n:,}"
    details = {"cpu_s": round(cpu, 1), "threads": numba.get_num_threads(), "method": method}
    return [
        Figure(
            benchmark="gridded",
            what=f"{over}, time",
            measured=round(wall, 2),
            unit="s",
            at_most=MOST_WALL_S,
            details=details,
        ),
        Figure(
            benchmark="gridded",
            what=f"{over}, memory",
            measured=round(peak / 2**30, 2),
            unit="GiB, input and process included",
            at_most=MOST_BYTES / 2**30,
        ),
    ]


def figure(
    over: str, measured: float, unit: str, at_least: float, details: dict[str, object] | None = None
) -> Figure:
    """Return a figure of speed."""
    return Figure(
        benchmark="gridded",
        what=over,
        measured=float(f"{measured:.3g}"),
        unit=unit,
        at_least=at_least,
        details=details or {},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="turns of each contestant")
    parser.add_argument("--few", type=int, default=40_000, help="cells beside the peers")
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    rounds, few, many, most = options.rounds, options.few, options.many, options.most
    cases = CASES
    if options.quick:
        rounds, few, many, most, cases = 1, 1000, 5000, 10_000, CASES[:2]
    # First: Linux counts what this process held before towards the peak of the one that it starts.
    figures = largest_figures(LARGEST, most)
    for case in cases:
        found, sklearn_cpu_s = compare(case, few, rounds)
        figures += found
        figures += scale(case, many, sklearn_cpu_s * (many / few) ** 2)
    tell(figures, "Gridded silhouettes", with_goals=not options.quick)


if __name__ == "__main__":
    main()

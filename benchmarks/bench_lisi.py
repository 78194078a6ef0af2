"""LISI of all cells on exact neighbours, beside harmonypy, scib-metrics and scikit-learn in CPU time.

    python -m benchmarks.bench_lisi

The figure with a goal is that of 500,000 cells in two dimensions on one thread, from a latent in
memory to a value for every cell. The others take turns on the same cells, and the least CPU time of
each counts; scib-metrics and pynndescent have compiled before they are timed.
"""

from __future__ import annotations

import argparse
import gc
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
import pandas as pd

from benchmarks.figures import Figure, tell
from benchmarks.latents import make_latent
from medl_scale.evaluate.neighbours.lisi import ilisi, lisi_of_latent
from medl_scale.evaluate.neighbours.neighbours import LISI_NEIGHBOURS, nearest_neighbours

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

N_LABELS = 147
MOST_SECONDS = 15.0
MOST_ERROR = 1e-10


class Sizes(NamedTuple):
    """Cells of each comparison, and how often it is repeated."""

    many: int = 500_000
    """In two dimensions, ours alone."""
    few: int = 20_000
    """Beside harmonypy and scib-metrics."""
    wide: int = 40_000
    """In 50 dimensions, beside scikit-learn's brute force."""
    rounds: int = 3


class Times(NamedTuple):
    """The least seconds of a contestant, and what it found."""

    cpu: float
    wall: float
    found: Any


def many_cells(sizes: Sizes) -> Figure:
    """Time two dimensions, where a tree finds the neighbours."""
    latent, batches = make_latent("mixed", sizes.many, 2, N_LABELS, 0)
    (ours,) = _in_turns(1, lambda: lisi_of_latent(latent, {"batch": batches})["batch"])
    return _figure(
        f"d=2, {sizes.many:,} cells",
        ours.cpu,
        "CPU seconds",
        at_most=MOST_SECONDS,
        details={"wall_s": round(ours.wall, 2), "median": float(ours.found)},
    )


def beside_harmonypy(sizes: Sizes, d: int) -> list[Figure]:
    """Compare time and values with harmonypy, which searches a k-d tree in any dimension."""
    from harmonypy import compute_lisi

    latent, batches = make_latent("mixed", sizes.few, d, N_LABELS, 0)
    frame = pd.DataFrame({"batch": batches.astype(str)})
    ours, theirs = _in_turns(
        sizes.rounds if d < 10 else 1,
        lambda: lisi_of_latent(latent, {"batch": batches})["batch"],
        lambda: compute_lisi(latent.astype(np.float64), frame, ["batch"], 30)[:, 0],
    )
    what = f"d={d}, {sizes.few:,} cells"
    error = float(np.abs(ours.found.per_cell - theirs.found).max())
    return [
        _ratio(f"{what}: speed", theirs, ours, "x harmonypy's"),
        _figure(f"{what}: largest error", max(error, 1e-17), "LISI", at_most=MOST_ERROR),
    ]


def beside_scib(sizes: Sizes, d: int) -> list[Figure]:
    """Compare with scib-metrics as its Benchmarker calls it, on pynndescent's neighbours."""
    import scib_metrics
    from scib_metrics.nearest_neighbors import pynndescent

    latent, batches = make_latent("mixed", sizes.few, d, N_LABELS, 0)

    def theirs() -> NDArray[np.float32]:
        near = pynndescent(latent, LISI_NEIGHBOURS + 1, random_state=0, n_jobs=1)
        return np.asarray(scib_metrics.lisi_knn(near, batches))

    def ours() -> Any:
        return ilisi(nearest_neighbours(latent, LISI_NEIGHBOURS), batches)

    theirs()
    here, there = _in_turns(sizes.rounds, ours, theirs)
    return [_ratio(f"d={d}, {sizes.few:,} cells: speed", there, here, "x scib-metrics'")]


def beside_scikit_learn(sizes: Sizes) -> list[Figure]:
    """Compare exact neighbours in 50 dimensions with scikit-learn's brute force in float32."""
    from sklearn.neighbors import NearestNeighbors

    latent, _ = make_latent("mixed", sizes.wide, 50, N_LABELS, 0)

    def theirs() -> NDArray[np.float32]:
        found = NearestNeighbors(n_neighbors=90, algorithm="brute", n_jobs=1).fit(latent)
        return found.kneighbors()[0]

    ours, brute = _in_turns(1, lambda: nearest_neighbours(latent, 90).distances, theirs)
    wrong = float(np.abs(ours.found - brute.found).max())
    details = {"largest_difference_of_distances": wrong}
    what = f"neighbours, d=50, {sizes.wide:,} cells: speed"
    return [_ratio(what, brute, ours, "x scikit-learn's", details)]


def _in_turns(rounds: int, *contestants: Callable[[], Any]) -> list[Times]:
    """Return the least times of each contestant, which take turns."""
    times = [Times(np.inf, np.inf, None)] * len(contestants)
    for _ in range(rounds):
        for place, contestant in enumerate(contestants):
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            found = contestant()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            times[place] = Times(min(cpu, times[place].cpu), min(wall, times[place].wall), found)
    return times


def _figure(what: str, measured: float, unit: str, **more: Any) -> Figure:
    """Return a figure of this benchmark."""
    return Figure(benchmark="lisi", what=what, measured=measured, unit=unit, **more)


def _ratio(
    what: str, theirs: Times, ours: Times, unit: str, details: dict[str, Any] | None = None
) -> Figure:
    """Return how many times faster ours is in CPU time."""
    more = {"ours_cpu_s": round(ours.cpu, 3), "theirs_cpu_s": round(theirs.cpu, 3)}
    return _figure(what, theirs.cpu / ours.cpu, unit, details=more | (details or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=Sizes().many, help="of the largest case")
    parser.add_argument("--rounds", type=int, default=Sizes().rounds, help="turns of each")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    sizes = Sizes(many=options.cells, rounds=options.rounds)
    if options.quick:
        sizes = Sizes(2000, 1000, 1000, 1)
    numba.set_num_threads(1)
    small, _ = make_latent("null", 500, 2, 3, 0)
    for method in ("tree", "tiles"):
        lisi_of_latent(small, {"batch": np.arange(500) % 3}, method=method)  # compiles
    figures = [many_cells(sizes), *beside_harmonypy(sizes, 2)]
    if not options.quick:
        figures += [*beside_harmonypy(sizes, 20), *beside_scib(sizes, 20)]
    figures += beside_scikit_learn(sizes)
    tell(figures, "LISI on one thread", with_goals=not options.quick)


if __name__ == "__main__":
    main()

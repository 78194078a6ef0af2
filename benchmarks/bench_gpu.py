"""Silhouettes on a GPU: pairs of cells per second, and how many times cuML's speed.

    python -m benchmarks.bench_gpu

Labels are mixed without order (`null`), so that none can be skipped, and a pair that is counted is a
pair that was summed; `celltype` beside it shows what skipping is worth. Wall time: the device is
waited for. The kernel's figure has the cells in host memory, sorted; the other one is what a user
waits for. cuML takes turns with us on the same cells.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.figures import Figure, tell
from benchmarks.latents import make_latent
from medl_scale.evaluate.backend import gpu_problem
from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.layout import sort_by_label

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.latents import Kind

TIMES_CUML = 3.0


class Case(NamedTuple):
    """Cells, and the pairs per second they should reach."""

    kind: Kind
    d: int
    n_labels: int
    pairs_per_s: float | None = None

    @property
    def name(self) -> str:
        return f"d={self.d}, {self.n_labels} labels ({self.kind})"


CASES = (
    Case("null", 2, 19, 1e12),
    Case("null", 50, 19, 2.5e11),
    Case("null", 2, 147),
    Case("null", 50, 147),
    Case("celltype", 2, 19),
    Case("celltype", 50, 19),
)


def measure(case: Case, n: int, rounds: int, *, with_cuml: bool) -> list[Figure]:
    """Return the figures of one case; the first turn of each, which compiles, is not counted."""
    from medl_scale.evaluate.gpu.device import CudaDevice
    from medl_scale.evaluate.gpu.plan import kernel_for, launch_rows
    from medl_scale.evaluate.gpu.silhouette import gpu_samples, label_moments, sum_on

    latent, labels = make_latent(case.kind, n, case.d, case.n_labels, 0)
    clusters = sort_by_label(latent, encode_labels(labels, n))
    moments, device = label_moments(clusters), CudaDevice()
    blocks = row_blocks(n, launch_rows(kernel_for(case.d), n, case.n_labels))

    def kernel() -> int:
        return sum(sum_on(device, clusters, moments, rows).n_pairs for rows in blocks)

    def whole() -> NDArray[np.float64]:
        ours = sort_by_label(latent, encode_labels(labels, n))
        values = np.empty(n)
        values[ours.order] = gpu_samples(ours).values
        return values

    def cumls() -> NDArray[np.float64]:
        import cupy
        from cuml.metrics.cluster import silhouette_samples

        return cupy.asnumpy(cupy.asarray(silhouette_samples(latent, labels.astype(np.int32))))

    works: dict[str, Callable[[], object]] = {"kernel": kernel, "whole": whole}
    if with_cuml:
        works["cuml"] = cumls
    found = {name: work() for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    least = {name: min(times) for name, times in seconds.items()}
    what = f"{case.name}, {n:,} cells"
    n_pairs = int(found["kernel"])
    details = {"share_of_pairs": round(n_pairs / n**2, 4), "seconds": round(least["kernel"], 4)}
    figures = [
        Figure(
            benchmark="gpu",
            what=f"kernel, {what}",
            measured=n_pairs / least["kernel"],
            unit="pairs/s",
            at_least=case.pairs_per_s,
            details=details,
        ),
        Figure(
            benchmark="gpu",
            what=f"silhouettes, {what}",
            measured=n**2 / least["whole"],
            unit="pairs answered/s",
            details={"seconds": round(least["whole"], 4)},
        ),
    ]
    if with_cuml:
        difference = np.abs(np.asarray(found["whole"]) - np.asarray(found["cuml"]))
        figures.append(
            Figure(
                benchmark="gpu",
                what=f"silhouettes, {what}",
                measured=least["cuml"] / least["whole"],
                unit="x cuML's speed",
                at_least=TIMES_CUML,
                details={
                    "cuml_seconds": round(least["cuml"], 4),
                    "largest_difference": float(difference.max()),
                },
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()
    problem = gpu_problem("cupy")
    if problem is not None:
        raise SystemExit(f"This benchmark needs a GPU: {problem}")
    with_cuml = gpu_problem("cuml") is None
    n, rounds = (20_000, 1) if options.quick else (options.cells, options.rounds)
    figures = []
    for case in CASES:
        figures += measure(case, n, rounds, with_cuml=with_cuml)
    tell(figures, "Silhouettes on a GPU", with_goals=not options.quick)


if __name__ == "__main__":
    main()

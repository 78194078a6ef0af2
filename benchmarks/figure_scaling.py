"""Compute on paper what data parallelism brings: tables for docs/scaling.md, docs/images/scaling.png.

    python -m benchmarks.figure_scaling                 # some two minutes: measures, then computes
    python -m benchmarks.figure_scaling --decode 570e3  # with a figure measured elsewhere

What a step multiplies, and how many weights it sends round, is counted from our own networks. How many
cells per second a core decodes is measured here. What a GPU and a network do is taken from their data
sheets and from the shares of them that are usually reached (`Machine`); nothing of it was measured on
a GPU, so read ratios and limits from it, not promises.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.bench_step import Case, Sizes, build, matrix_flops
from medl_scale.store.atomic import atomic_file

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "scaling"
RANKS = (1, 2, 4, 8, 16, 32, 64)
MINIBATCHES = (512, 2048, 8192)
FLOAT = 4


@dataclass(frozen=True)
class Link:
    """What carries sums between ranks."""

    name: str
    bandwidth: float
    """Bytes per second and direction."""
    latency_s: float
    """Of one reduction of few bytes between two ranks."""


@dataclass(frozen=True)
class Machine:
    """What one rank computes with, and how many of them share a node."""

    name: str
    ranks_per_node: int
    flops: float
    """Matrix products per second of a rank, at the share that layers of some hundred units reach."""
    memory: float
    """Bytes per second of a rank's memory."""
    launches_s: float
    """Least time of a step, whatever its size."""
    cores: int
    """CPU cores that decode for a rank."""
    inside: Link
    """Between the ranks of a node."""


NVLINK = Link("NVLink", 450e9 * 0.8, 12e-6)
NETWORKS = (
    Link("100 Gb Ethernet", 100e9 / 8 * 0.85, 40e-6),
    Link("25 Gb Ethernet", 25e9 / 8 * 0.85, 50e-6),
)
# An H200 multiplies 494 TFLOP/s in TF32 and reads 4.8 TB/s; a step is some 80 kernels of 3 us.
GPU = {"flops": 494e12 * 0.4, "memory": 4.8e12 * 0.7, "launches_s": 250e-6, "cores": 12}
CORE_FLOPS = 110e9 * 0.6
"""Of a core of the machine that the README's figures are of, at the share of its peak that steps reach."""
MACHINES = (
    Machine("8 GPUs a node", 8, **GPU, inside=NVLINK),
    Machine("1 GPU a node", 1, **GPU, inside=NVLINK),
    Machine("16 CPU cores a node", 1, 16 * CORE_FLOPS, 100e9, 2e-3, 2, NVLINK),
)


@dataclass(frozen=True)
class Work:
    """What one step of a model is, per cell and per step."""

    name: str
    flops_per_cell: float
    weights: int
    """Trained numbers that every rank holds, adversary included."""
    sent: int
    """Numbers summed over the ranks in each step."""
    syncs: int
    """Reductions that wait for each other: batch normalisation, forward and back, and gradients."""
    activations_per_cell: int
    """Numbers that a cell's step writes and reads again."""


def work_of(model: str, n_batches: int, sizes: Sizes) -> Work:
    """Count the work of a model's step on its network."""
    network, engine = build(Case(model, n_batches), sizes, 1)
    initial = network.initial_values(np.random.default_rng(0))
    weights = sum(v.size for v in (initial.model | initial.adversary).values())
    tables = engine.effect_tables()
    # Scales and shifts of every batch that a minibatch may hold; mean and s.d. are trained of each.
    effects = sum(int(table.loc.size) for table in tables.values())
    n_norms = sum(name.endswith("/mean") for name in initial.statistics)
    flops = matrix_flops(Case(model, n_batches), sizes, network.n_latent) / sizes.minibatch_size
    widths = sizes.n_vars * 3 + sum(sizes.hidden) * 8
    return Work(
        f"{model.upper()}, {n_batches} batches",
        flops,
        weights + 2 * effects,
        weights + effects,
        2 * n_norms + (2 if model == "fe" else 1),
        widths,
    )


def step_s(work: Work, minibatch: int, machine: Machine) -> float:
    """Return the seconds of one rank's step without any talk."""
    products = work.flops_per_cell * minibatch / machine.flops
    # Adam reads and writes weight, gradient and two moments.
    traffic = FLOAT * (7 * work.weights + 2 * work.activations_per_cell * minibatch)
    return max(products, machine.launches_s) + traffic / machine.memory


def talk_s(work: Work, n_ranks: int, machine: Machine, network: Link) -> float:
    """Return the seconds that a step spends on sums over the ranks: rings in nodes, then across."""
    inside = min(n_ranks, machine.ranks_per_node)
    nodes = -(-n_ranks // machine.ranks_per_node)
    # The sums of a node's ranks cross together: its link carries all bytes once.
    return _ring_s(work, inside, machine.inside) + _ring_s(work, nodes, network)


def _ring_s(work: Work, n: int, link: Link) -> float:
    """Return the seconds of a step's sums over n peers."""
    n_bytes = 2 * (n - 1) / n * FLOAT * work.sent
    return float(n_bytes / link.bandwidth + work.syncs * link.latency_s * np.log2(n))


def measure_decode(n_obs: int, n_vars: int) -> float:
    """Return the cells that a core reads and decodes in a second, here."""
    import tempfile
    import time

    from benchmarks.bench_loader import make_store
    from medl_scale.stream.plan import EpochPlan
    from medl_scale.stream.source import DiskSource

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.zarr"
        make_store(path, n_obs, n_vars)
        plan = EpochPlan((slice(0, n_obs),), 512, 1024, 16_384, seed=0, epoch=0)
        best = 0.0
        with DiskSource(path) as source:
            for _ in range(3):
                before = time.process_time()
                for load in plan.loads():
                    source.fetch(load.runs)
                best = max(best, n_obs / (time.process_time() - before))
    return best


def table(works: list[Work], decode: float) -> pd.DataFrame:
    """Return the speed of every case, and how much of it the ranks' talk leaves."""
    rows = []
    for work, machine, network, minibatch, n_ranks in itertools.product(
        works, MACHINES, NETWORKS, MINIBATCHES, RANKS
    ):
        alone = step_s(work, minibatch, machine)
        step = alone + talk_s(work, n_ranks, machine, network)
        speed = n_ranks * minibatch / step
        rows.append(
            {
                "model": work.name,
                "layout": machine.name,
                "network": network.name,
                "minibatch a rank": minibatch,
                "ranks": n_ranks,
                "cells/s": speed,
                "efficiency": alone / step,
                "cells/s from the store": min(speed, n_ranks * decode * machine.cores),
            }
        )
    return pd.DataFrame(rows)


def draw(found: pd.DataFrame, path: Path) -> None:
    """Draw efficiency over ranks: a panel for each model and layout."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    models, layouts = found["model"].unique(), found["layout"].unique()
    figure, axes = plt.subplots(
        len(layouts), len(models), figsize=(11, 8), sharex=True, sharey=True, layout="constrained"
    )
    styles = {NETWORKS[0].name: "-", NETWORKS[1].name: "--"}
    for row, layout in zip(axes, layouts, strict=True):
        for axis, model in zip(row, models, strict=True):
            own = found[(found["model"] == model) & (found["layout"] == layout)]
            for color, minibatch in zip(
                ("#1b6ca8", "#c05a00", "#3a7d44"), MINIBATCHES, strict=True
            ):
                for network, style in styles.items():
                    line = own[(own["minibatch a rank"] == minibatch) & (own["network"] == network)]
                    axis.plot(
                        line["ranks"], line["efficiency"], style, color=color, marker="o", ms=3,
                        label=f"{minibatch:,} cells a rank, {network}",
                    )  # fmt: skip
            axis.set_title(f"{model}; {layout}", fontsize=10)
            axis.set_xscale("log", base=2)
            axis.set_xticks(RANKS, [str(n) for n in RANKS])
            axis.set_ylim(0, 1.02)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("ranks")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of speed that talk leaves")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    with atomic_file(path.with_suffix(".png")) as scratch:
        figure.savefig(scratch, format="png", dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decode", type=float, help="cells a core decodes in a second")
    parser.add_argument("--cells", type=int, default=100_000, help="of the store measured")
    parser.add_argument("--genes", type=int, default=2916)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    sizes = Sizes(n_vars=arguments.genes)
    works = [work_of("fe", 19, sizes), work_of("re", 147, sizes), work_of("me", 147, sizes)]
    decode = arguments.decode or measure_decode(arguments.cells, arguments.genes)
    found = table(works, decode)
    for work in works:
        print(
            f"{work.name}: {work.flops_per_cell / 1e6:.1f} MFLOP a cell, {work.weights / 1e6:.2f} M "
            f"trained numbers, {FLOAT * work.sent / 1e6:.1f} MB summed a step in {work.syncs} turns",
            file=sys.stderr,
        )
    print(f"decoding: {decode:,.0f} cells per core-second", file=sys.stderr)
    with atomic_file(arguments.output.with_suffix(".csv")) as scratch:
        found.round(4).to_csv(scratch, index=False)
    draw(found, arguments.output)
    shown = found[found["ranks"].isin([1, 8, 64])]
    columns = ["layout", "network", "minibatch a rank"]
    for work in works:
        own = shown[shown["model"] == work.name]
        speeds = own.pivot_table("cells/s", columns, "ranks", sort=False) / 1e6
        shares = own.pivot_table("efficiency", columns, "ranks", sort=False)
        both = speeds.round(2).astype(str) + " (" + shares.round(2).astype(str) + ")"
        print(f"\n{work.name}: million cells/s (share of as many ranks that need not talk)\n")
        print(both.to_string())


if __name__ == "__main__":
    main()

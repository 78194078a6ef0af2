"""What it costs that two processes train one network: CPU time per cell, and the sums over ranks.

    python -m benchmarks.bench_ranks

Two ranks of one thread each make steps by themselves and steps that they share, by turns, with as
many cells each; so whatever else the machine does slows both. The least CPU time of each is compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from medl_scale.ranks import Ranks
from medl_scale.train.collective import join
from medl_scale.train.engine import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medl_scale.models.network import Network
    from medl_scale.train.collective import Peers
    from medl_scale.train.engine import Engine, Feeds

ROOT = Path(__file__).resolve().parents[1]
N_RANKS = 2
MOST_COST = 1.4
GOAL_CELLS = 512
"""Cells a rank that the goal is for: the default minibatch."""
CASES = (Case("fe", 19), Case("me", 19), Case("re", 19), Case("re", 147))


def shared_feeds(network: Network, case: Case, sizes: Sizes, peers: Peers, step: int) -> Feeds:
    """Return a rank's cells of a minibatch that all hold."""
    everyones = [
        random_feeds(network, case, sizes, step * peers.world_size + rank)
        for rank in range(peers.world_size)
    ]
    codes = np.concatenate([feeds.batch_codes for feeds in everyones])
    return dataclasses.replace(everyones[peers.rank], share=Share(codes, len(codes)))


def stepper(engine: Engine, feeds: Sequence[Feeds]) -> Callable[[], object]:
    """Return a function that makes one step, each on another minibatch."""
    turn = itertools.cycle(feeds)
    return lambda: np.asarray(engine.step(next(turn), learning_rate=LEARNING_RATE))


def measure(case: Case, sizes: Sizes, peers: Peers, rounds: int, steps: int) -> dict[str, Any]:
    """Return least milliseconds a step of a rank, alone and together, and the numbers that travel."""
    network, alone = build(case, sizes, 1)
    _, together = build(case, sizes, 1, peers)
    feeds = [shared_feeds(network, case, sizes, peers, step) for step in range(3)]
    work = {
        "alone": stepper(alone, [dataclasses.replace(one, share=None) for one in feeds]),
        "together": stepper(together, feeds),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, step in work.items():
            peers.sum(np.zeros(1))  # begin each turn at one time
            times = cpu_and_wall(step, steps)
            if turn > 0:  # the first one traces graphs
                found[name].append(times)
    weights = sum(v.size for k, v in together.state().items() if k.startswith(("model", "advers")))
    rows = 0
    if network.effect_widths:
        rows = 2 * case.n_batches * sum(network.effect_widths.values())
    return {
        "case": case.name,
        "cells": sizes.minibatch_size,
        "floats": weights + rows,
        **{
            f"{name}_{kind}_ms": 1e3 * min(times[i] for times in both)
            for name, both in found.items()
            for i, kind in enumerate(("cpu", "wall"))
        },
    }


def measure_sums(peers: Peers, n_values: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds of one sum over ranks."""
    import tensorflow as tf

    sum_up = peers.graph(peers.total)
    values = tf.ones(n_values)
    sum_up(values)
    times = [cpu_and_wall(lambda: sum_up(values).numpy(), 1) for _ in range(repeats)]
    cpu, wall = (1e3 * min(part) for part in zip(*times, strict=True))
    return {"values": n_values, "cpu_ms": cpu, "wall_ms": wall}


def rank_main(rank: int, addresses: tuple[str, ...], options: argparse.Namespace) -> None:
    """Be a rank; the first prints what was measured."""
    set_threads(1)
    peers = join(Ranks(rank, addresses), 1)
    sizes = Sizes(64, 100, (32, 16)) if options.quick else Sizes()
    cells = (64,) if options.quick else options.cells
    rounds, steps = (1, 2) if options.quick else (options.rounds, options.steps)
    cases = CASES[:2] if options.quick else CASES
    found: list[dict[str, Any]] = []
    with peers.guarded():
        for case in cases:
            for n_cells in cells:
                sized = dataclasses.replace(sizes, minibatch_size=n_cells)
                found.append(measure(case, sized, peers, rounds, steps))
        sums = [measure_sums(peers, n, 10) for n in (1_000, 1_600_000)]
        if rank == 0:
            print(json.dumps({"steps": found, "sums": sums}), flush=True)
        peers.sum(np.zeros(1))  # nobody leaves before all are done
    os._exit(0)


def figures_of(found: dict[str, Any]) -> list[Figure]:
    """Return the figures of what the first rank measured; ranks cost alike."""
    figures = []
    for step in found["steps"]:
        goal = MOST_COST if step["cells"] == GOAL_CELLS else None
        ratio = step["together_cpu_ms"] / step["alone_cpu_ms"]
        details = {k: round(v, 2) for k, v in step.items() if k.endswith("_ms")}
        figures.append(
            Figure(
                benchmark="ranks",
                what=f"{step['case']}, {step['cells']} cells a rank, 2 ranks",
                measured=round(ratio, 3),
                unit="x the CPU time per cell of one",
                at_most=goal,
                details=details | {"mbytes_summed": round(step["floats"] * 4e-6, 2)},
            )
        )
    for each in found["sums"]:
        figures.append(
            Figure(
                benchmark="ranks",
                what=f"sum of {each['values'] * 4e-6:.3g} MB over 2 ranks",
                measured=round(each["cpu_ms"], 2),
                unit="CPU ms of each rank",
                details={"wall_ms": round(each["wall_ms"], 2)},
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each case")
    parser.add_argument("--steps", type=int, default=5, help="steps of a case in its turn")
    parser.add_argument("--cells", type=int, nargs="+", default=[GOAL_CELLS, 2048])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--addresses", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        rank_main(options.rank, tuple(options.addresses.split(",")), options)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(N_RANKS)]
    addresses = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    command = [sys.executable, "-m", "benchmarks.bench_ranks", *sys.argv[1:]]
    processes = [
        subprocess.Popen(
            [*command, "--rank", str(rank), "--addresses", addresses],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for rank in range(N_RANKS)
    ]
    printed, _ = processes[0].communicate()
    if any(process.wait() for process in processes):
        raise SystemExit("A rank failed; see above.")
    figures = figures_of(json.loads(printed.splitlines()[-1]))
    tell(figures, "One network on two processes", with_goals=not options.quick)


if __name__ == "__main__":
    main()

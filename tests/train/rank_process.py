"""One rank of a gang, in a process of its own; started by `gang` of this module.

It does jobs one after another, each a function of this module, and writes what they return.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import MedlError
from medl_scale.models.variational import EffectTable
from medl_scale.ranks import Ranks
from medl_scale.train.collective import join
from medl_scale.train.engine import EffectOptions, Share, build_engine
from medl_scale.train.fit import fit_one
from tests.models import small

if TYPE_CHECKING:
    from medl_scale.train.fit_files import FitStatus, FitTask

N_STEPS = 20
CUTS = (0, 7, small.N_CELLS)
"""Unequal parts of a minibatch."""


class Gang:
    """Ranks that were started; `results` waits for them."""

    def __init__(self, folder: Path, jobs: list[tuple[str, Any]], n_ranks: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(n_ranks))
        (folder / "jobs.pkl").write_bytes(pickle.dumps((addresses, jobs)))
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
        self.processes = []
        for rank in range(n_ranks):
            command = [sys.executable, "-m", "tests.train.rank_process", str(folder), str(rank)]
            with (folder / f"{rank}.err").open("w") as errors:
                self.processes.append(subprocess.Popen(command, env=environment, stderr=errors))

    def results(self, *, timeout_s: float = 150) -> list[list[Any]]:
        """Return what each rank's jobs returned, and end the processes."""
        end = time.monotonic() + timeout_s
        try:
            for process in self.processes:
                process.wait(max(0.1, end - time.monotonic()))
        finally:
            self.end()
        return [self.left_by(rank) for rank in range(len(self.processes))]

    def left_by(self, rank: int) -> list[Any]:
        """Return what the jobs of a rank returned."""
        path = self.folder / f"{rank}.out"
        errors = (self.folder / f"{rank}.err").read_text()
        assert path.exists(), f"rank {rank} left nothing:\n{errors[-3000:]}"
        return pickle.loads(path.read_bytes())

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()


def free_ports(n: int) -> list[int]:
    """Return ports that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def steps(ranks: Ranks | None, name: str) -> dict[str, np.ndarray]:
    """Return the losses of steps on parts of minibatches, and the state after them."""
    case = small.CASES[name]
    peers = join(ranks, 1)
    net = small.network(case)
    options = None
    if net.effect_widths:
        published = case.published_effects
        options = EffectOptions(
            {k: EffectTable(v.loc, v.untransformed) for k, v in small.tables(net).items()},
            net.kl_weights,
            None if published else small.PRESENCE,
            one_draw_kl=published,
            noise=small.NOISE,
        )
    engine = build_engine(
        net, small.jittered(net), options, n_threads=1, compiled=False, peers=peers
    )
    losses = []
    for step in range(N_STEPS):
        feeds = small.feeds(net, seed=5 + step)
        if ranks is not None:
            own = slice(CUTS[ranks.rank], CUTS[ranks.rank + 1])
            cells = ("x", "batch_codes", "label_codes", "latent_noise", "keep_mask")
            part = {k: getattr(feeds, k)[own] for k in cells if getattr(feeds, k) is not None}
            n_labelled = int((feeds.label_codes >= 0).sum())
            asks = ranks.rank == 1 and step == 3
            share = Share(feeds.batch_codes, n_labelled, asks_to_stop=asks)
            feeds = dataclasses.replace(feeds, **part, share=share)
        losses.append(np.asarray(engine.step(feeds, learning_rate=case.learning_rate)))
    return engine.state() | {"losses": np.array(losses)}


def fit(ranks: Ranks | None, task: FitTask) -> Any:
    """Return the summary of a fit and the reports that were heard; or the error and when it was raised."""
    heard: list[FitStatus] = []
    try:
        return fit_one(task, heard.append, ranks), heard
    except MedlError as error:
        return error, time.time()
    except KeyboardInterrupt:
        return "interrupted"


def fit_damaged(ranks: Ranks, task: FitTask) -> Any:
    """Do as `fit`, but the last rank reads an atlas whose largest file holds noise."""
    if ranks.rank == ranks.world_size - 1:
        copy = Path(f"{task.folder}-damaged.zarr")
        shutil.copytree(task.ref, copy)
        largest = max((copy / "X").rglob("*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(np.random.default_rng(0).bytes(largest.stat().st_size))
        task = dataclasses.replace(task, ref=str(copy))
    return fit(ranks, task)


def ended_early(found: Any) -> bool:
    """Say whether a job's fit was not finished."""
    return found == "interrupted" or (isinstance(found, tuple) and isinstance(found[0], MedlError))


def main(folder: Path, rank: int) -> None:
    """Do the jobs."""
    addresses, jobs = pickle.loads((folder / "jobs.pkl").read_bytes())
    ranks = Ranks(rank, addresses)
    found = [globals()[name](ranks, argument) for name, argument in jobs]
    scratch = folder / f"{rank}.tmp"
    scratch.write_bytes(pickle.dumps(found))
    scratch.rename(folder / f"{rank}.out")
    # Whoever leaves while others are still at it would be missed.
    end = time.monotonic() + 20
    while time.monotonic() < end and not any(ended_early(one) for one in found):
        if all((folder / f"{other}.out").exists() for other in range(len(addresses))):
            break
        time.sleep(0.05)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

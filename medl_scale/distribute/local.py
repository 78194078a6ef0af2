"""Independent tasks in processes of this machine, by Dask's `LocalCluster`.

The seam to other clusters is `medl_scale.distribute.schedule.run_on_client`, which needs a client
and nothing else; this module owns how processes on this machine are started and ended.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from medl_scale.config import check_at_least
from medl_scale.distribute.interrupts import interrupts_deferred
from medl_scale.distribute.schedule import run_on_client
from medl_scale.distribute.tasks import OnUpdate, Outcome, State, Task, attempt
from medl_scale.errors import ConfigError, FitFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client, LocalCluster

__all__ = ["count_cores", "local_client", "run_tasks"]

_UPDATE_S = 0.5
# Workers get this long to end by themselves before they are killed.
_END_S = 0.5
# More than ending them can take, on a machine that is busy with other things.
_CLOSE_S = 60.0
# Read when the libraries are loaded: OpenMP, the BLASes, numba, TensorFlow and XLA.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "NPROC",
)


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Sequence[Task],
    *,
    n_workers: int,
    threads_per_worker: int | None = None,
    memory_limit: str | float | None = "auto",
    on_update: OnUpdate | None = None,
) -> list[Outcome]:
    """Run independent tasks, the most expensive first, each alone in a worker process.

    With one worker (or one task) everything runs in this process, with all its threads.

    Parameters
    ----------
    function
        Called with the payload of each task. Importable on workers.
    tasks
        Names must differ.
    n_workers
        Processes, at most one a task. Scripts that ask for two or more need the usual
        `if __name__ == "__main__"`, because workers are spawned.
    threads_per_worker
        Threads of numerical libraries in each worker; the cores are divided by default.
    memory_limit
        Bytes a worker may use before it is ended, as Dask reads it: `"auto"` divides the memory,
        None sets no limit.
    on_update
        Called about twice a second with the state of every task; from this thread, or from
        another one while a task runs in this process.

    Returns
    -------
    list of Outcome, in the order of `tasks`. A task whose worker dies is run again twice.

    Raises
    ------
    ConfigError
        If `n_workers` is below 1, names repeat, or a script starts workers when it is imported.
    FitFailedError
        If no worker can be started.
    KeyboardInterrupt
        As it comes; the workers are ended first.
    """
    check_at_least("n_workers", n_workers, 1)
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"Tasks need names of their own; repeated: {', '.join(repeated)}.")
    if not tasks:
        return []
    ordered = sorted(tasks, key=lambda task: -task.cost)
    n_workers = min(n_workers, len(tasks))
    if n_workers == 1:
        outcomes = _run_here(function, ordered, on_update)
    else:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ConfigError(
                "Workers import the script that starts them, and this one starts workers when it is "
                "imported. Put its calls under `if __name__ == '__main__':`."
            )
        n_threads = threads_per_worker or max(1, count_cores() // n_workers)
        with local_client(n_workers, n_threads, memory_limit) as client:
            outcomes = run_on_client(
                client,
                function,
                ordered,
                n_workers=n_workers,
                on_update=on_update,
                every_s=_UPDATE_S,
            )
    by_name = {outcome.name: outcome for outcome in outcomes}
    return [by_name[name] for name in names]


def _run_here(
    function: Callable[[Any], Any], tasks: Sequence[Task], on_update: OnUpdate | None
) -> list[Outcome]:
    """Run tasks one after another in this process."""
    states: dict[str, State] = dict.fromkeys((task.name for task in tasks), "waiting")
    outcomes = []
    with _ticking(on_update, states):
        for task in tasks:
            states[task.name] = "running"
            outcomes.append(attempt(function, task))
            states[task.name] = "failed" if outcomes[-1].error else "done"
    return outcomes


@contextmanager
def _ticking(on_update: OnUpdate | None, states: dict[str, State]) -> Iterator[None]:
    """Call `on_update` from another thread while the block runs, and once after it."""
    if on_update is None:
        yield
        return
    ended = threading.Event()
    raised: list[Exception] = []

    def tick() -> None:
        while not ended.wait(_UPDATE_S):
            try:
                on_update(dict(states))
            except Exception as error:  # noqa: BLE001 - carried to the calling thread
                raised.append(error)
                return

    thread = threading.Thread(target=tick, name="task updates", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if raised:
        raise raised[0]
    on_update(dict(states))


@contextmanager
def local_client(
    n_workers: int, n_threads: int, memory_limit: str | float | None = "auto"
) -> Iterator[Client]:
    """Yield a client of a new local cluster; no process of it is left when the block ends.

    Parameters
    ----------
    n_workers, memory_limit
        As in `run_tasks`.
    n_threads
        Threads of numerical libraries in each worker.
    """
    import dask
    from distributed import Client

    threads = dict.fromkeys(_THREAD_VARIABLES, n_threads)
    settings = {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            **threads,
        },
        # Deaths are counted by us, for the task that ran and no other.
        "distributed.scheduler.allowed-failures": 0,
        # A worker holds one running task: there is nothing to spill, and to pause it is to hang.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.admin.large-graph-warning-threshold": "1 GB",
    }
    with dask.config.set(settings), _environment_kept(), warnings.catch_warnings():
        # On a busy disk; nothing a user could act on.
        warnings.filterwarnings("ignore", "Creating scratch directories is taking")
        with ExitStack() as stack:
            with interrupts_deferred():
                cluster = _start_cluster(n_workers, _bytes_limit(memory_limit, n_workers))
                stack.callback(_end_cluster, cluster)
                client = stack.enter_context(Client(cluster, set_as_default=False))
            yield client


def _start_cluster(n_workers: int, memory_limit: str | float | None) -> LocalCluster:
    """Start a local cluster of single-threaded workers, without a dashboard."""
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            # Any free port; the default one may be taken.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=memory_limit,
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:
        raise FitFailedError(
            f"{n_workers} worker processes could not be started: {error} What they printed is "
            "above. Run with one worker to do without them."
        ) from error


def _end_cluster(cluster: LocalCluster) -> None:
    """End all worker processes, also those in the middle of a task, and the scheduler."""
    # Whatever might still be stuck then ends with this process; results must not be lost to it.
    with suppress(TimeoutError):
        cluster.sync(_end_workers, cluster, callback_timeout=_CLOSE_S)
        cluster.close(timeout=_CLOSE_S)


async def _end_workers(cluster: LocalCluster) -> None:
    """End all worker processes: idle ones by themselves, others by force."""
    import asyncio

    nannies = list(cluster.workers.values())
    # Dask's own force comes with a time limit that a busy machine exceeds, and a nanny that met it
    # never closes. With a long limit and a signal of ours it finds its worker gone.
    closing = asyncio.gather(
        *(nanny.close(timeout=_CLOSE_S) for nanny in nannies), return_exceptions=True
    )
    await asyncio.wait([closing], timeout=_END_S)
    while not closing.done():
        for nanny in nannies:
            if nanny.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)
        await asyncio.wait([closing], timeout=0.1)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what starting workers does to this process's environment variables."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _bytes_limit(memory_limit: str | float | None, n_workers: int) -> str | float | None:
    """Return the limit of one worker; Dask divides "auto" by the cores, not by the workers."""
    from distributed.system import MEMORY_LIMIT

    return MEMORY_LIMIT / n_workers if memory_limit == "auto" else memory_limit


def count_cores() -> int:
    """Return how many cores this process may use, control groups included."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)

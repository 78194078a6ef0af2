"""Independent tasks: on the workers of a client, on new processes of this machine, or in this process.

`medl_scale.distribute.schedule` owns which worker gets which task, `clusters` how workers come to be.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from medl_scale.config import check_at_least
from medl_scale.distribute.clusters.local import local_client
from medl_scale.distribute.machine import count_cores
from medl_scale.distribute.schedule import run_on_client
from medl_scale.distribute.tasks import OnLoss, OnUpdate, Outcome, State, Task, attempt
from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

__all__ = ["run_tasks"]

_UPDATE_S = 0.5


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[Task],
    *,
    client: Client | None = None,
    n_workers: int,
    threads_per_worker: int | None = None,
    memory_limit: str | float | None = "auto",
    on_update: OnUpdate | None = None,
    on_loss: OnLoss | None = None,
) -> list[Outcome]:
    """Run independent tasks, the most expensive first, each alone in a worker process.

    Without a client, one worker (or one task) is this process, with all its threads, and more are
    processes started here.

    Parameters
    ----------
    function
        Called with the payload of each task. Importable on workers.
    tasks
        Names must differ.
    client
        Whose workers run the tasks; it is left open.
    n_workers
        Most tasks at a time. Without a client: processes, at most one a task. Scripts that ask for
        two or more need the usual `if __name__ == "__main__"`, because workers are spawned.
    threads_per_worker
        Threads of numerical libraries in each new process; the cores are divided by default.
    memory_limit
        Bytes a new process may use before it is ended, as Dask reads it: `"auto"` divides the memory,
        None sets no limit.
    on_update
        Called about twice a second with the state of every task; from this thread, or from
        another one while a task runs in this process.
    on_loss
        Called when a worker has died under a task.

    Returns
    -------
    list of Outcome, in the order of `tasks`. A task whose worker dies is run again twice.

    Raises
    ------
    ConfigError
        If `n_workers` is below 1, names repeat, or a script starts workers when it is imported.
    ClusterError
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
    if client is not None:
        outcomes = _run_there(client, function, ordered, n_workers, on_update, on_loss)
    elif (n_workers := min(n_workers, len(tasks))) == 1:
        outcomes = _run_here(function, ordered, on_update)
    else:
        n_threads = threads_per_worker or max(1, count_cores() // n_workers)
        with local_client(n_workers, n_threads, memory_limit) as started:
            outcomes = _run_there(started, function, ordered, n_workers, on_update, on_loss)
    by_name = {outcome.name: outcome for outcome in outcomes}
    return [by_name[name] for name in names]


def _run_there(
    client: Client,
    function: Callable[..., Any],
    tasks: Sequence[Task],
    n_workers: int,
    on_update: OnUpdate | None,
    on_loss: OnLoss | None,
) -> list[Outcome]:
    """Run tasks on the workers of a client."""
    return run_on_client(
        client,
        function,
        tasks,
        n_workers=n_workers,
        on_update=on_update,
        every_s=_UPDATE_S,
        on_loss=on_loss,
    )


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

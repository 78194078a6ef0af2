"""Tasks carried to the workers of a Dask client: one a worker, repeated when a worker dies."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.tasks import OnUpdate, Outcome, State, Task, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client, Future

__all__ = ["run_on_client"]

_MAX_DEATHS = 3
_NO_WORKER_S = 120.0


def run_on_client(
    client: Client,
    function: Callable[[Any], Any],
    tasks: Sequence[Task],
    *,
    n_workers: int,
    on_update: OnUpdate | None,
    every_s: float,
) -> list[Outcome]:
    """Run tasks on the workers of `client` and return their outcomes as they ended.

    Parameters
    ----------
    client
        Its scheduler should have `allowed-failures` 0, so that every death is reported.
    function, tasks
        As in `run_tasks`; started in the order given.
    n_workers
        Most tasks at a time; each worker gets one at a time.
    on_update
        Called with the state of every task.
    every_s
        Seconds between two calls of `on_update`.
    """
    run = _Run(client, function, tasks, n_workers)
    while run.waiting or run.running:
        run.start_tasks()
        run.take_finished(every_s)
        if on_update is not None:
            on_update(dict(run.states))
    return run.outcomes


class _Run:
    """Tasks on their way through the workers."""

    def __init__(
        self, client: Client, function: Callable[[Any], Any], tasks: Sequence[Task], n_workers: int
    ) -> None:
        self.client = client
        self.function = function
        self.n_workers = n_workers
        self.waiting = list(tasks)
        self.running: dict[Future, tuple[Task, str]] = {}
        self.outcomes: list[Outcome] = []
        self.states: dict[str, State] = dict.fromkeys((task.name for task in tasks), "waiting")
        self.deaths = dict.fromkeys(self.states, 0)
        self.finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.last_worker_s = time.monotonic()

    def start_tasks(self) -> None:
        """Give waiting tasks to free workers."""
        if not self.waiting or len(self.running) >= self.n_workers:
            return
        alive = self.client.run_on_scheduler(_addresses)
        if alive or self.running:
            self.last_worker_s = time.monotonic()
        elif time.monotonic() - self.last_worker_s > _NO_WORKER_S:
            for task in self.waiting:
                self._end(Outcome(task.name, error=f"No worker within {_NO_WORKER_S:.0f} s."))
            self.waiting.clear()
        busy = {address for _, address in self.running.values()}
        for address in alive:
            if address not in busy and self.waiting and len(self.running) < self.n_workers:
                self._start(self.waiting.pop(0), address)

    def take_finished(self, timeout_s: float) -> None:
        """Wait for a task to end, at most `timeout_s`, and take all that have."""
        try:
            future = self.finished.get(timeout=timeout_s)
            while True:
                self._take(future)
                future = self.finished.get_nowait()
        except queue.Empty:
            pass

    def _start(self, task: Task, address: str) -> None:
        """Send a task to a worker."""
        future = self.client.submit(
            attempt,
            self.function,
            task,
            key=f"{task.name}-{self.deaths[task.name]}",
            workers=[address],
            # If the worker is gone before the task reaches it, any other is better than none.
            allow_other_workers=True,
            pure=False,
        )
        self.running[future] = (task, address)
        self.states[task.name] = "running"
        future.add_done_callback(self.finished.put)

    def _take(self, future: Future) -> None:
        """Record how a task ended, or let it wait again if its worker died."""
        from distributed.scheduler import KilledWorker

        task, _ = self.running.pop(future)
        try:
            outcome = future.result(timeout=_NO_WORKER_S)
        except (KilledWorker, TimeoutError):
            self.deaths[task.name] += 1
            if self.deaths[task.name] < _MAX_DEATHS:
                self.states[task.name] = "waiting"
                self.waiting.insert(0, task)
                return
            outcome = Outcome(
                task.name,
                error=f"Its worker process died {_MAX_DEATHS} times: killed, or out of memory. "
                "Run fewer workers at a time, or give each more memory.",
            )
        except Exception as error:  # noqa: BLE001 - such as a value that cannot be pickled
            outcome = Outcome(task.name, error=f"{type(error).__name__}: {error}")
        future.release()
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        """Record an outcome."""
        self.outcomes.append(outcome)
        self.states[outcome.name] = "failed" if outcome.error else "done"


def _addresses(dask_scheduler: Any) -> list[str]:
    """Return the addresses of all workers; runs in the scheduler."""
    return [worker.address for worker in dask_scheduler.workers.values()]

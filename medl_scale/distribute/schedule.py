"""Tasks carried to the workers of a Dask client, and started again when processes die under them."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.attempts import SoloAttempt
from medl_scale.distribute.gang import Gang
from medl_scale.distribute.limits import Limits
from medl_scale.distribute.tasks import Loss, Lost, OnLoss, OnUpdate, Outcome, State, Task
from medl_scale.distribute.watch import WORKER_DIED, ClusterWatch, Place
from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client

__all__ = ["run_on_client"]

_MORE_MEMORY = "Run fewer workers at a time (--workers), or give each more memory (--memory-limit)."


def run_on_client(
    client: Client,
    function: Callable[..., Any],
    tasks: Sequence[Task],
    *,
    n_workers: int,
    on_update: OnUpdate | None,
    every_s: float,
    on_loss: OnLoss | None = None,
    limits: Limits | None = None,
) -> list[Outcome]:
    """Run tasks on the workers of `client` and return their outcomes as they ended.

    A task is started again when a process dies under it, at most twice. Workers that come later are
    used as well. A worker that is cut off by the network, and lives, ends what it does when it notices,
    within half a minute or so: until then a task may run twice, which it must bear.

    Parameters
    ----------
    client
        Any client that is not asynchronous; what its scheduler does about dying workers does not
        matter.
    function, tasks
        As in `run_tasks`; started in the order given. A task that wants several workers
        (`Task.n_ranks`) waits until they are free, or does with fewer if no more live.
    n_workers
        Most workers in use at a time; each has one task, or one rank of one.
    on_update
        Called with the state of every task.
    every_s
        Seconds between two calls of `on_update`.
    on_loss
        Called when a task has lost a process and is about to be started again.
    limits
        How long anything may be silent.

    Raises
    ------
    ConfigError
        If the client is asynchronous.
    SchedulerLostError
        If the scheduler is gone.
    """
    if client.asynchronous:
        raise ConfigError(
            "A Dask client with an event loop of its own is needed; this one is asynchronous. Make it "
            "with `Client(..., asynchronous=False)`."
        )
    run = _Run(client, function, tasks, n_workers, on_loss, limits or Limits())
    try:
        while run.waiting or run.attempts:
            run.step()
            if on_update is not None:
                on_update(dict(run.states))
            if run.waiting or run.attempts:
                run.wait(every_s)
    finally:
        run.close()
    return run.outcomes


class _Run:
    """Tasks on their way through the workers."""

    def __init__(
        self,
        client: Client,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        n_workers: int,
        on_loss: OnLoss | None,
        limits: Limits,
    ) -> None:
        self.client = client
        self.function = function
        self.n_workers = n_workers
        self.on_loss = on_loss
        self.limits = limits
        self.waiting = list(tasks)
        self.attempts: list[SoloAttempt | Gang] = []
        self.outcomes: list[Outcome] = []
        self.states: dict[str, State] = dict.fromkeys((task.name for task in tasks), "waiting")
        self.losses: dict[str, list[Loss]] = {name: [] for name in self.states}
        self.first_start_s: dict[str, float] = {}
        self.watch = ClusterWatch(client, limits)
        # Runs of the same tasks may share a scheduler, also with one that was just interrupted.
        self.id = uuid.uuid4().hex
        self.n_started = 0
        self.had_workers_s = self.fewer_since_s = time.monotonic()
        self.woken = threading.Event()

    def step(self) -> None:
        """See how everything stands, and give waiting tasks to free workers."""
        self.woken.clear()
        self.watch.look(self._busy())
        for attempt in list(self.attempts):
            end = attempt.poll(self.watch)
            if end is not None:
                self.attempts.remove(attempt)
                self._take(attempt.task, end)
                self._go_on_or_close(attempt)
        self._start_waiting()

    def wait(self, timeout_s: float) -> None:
        """Wait until an attempt may have ended, at most `timeout_s`."""
        self.woken.wait(timeout_s)

    def close(self) -> None:
        """End what still runs."""
        for attempt in self.attempts:
            attempt.close()

    def _take(self, task: Task, end: Outcome | Lost) -> None:
        """Record how an attempt at a task ended."""
        losses = self.losses[task.name]
        if isinstance(end, Lost):
            now = time.monotonic()
            self.fewer_since_s = now
            losses.append(Loss(end.what, now - self.first_start_s[task.name]))
            if len(losses) < self.limits.max_losses:
                if self.on_loss is not None:
                    self.on_loss(task.name, losses[-1])
                self.states[task.name] = "waiting"
                self.waiting.insert(0, task)
                return
            end = Outcome(task.name, error=_given_up(task, losses), traceback=end.tail or None)
            n_restarts = len(losses) - 1
        else:
            n_restarts = len(losses)
        self._end(dataclasses.replace(end, losses=tuple(losses), n_restarts=n_restarts))

    def _end(self, outcome: Outcome) -> None:
        """Record an outcome."""
        self.outcomes.append(outcome)
        self.states[outcome.name] = "failed" if outcome.error else "done"

    def _go_on_or_close(self, attempt: SoloAttempt | Gang) -> None:
        """Give the next task to a gang that can take it; let go of anything else."""
        if isinstance(attempt, Gang) and attempt.is_whole and self.waiting:
            n_ranks = len(attempt.places)
            if self._n_ranks_now(self.waiting[0]) == n_ranks and all(
                map(self.watch.has, attempt.places)
            ):
                task = self._next()
                attempt.start(task, key=self._key(task))
                self.attempts.append(attempt)
                return
        attempt.close()

    def _start_waiting(self) -> None:
        """Give waiting tasks to free workers, in order: a large one is not passed by small ones."""
        now = time.monotonic()
        if self._places():
            self.had_workers_s = now
        elif now - self.had_workers_s > self.limits.no_worker_s:
            for task in self.waiting:
                losses = tuple(self.losses[task.name])
                error = _nowhere(self.limits.no_worker_s, self.watch.n_paused(), losses)
                n_restarts = max(0, len(losses) - 1)
                self._end(Outcome(task.name, error=error, losses=losses, n_restarts=n_restarts))
            self.waiting.clear()
        busy = self._busy()
        free = [place for place in self.watch.usable() if place not in busy]
        del free[max(0, self.n_workers - len(busy)) :]
        while self.waiting and free:
            n_ranks = self._n_ranks_now(self.waiting[0])
            if n_ranks > len(free):
                return
            self._start(self._next(), free[:n_ranks])
            del free[:n_ranks]

    def _n_ranks_now(self, task: Task) -> int:
        """Return how many workers a task is to have: fewer than it wants if no more live."""
        wanted = min(task.n_ranks, self.n_workers)
        n_there = len(self._places())
        waited_s = time.monotonic() - self.fewer_since_s
        if n_there >= wanted or waited_s < self.limits.refill_s:
            return wanted
        return max(1, n_there)

    def _busy(self) -> set[Place]:
        """Return the workers in use."""
        return {place for attempt in self.attempts for place in attempt.places}

    def _places(self) -> set[Place]:
        """Return the workers in use or to be had; one that is silent or paused is not counted on."""
        return self._busy().union(self.watch.usable())

    def _start(self, task: Task, places: Sequence[Place]) -> None:
        """Send a task to workers."""
        attempt: SoloAttempt | Gang
        if len(places) == 1:
            attempt = SoloAttempt(
                self.client,
                self.function,
                task,
                places[0],
                key=self._key(task),
                limits=self.limits,
                wake=self._wake,
            )
        else:
            self.n_started += 1
            attempt = Gang(
                self.client,
                self.function,
                places,
                name=f"gang-{self.id}-{self.n_started}",
                limits=self.limits,
                wake=self._wake,
            )
            attempt.start(task, key=self._key(task))
        self.attempts.append(attempt)

    def _next(self) -> Task:
        """Return the task that is first in turn, as one that runs now."""
        task = self.waiting.pop(0)
        self.states[task.name] = "running"
        self.first_start_s.setdefault(task.name, time.monotonic())
        return task

    def _key(self, task: Task) -> str:
        """Return a new name for a Dask task; the dashboard shows what is before the first dash."""
        self.n_started += 1
        return f"{task.name}-{self.id}-{self.n_started}"

    def _wake(self, _: Any) -> None:
        """Look at the attempts at once."""
        self.woken.set()


def _given_up(task: Task, losses: Sequence[Loss]) -> str:
    """Return the error of a task that lost too many processes."""
    if task.n_ranks == 1 and all(loss.what == WORKER_DIED for loss in losses):
        times = f"{len(losses)} times"
        return f"Its worker process died {times}: killed, or out of memory. {_MORE_MEMORY}"
    return f"{_listed(losses)} {_MORE_MEMORY}"


def _nowhere(waited_s: float, n_paused: int, losses: Sequence[Loss]) -> str:
    """Return the error of a task that no worker could take."""
    text = f"No worker could take it for {waited_s:.0f} s: "
    if n_paused:
        text += f"Dask has paused {n_paused}, out of memory. {_MORE_MEMORY}"
        return f"{text} {_listed(losses)}" if losses else text
    text += "none is left in the cluster."
    if losses:
        return f"{text} {_listed(losses)} {_MORE_MEMORY}"
    return f"{text} See why they ended, and start some again."


def _listed(losses: Sequence[Loss]) -> str:
    """Return a sentence on what a task lost."""
    listed = "; ".join(f"after {loss.after_s:.0f} s, {loss.what}" for loss in losses)
    return f"It lost a process {len(losses)} time{'s' * (len(losses) > 1)}: {listed}."

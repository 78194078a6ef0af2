"""Which workers live, as the driver sees it; frozen and unreachable ones are found and let go.

Dask itself waits minutes for a silent worker. Here a worker whose heartbeats stop is looked at
through its nanny, which runs beside it: the nanny tells a stopped process, which it kills, from one
that is busy; a nanny that does not answer means that the host is out of reach.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from medl_scale.errors import SchedulerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from distributed import Client

    from medl_scale.distribute.limits import Limits

__all__ = ["WORKER_DIED", "ClusterWatch", "Place"]

WORKER_DIED = "its worker process died: killed, or out of memory, or it left the cluster"

_QUESTION = "medl_scale_workers"
# A look counts as at most so much silence: a driver that was suspended must not blame the workers.
_MOST_PASSED_S = 1.0


class Place(NamedTuple):
    """One life of a worker: a worker that its nanny started again is another place."""

    address: str
    id: str


class _Seen(NamedTuple):
    """What the scheduler knows of a worker."""

    place: Place
    is_running: bool
    last_seen: float
    has_nanny: bool
    heartbeat_s: float


class ClusterWatch:
    """What is known of the workers of a client.

    Parameters
    ----------
    client
        A client with an event loop of its own.
    limits
        How long workers and scheduler may be silent.
    """

    def __init__(self, client: Client, limits: Limits) -> None:
        self.client = client
        self.limits = limits
        self._seen: dict[Place, _Seen] = {}
        self._quiet_s: dict[Place, float] = {}
        self._why: dict[Place, str] = {}
        self._looked = time.monotonic()
        self._unanswered_s = 0.0
        self._is_installed = False
        self._scheduler = str(getattr(client.scheduler, "address", "of this client"))

    def look(self, used: Collection[Place]) -> None:
        """Ask the scheduler for its workers, and examine those of `used` that are silent.

        Raises
        ------
        SchedulerLostError
            If the scheduler is gone, or has not answered for too long.
        """
        now = time.monotonic()
        passed_s = min(now - self._looked, _MOST_PASSED_S)
        self._looked = now
        try:
            found = self._found()
        except OSError as error:
            self._count_unanswered(time.monotonic() - now, error)
            return
        self._unanswered_s = 0.0
        seen = {
            place: _Seen(place, *rest) for place, *rest in ((Place(*f[0]), *f[1:]) for f in found)
        }
        for place, worker in seen.items():
            before = self._seen.get(place)
            heard = before is None or worker.last_seen != before.last_seen
            self._quiet_s[place] = 0.0 if heard else self._quiet_s[place] + passed_s
        self._seen = seen
        for place in used:
            if place in seen and place not in self._why and self._is_silent(place):
                self._examine(place)

    def has(self, place: Place) -> bool:
        """Say whether a worker still lives."""
        return place in self._seen and place not in self._why

    def why(self, place: Place) -> str:
        """Return how a worker was lost."""
        return self._why.get(place, WORKER_DIED)

    def usable(self) -> list[Place]:
        """Return the workers that can be given work."""
        return [
            place
            for place, worker in self._seen.items()
            if worker.is_running and place not in self._why and not self._is_silent(place)
        ]

    def n_paused(self) -> int:
        """Return how many workers live and take no work: Dask pauses those that use most of their memory."""
        return sum(self.has(place) and not seen.is_running for place, seen in self._seen.items())

    def _found(self) -> Any:
        """Return what `_describe` finds."""
        if not self._is_installed:
            self._ask(self.client._run_on_scheduler, _install)
            self._is_installed = True
        return self._ask(getattr(self.client.scheduler, _QUESTION))

    def _ask(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the answer of the scheduler to a call of the client, within bounds."""
        self.check_connected()
        kwargs.setdefault("callback_timeout", self.limits.ask_s)
        return self.client.sync(function, *args, **kwargs)

    def check_connected(self) -> None:
        """Raise if the connection to the scheduler has broken."""
        if self.client.status != "running":
            raise self._scheduler_lost()

    def _count_unanswered(self, waited_s: float, error: OSError) -> None:
        """Raise if the scheduler has been silent for too long."""
        self._unanswered_s += waited_s
        is_late = self._unanswered_s >= self.limits.scheduler_s
        is_silent = self._unanswered_s >= self.limits.silent_s
        if (
            is_late
            or self.client.status != "running"
            or (is_silent and not _accepts_connections(self._scheduler, self.limits.ask_s))
        ):
            raise self._scheduler_lost() from error

    def _scheduler_lost(self) -> SchedulerLostError:
        """Return the error of a scheduler that is gone."""
        return SchedulerLostError(
            f"The Dask scheduler at {self._scheduler} does not answer any more: its process or host "
            "ended, or the network between us did. What had finished is kept. Start a cluster again, "
            "and go on with --resume."
        )

    def _is_silent(self, place: Place) -> bool:
        """Say whether heartbeats of a worker have been missing for too long."""
        allowed_s = self.limits.silent_s + 2 * self._seen[place].heartbeat_s
        return self._quiet_s[place] > allowed_s

    def _examine(self, place: Place) -> None:
        """Let a silent worker go if it is stopped or out of reach."""
        quiet_s = self._quiet_s[place]
        is_late = quiet_s > self.limits.busy_s
        state = "alive"
        if self._seen[place].has_nanny:
            state = self._ask_nanny(place, even_if_busy=is_late)
        if state == "alive" and not is_late:
            return
        self._why[place] = {
            "alive": f"its worker process was silent for {quiet_s:.0f} s",
            "stopped": f"its worker process was stopped by a signal, silent for {quiet_s:.0f} s",
            "gone": "its worker process ended",
            "unreachable": f"its worker's host has been out of reach for {quiet_s:.0f} s",
        }[state]
        try:
            self._ask(self.client._run_on_scheduler, _forget, *place)
        except OSError:
            # The next look says whether the scheduler is gone.
            return

    def _ask_nanny(self, place: Place, *, even_if_busy: bool) -> str:
        """Return the state of a worker's process: `alive`, `stopped`, `gone`, or `unreachable`."""
        try:
            answers = self._ask(
                self.client._run,
                _end_stopped_worker,
                nanny=True,
                workers=[place.address],
                on_error="ignore",
                even_if_busy=even_if_busy,
                callback_timeout=self.limits.nanny_s,
            )
        except OSError:
            return "unreachable"
        return next(iter(answers.values()), "unreachable")


def _accepts_connections(address: str, timeout_s: float) -> bool:
    """Say whether the host of a Dask address takes connections at its port.

    The system does so for a process that is busy or stopped, and not for one that ended; a host that
    is out of reach does not answer at all. True for protocols that are not TCP.
    """
    from distributed.comm import get_address_host_port, parse_address

    try:
        if parse_address(address, strict=True)[0] not in {"tcp", "tls"}:
            return True
        place = get_address_host_port(address)
    except ValueError:
        return True
    try:
        socket.create_connection(place, timeout_s).close()
    except OSError:
        return False
    return True


def _install(dask_scheduler: Any) -> None:
    """Teach the scheduler our question; it logs a line for every function that it is made to run."""

    def describe() -> list[Any]:
        return _describe(dask_scheduler)

    dask_scheduler.handlers[_QUESTION] = describe


def _describe(scheduler: Any) -> list[Any]:
    """Return the fields of `_Seen` for every worker."""
    from distributed.scheduler import heartbeat_interval

    interval_s = heartbeat_interval(len(scheduler.workers))
    return [
        (
            (worker.address, worker.server_id),
            worker.status.name == "running",
            worker.last_seen,
            worker.nanny is not None,
            interval_s,
        )
        for worker in scheduler.workers.values()
    ]


async def _forget(address: str, server_id: str, dask_scheduler: Any) -> None:
    """Make the scheduler let a worker go, which tells it to close; runs in the scheduler."""
    worker = dask_scheduler.workers.get(address)
    if worker is not None and worker.server_id == server_id:
        await dask_scheduler.remove_worker(address, stimulus_id="medl-scale-worker-silent")


def _end_stopped_worker(dask_worker: Any, *, even_if_busy: bool) -> str:
    """Say how the process of a worker is, and kill it if it is stopped; runs in its nanny."""
    import psutil

    if dask_worker.pid is None:
        return "gone"
    try:
        process = psutil.Process(dask_worker.pid)
        is_stopped = process.status() == psutil.STATUS_STOPPED
        if is_stopped or even_if_busy:
            process.kill()
    except psutil.NoSuchProcess:
        return "gone"
    return "stopped" if is_stopped else "alive"

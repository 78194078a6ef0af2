"""Several workers that do one task together: one process beside each, as the driver follows them.

A gang is formed once and may do one task after another; its processes keep what they have loaded.
Collective calls must not run inside Dask's own worker processes: a call that waits for a lost peer
would keep the worker from closing. So each worker starts a process for its rank and watches it, and
whatever goes wrong in one of them ends them all: libraries of collectives want fresh processes and
fresh ports after a failure. The task's function takes up its own checkpoint.

The function is called as `function(payload, report, ranks)` on every rank: it calls `report` whenever
it has got on, takes its peers' addresses from `ranks` (`medl_scale.ranks.Ranks`), raises
`RankLostError` when it meets the loss of another, and returns the same value everywhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.attempts import result_of
from medl_scale.distribute.member_task import open_member, run_member
from medl_scale.distribute.tasks import Lost, Outcome
from medl_scale.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client, Future

    from medl_scale.distribute.limits import Limits
    from medl_scale.distribute.tasks import Task
    from medl_scale.distribute.watch import ClusterWatch, Place

__all__ = ["Gang"]


class Gang:
    """Processes beside several workers, with fixed addresses, for one task at a time.

    Parameters
    ----------
    places
        The workers, by rank.
    name
        Unique in the cluster; shown before the first dash.
    wake
        Called, from another thread, when something may have ended.
    """

    def __init__(
        self,
        client: Client,
        function: Callable[..., Any],
        places: Sequence[Place],
        *,
        name: str,
        limits: Limits,
        wake: Callable[[Any], None],
    ) -> None:
        self.places = tuple(places)
        self.is_whole = True
        """Whether it can take another task."""
        self._client = client
        self._function = function
        self._limits = limits
        self._wake = wake
        self._addresses: tuple[str, ...] = ()
        # As long as these are held, so are the processes.
        self._leases = [
            self._submit(f"{name}-{rank}", rank, open_member, place, limits)
            for rank, place in enumerate(self.places)
        ]
        self._opened_s = time.monotonic()
        self._runs: list[Future] = []

    def start(self, task: Task, *, key: str) -> None:
        """Take a task; it starts when all processes are there."""
        self.task = task
        self._key = key
        self._runs = []
        self._ends: dict[int, Outcome | Lost] = {}
        self._ended_s: float | None = None
        self._saw_loss = False
        if self._addresses:
            self._send()

    def poll(self, watch: ClusterWatch) -> Outcome | Lost | None:
        """Return how the task ended, or None while it runs."""
        if not self._runs:
            lost = self._open(watch)
            if lost is not None:
                return self._broken(lost)
        if not self._runs:
            return None
        self._collect(watch)
        now = time.monotonic()
        is_complete = len(self._ends) == len(self.places)
        has_failed = any(isinstance(end, Lost) or end.error for end in self._ends.values())
        if is_complete and not has_failed:
            return self._ends[0]
        first = self._ends.get(0)
        if isinstance(first, Outcome) and not first.error:
            # Its value holds, even if another rank does not find its end.
            end, wait_s = first, 0.0 if has_failed else self._limits.start_s
        elif has_failed:
            # A loss that was seen from here needs no word of the others, who may be waiting for long.
            end, wait_s = None, 0.0 if self._saw_loss else self._limits.settle_s
        else:
            return None
        if self._ended_s is None:
            self._ended_s = now
        if is_complete or now - self._ended_s > wait_s:
            return self._broken(end or self._verdict())
        return None

    def close(self) -> None:
        """Let go of the processes: their workers end them."""
        for future in (*self._runs, *self._leases):
            future.release()

    def _open(self, watch: ClusterWatch) -> Lost | None:
        """Send the task once all processes are there; return what keeps one from it."""
        found = []
        for rank, (place, lease) in enumerate(zip(self.places, self._leases, strict=True)):
            if lease.done():
                address = result_of(lease, watch, place, self._limits)
                if isinstance(address, Lost):
                    return self._told(rank, address)
                if lease.status == "error":
                    return self._told(rank, Lost(f"its process could not be started: {address}"))
                found.append(address)
            elif not watch.has(place):
                return self._told(rank, Lost(watch.why(place)))
            elif time.monotonic() - self._opened_s > self._limits.start_s:
                what = f"its process had not started after {self._limits.start_s:.0f} s"
                return self._told(rank, Lost(what))
        if len(found) == len(self.places):
            self._addresses = tuple(found)
            self._send()
        return None

    def _send(self) -> None:
        """Send the task to every rank."""
        self._runs = [
            self._submit(
                f"{self._key}-{rank}",
                rank,
                run_member,
                lease.key,
                self._function,
                self.task,
                Ranks(rank, self._addresses),
            )
            for rank, lease in enumerate(self._leases)
        ]

    def _submit(self, key: str, rank: int, function: Callable[..., Any], *args: Any) -> Future:
        """Send a call to the worker of a rank, and nowhere else."""
        future = self._client.submit(
            function,
            *args,
            key=key,
            workers=[self.places[rank].address],
            allow_other_workers=False,
            pure=False,
        )
        future.add_done_callback(self._wake)
        return future

    def _collect(self, watch: ClusterWatch) -> None:
        """Take how ranks ended."""
        for rank, (place, future) in enumerate(zip(self.places, self._runs, strict=True)):
            if rank in self._ends:
                continue
            if future.done():
                end = result_of(future, watch, place, self._limits)
                if not isinstance(end, Outcome | Lost):
                    end = Outcome(self.task.name, error=end)
                self._ends[rank] = end
            elif not watch.has(place):
                self._ends[rank] = Lost(watch.why(place))
                self._saw_loss = True

    def _verdict(self) -> Outcome | Lost:
        """Return what ended the task, of all that ranks met."""
        lost = {rank: end for rank, end in self._ends.items() if isinstance(end, Lost)}
        failed = [end for end in self._ends.values() if isinstance(end, Outcome) and end.error]
        for rank, end in lost.items():
            # What other ranks raise when a peer dies may be anything: it is kept, but is no verdict.
            if not end.is_echo:
                met = "\n".join(str(outcome.traceback) for outcome in failed)
                return self._told(rank, Lost(end.what, end.tail or met))
        # A rank that failed by itself, which the others met as a loss.
        return failed[0] if failed else self._told(*next(iter(lost.items())))

    def _told(self, rank: int, lost: Lost) -> Lost:
        """Return a loss with the place it happened at."""
        place = self.places[rank]
        what = f"rank {rank} of {len(self.places)} on {place.address}: {lost.what}"
        return Lost(what, lost.tail)

    def _broken(self, end: Outcome | Lost) -> Outcome | Lost:
        """Mark the gang as one that takes no other task."""
        self.is_whole = False
        return end

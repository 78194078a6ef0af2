"""What runs on a Dask worker for one rank: a process of its own, watched from outside.

The process lives as long as the Dask task that opened it is wanted (`medl_scale.distribute.lease`),
so that a driver that ends, crashes or lets go of a worker needs to tell nobody.
"""

from __future__ import annotations

import pickle
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medl_scale.distribute.lease import is_held, wrong_place
from medl_scale.distribute.member_process import MemberProcess
from medl_scale.distribute.messages import Beat, Call, Ended, Reported
from medl_scale.distribute.tasks import Lost, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Worker

    from medl_scale.distribute.limits import Limits
    from medl_scale.distribute.tasks import Task
    from medl_scale.distribute.watch import Place
    from medl_scale.ranks import Ranks

__all__ = ["open_member", "run_member"]

_EVERY_S = 0.25
# A first rank that computes less than this share of the time does not compute.
_LEAST_CPU_SHARE = 0.01

_members: dict[Any, _Member] = {}


def open_member(place: Place, limits: Limits) -> str | Lost:
    """Start the process of one rank beside this worker.

    Returns
    -------
    str
        `host:port` that its collective server can take, the host as other workers know it.
    """
    from distributed import get_worker

    worker = get_worker()
    mistaken = wrong_place(worker, place)
    if mistaken is not None:
        return mistaken
    member = _Member(worker, worker.get_current_task(), limits)
    return member.lost or _free_address(worker.address)


def run_member(
    lease: str, function: Callable[..., Any], task: Task, ranks: Ranks
) -> Outcome | Lost:
    """Run a task's function in a member that is there already.

    Parameters
    ----------
    lease
        Key of the Dask task that opened the member, on this worker.
    ranks
        This rank, and where all are.
    """
    member = _members.get(lease)
    return member.run(function, task, ranks) if member else Lost("its process is not there")


class _Member:
    """A process of one rank, and the thread that starts, watches and ends it."""

    def __init__(self, worker: Worker, lease: Any, limits: Limits) -> None:
        self.worker = worker
        self.lease = lease
        self.limits = limits
        self.lost: Lost | None = None
        self._changed = threading.Condition()
        self._process: MemberProcess | None = None
        self._outcome: bytes | None = None
        self._progress: _Progress | None = None
        self._beat = Beat(0.0)
        self._beat_s = time.monotonic()
        self._refused = False
        self._memory_limit = _memory_limit(worker)
        _members[lease] = self
        threading.Thread(target=self._live, name=str(lease), daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._process or self.lost)

    def run(self, function: Callable[..., Any], task: Task, ranks: Ranks) -> Outcome | Lost:
        """Run a task's function and return how it ended."""
        import cloudpickle

        call = Call(task.name, cloudpickle.dumps(function), cloudpickle.dumps(task.payload), ranks)
        self._outcome = None
        if ranks.is_first:
            self._progress = _Progress(self.limits, self._beat.cpu_s)
        try:
            if self._process is not None:
                self._process.send(call)
        except OSError:
            self._refused = True
        with self._changed:
            # The watching thread ends every silence, so one of them comes.
            self._changed.wait_for(lambda: self._outcome or self.lost)
            self._progress = None
        return self._answer()

    def _answer(self) -> Outcome | Lost:
        """Return how the last call ended."""
        if self._outcome is None:
            return self.lost or Lost("its process does not answer")
        outcome: Outcome | Lost = pickle.loads(self._outcome)
        return outcome

    def _live(self) -> None:
        """Start the process, watch it, and end it."""
        lost = Lost("its process could not be watched")
        process = None
        try:
            process = MemberProcess()
            self._beat_s = time.monotonic()
            with self._changed:
                self._process = process
                self._changed.notify_all()
            lost = self._watch(process)
        except OSError as error:
            lost = Lost(f"its process could not be started or watched: {error}")
        finally:
            if process is not None:
                lost = Lost(lost.what, process.end())
            _members.pop(self.lease, None)
            with self._changed:
                self.lost = lost
                self._changed.notify_all()

    def _watch(self, process: MemberProcess) -> Lost:
        """Take messages until the process ends, or has to; return why."""
        import psutil

        watched = psutil.Process(process.pid)
        stopped_s: float | None = None
        while process.is_connected:
            for message in process.messages(_EVERY_S):
                self._take(message)
            now = time.monotonic()
            try:
                is_stopped = watched.status() == psutil.STATUS_STOPPED
                memory = watched.memory_info().rss
            except psutil.NoSuchProcess:
                break
            stopped_s = (stopped_s or now) if is_stopped else None
            if stopped_s is not None and now - stopped_s > self.limits.stopped_s:
                return Lost("its process was stopped by a signal")
            if self._memory_limit and memory > self._memory_limit:
                return Lost(
                    f"its process used {memory / 2**30:.2f} GiB of memory, above the limit of its "
                    f"worker, {self._memory_limit / 2**30:.2f} GiB"
                )
            stuck = self._stuck(now)
            if stuck is not None:
                return Lost(stuck)
            if not is_held(self.worker, self.lease):
                return Lost("it is not wanted any more")
        return process.how_ended()

    def _take(self, message: Any) -> None:
        """Take a message of the process."""
        progress = self._progress
        match message:
            case Beat():
                self._beat, self._beat_s = message, time.monotonic()
                if progress is not None:
                    progress.computed(message.cpu_s)
            case Reported() if progress is not None:
                progress.reported(self._beat.cpu_s)
            case Ended(content):
                with self._changed:
                    self._outcome = content
                    self._changed.notify_all()

    def _stuck(self, now: float) -> str | None:
        """Return why the process is taken for stuck, or None."""
        progress = self._progress
        if self._refused:
            return "its process did not take its task"
        if now - self._beat_s > self.limits.busy_s:
            return f"its process gave no sign of life for {self.limits.busy_s:.0f} s"
        return progress.stuck(now) if progress is not None else None


class _Progress:
    """Whether the first rank gets on; the others may wait for it as long as they like."""

    def __init__(self, limits: Limits, cpu_s: float) -> None:
        self.limits = limits
        self.reported(cpu_s)

    def reported(self, cpu_s: float) -> None:
        """Take note of a report."""
        self.reported_s = self.marked_s = time.monotonic()
        self.marked_cpu_s = cpu_s

    def computed(self, cpu_s: float) -> None:
        """Take note of processor time."""
        if cpu_s - self.marked_cpu_s > _LEAST_CPU_SHARE * self.limits.idle_s:
            self.marked_s, self.marked_cpu_s = time.monotonic(), cpu_s

    def stuck(self, now: float) -> str | None:
        """Return why it does not get on, or None."""
        if now - self.marked_s > self.limits.idle_s:
            return f"it made no progress for {self.limits.idle_s:.0f} s"
        if now - self.reported_s > self.limits.unreported_s:
            return f"it reported no progress for {self.limits.unreported_s:.0f} s"
        return None


def _memory_limit(worker: Worker) -> float | None:
    """Return how many bytes a member may use; Dask's nannies watch their own workers only."""
    import dask

    limit = worker.memory_manager.memory_limit
    share = dask.config.get("distributed.worker.memory.terminate")
    return limit * share if limit and share else None


def _free_address(worker_address: str) -> str:
    """Return `host:port` with a port that is free now on the host of a worker."""
    host = urlsplit(worker_address).hostname or "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

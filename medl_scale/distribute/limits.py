"""How long anything on a cluster may be silent, idle or missing: every wait ends."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds of all waits, in seconds, and of the number of restarts.

    A process that is stopped, gone or cut off is noticed within ten seconds. One that lives and yet
    does not answer is most often loading a library, which keeps Python from everything else: it gets
    a minute.
    """

    max_losses: int = 3
    """A task that lost a process this often is given up."""
    silent_s: float = 5.0
    """Two of Dask's heartbeats come on top, whose interval grows with the cluster."""
    stopped_s: float = 2.0
    """How long a process may be stopped by a signal."""
    busy_s: float = 60.0
    """How long a living process may give no sign."""
    idle_s: float = 300.0
    """How long the first rank may use next to no processor time and report nothing."""
    unreported_s: float = 4 * 3600.0
    """How long the first rank may report nothing, however busy it is."""
    start_s: float = 60.0
    """How long a gang may take to start, and its ranks to follow the first one's end."""
    settle_s: float = 2.0
    """How long to wait for the other ranks to say what they met, to name the cause of a loss."""
    refill_s: float = 10.0
    """How long to wait for workers to come back before a task makes do with fewer."""
    ask_s: float = 2.0
    """How long to wait for one answer of the scheduler before it is asked again."""
    nanny_s: float = 2.0
    """How long a nanny may take to say how its worker is."""
    scheduler_s: float = 30.0
    """How long the scheduler may leave questions unanswered while its host takes connections: to give
    up a whole run for a busy one would cost more. One whose process or host is gone is noticed sooner."""
    result_s: float = 10.0
    """How long a result may take from its worker."""
    no_worker_s: float = 120.0
    """How long there may be no worker at all."""

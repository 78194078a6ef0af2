"""Waiting for workers: with progress, and with an end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from medl_scale.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

    from medl_scale.progress import Progress

__all__ = ["wait_for_workers"]

_ASK_EVERY_S = 0.2
# What the others of one submission may come later than the first.
_GRACE_S = 5.0


def wait_for_workers(
    client: Client, n_workers: int, *, timeout_s: float, advice: str, progress: Progress
) -> int:
    """Wait until work can start, and return how many workers there are.

    It can with the first worker: those that come later take what waits. Others that come within
    seconds of the first are waited for.

    Parameters
    ----------
    n_workers
        How many are expected.
    timeout_s
        How long the first may take.
    advice
        What to look into when none comes.

    Raises
    ------
    ClusterError
        If no worker has come in time.
    """
    there = _count(client)
    if there >= n_workers:
        return there
    started = time.monotonic()
    first: float | None = None
    shown = 0
    with progress.step("wait for workers", n_workers, "workers") as advance:
        while there < n_workers:
            now = time.monotonic()
            if there and first is None:
                first = now
            if first is not None and now - first > _GRACE_S:
                break
            if first is None and now - started > timeout_s:
                raise ClusterError(
                    f"None of {n_workers} workers came within {timeout_s:g} s to the scheduler at "
                    f"{client.scheduler.address}. {advice}"
                )
            time.sleep(_ASK_EVERY_S)
            there = min(_count(client), n_workers)
            advance(there - shown)
            shown = there
    if there < n_workers:
        progress.note(
            f"{there} of {n_workers} workers are here; the others join as they come.",
            workers=there,
            expected=n_workers,
        )
    return there


def _count(client: Client) -> int:
    """Return how many workers the scheduler has."""
    found: int = client.run_on_scheduler(_n_workers)
    return found


def _n_workers(dask_scheduler: Any) -> int:
    """Count workers; runs in the scheduler."""
    return len(dask_scheduler.workers)

"""Worker processes on this machine: how they are started, pinned to GPUs, and ended."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import warnings
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.clusters.config import WorkerOptions
from medl_scale.distribute.clusters.dashboard import listening_at
from medl_scale.distribute.clusters.environment import environment_kept, settings
from medl_scale.distribute.interrupts import interrupts_deferred
from medl_scale.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client, LocalCluster

__all__ = ["client_of", "local_client", "memory_share"]

# Workers get this long to end by themselves before they are killed.
_END_S = 0.2
# More than ending them can take, on a machine that is busy with other things.
_CLOSE_S = 60.0


@contextmanager
def local_client(
    n_workers: int,
    n_threads: int,
    memory_limit: str | float | None = "auto",
    *,
    gpus: Sequence[str] = (),
    options: WorkerOptions | None = None,
    dashboard_address: str | None = None,
) -> Iterator[Client]:
    """Yield a client of a new local cluster; no process of it is left when the block ends.

    Parameters
    ----------
    n_workers
        Processes, each of which runs one task at a time.
    n_threads
        Threads of numerical libraries in each worker.
    memory_limit
        Bytes a worker may use before it is ended, as Dask reads it: `"auto"` divides the memory,
        None sets no limit.
    gpus
        Names of GPUs, one for each worker, which sees no other; none leaves them as they are.
    options
        Further options of the workers.
    dashboard_address
        Where Dask's dashboard listens; None for no dashboard.

    Raises
    ------
    ClusterError
        If the workers cannot be started.
    """
    options = options or WorkerOptions()
    more: dict[str, Any] = {
        "protocol": options.protocol,
        "interface": options.interface,
        "local_directory": options.local_directory,
    }
    more = {name: value for name, value in more.items() if value is not None}
    kept = memory_share(options.memory_limit or memory_limit, n_workers)

    def start() -> LocalCluster:
        return _start_cluster(n_workers, kept, gpus, listening_at(dashboard_address), more)

    with client_of(start, n_threads) as client:
        yield client


@contextmanager
def client_of(start: Callable[[], LocalCluster], n_threads: int) -> Iterator[Client]:
    """Yield a client of the local cluster that a function starts, and end the cluster after it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "Workers import the script that starts them, and this one starts workers when it is "
            "imported. Put its calls under `if __name__ == '__main__':`."
        )
    import dask
    from distributed import Client

    with dask.config.set(settings(n_threads)), environment_kept(), warnings.catch_warnings():
        # On a busy disk; nothing a user could act on.
        warnings.filterwarnings("ignore", "Creating scratch directories is taking")
        # Of the dashboard: it then listens at another one.
        warnings.filterwarnings("ignore", "Port .* is already in use")
        with ExitStack() as stack:
            with interrupts_deferred():
                cluster = start()
                stack.callback(_end_cluster, cluster)
                client = stack.enter_context(Client(cluster, set_as_default=False))
            yield client


def memory_share(memory_limit: str | float | None, n_workers: int) -> str | float | None:
    """Return the limit of one worker; Dask divides "auto" by the cores, not by the workers."""
    from distributed.system import MEMORY_LIMIT

    return MEMORY_LIMIT / n_workers if memory_limit == "auto" else memory_limit


def _start_cluster(
    n_workers: int,
    memory_limit: str | float | None,
    gpus: Sequence[str],
    dashboard_address: str | None,
    more: dict[str, Any],
) -> LocalCluster:
    """Start a local cluster of single-threaded workers."""
    from distributed import LocalCluster

    class PinnedCluster(LocalCluster):  # type: ignore[misc]
        """Workers that see one GPU each."""

        def new_worker_spec(self) -> dict[Any, dict[str, Any]]:
            (described,) = super().new_worker_spec().items()
            number, spec = described
            seen = {"CUDA_VISIBLE_DEVICES": gpus[number]}
            return {number: spec | {"options": spec["options"] | {"env": seen}}}

    kind = PinnedCluster if gpus else LocalCluster
    try:
        cluster = kind(
            # Workers that differ are described one by one.
            n_workers=0 if gpus else n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=dashboard_address or "127.0.0.1:0",
            scheduler_kwargs={"dashboard": dashboard_address is not None},
            memory_limit=memory_limit,
            silence_logs=logging.CRITICAL,
            **more,
        )
        if gpus:
            cluster.scale(n_workers)
            cluster.wait_for_workers(n_workers, timeout=_CLOSE_S)
    except (RuntimeError, OSError, ValueError) as error:
        raise ClusterError(
            f"{n_workers} worker process{'es' * (n_workers > 1)} could not be started: {error} What they printed is "
            "above. Run with one worker to do without them."
        ) from error
    return cluster


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

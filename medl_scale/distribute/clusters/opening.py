"""The one door to workers: this process, this machine, a running cluster, or one that is started."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medl_scale.config import check_at_least
from medl_scale.distribute.clusters.dask_cuda import cuda_client, has_dask_cuda
from medl_scale.distribute.clusters.file import read_cluster_file
from medl_scale.distribute.clusters.joining import current_client, joined_client
from medl_scale.distribute.clusters.kinds import (
    CudaOptions,
    LocalOptions,
    count_workers,
    kind_client,
    threads_of,
)
from medl_scale.distribute.clusters.local import local_client
from medl_scale.distribute.clusters.ssh import SshOptions
from medl_scale.distribute.clusters.versions import check_versions
from medl_scale.distribute.clusters.waiting import wait_for_workers
from medl_scale.distribute.machine import count_cores, visible_gpus
from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from distributed import Client

    from medl_scale.distribute.clusters.config import ClusterConfig, WorkerOptions
    from medl_scale.progress import Progress

__all__ = ["Workers", "check_cluster", "open_workers"]


@dataclass(frozen=True)
class Workers:
    """Where tasks run."""

    client: Client | None
    """None: in this process."""
    n_workers: int
    """Most tasks at a time."""
    n_threads: int
    """Threads of each task: the same on all workers, since sums may depend on it in their last bits."""
    n_per_machine: int = 1
    """Most workers that share one machine's memory."""
    is_elsewhere: bool = False
    """Whether the workers may be on other machines, or were there before."""


def check_cluster(config: ClusterConfig) -> None:
    """Raise for what can be told before any cluster is started.

    Raises
    ------
    ConfigError
        If the cluster file cannot be used.
    """
    if config.file is not None:
        count_workers(read_cluster_file(config.file, config.worker), None)


@contextmanager
def open_workers(
    config: ClusterConfig,
    *,
    client: Client | None = None,
    n_workers: int | None = None,
    n_threads: int | None = None,
    most: int | None = None,
    with_gpus: bool = True,
    progress: Progress,
) -> Iterator[Workers]:
    """Open workers as chosen, check them, and end what was started with the block.

    Without any choice: the current Dask client if there is one; with `n_workers` above 1 new workers
    on this machine, one per GPU where there are GPUs; else this process.

    Parameters
    ----------
    client
        A client that the user has; it is left open.
    n_workers
        How many to start, or to use at most of a cluster that runs.
    n_threads
        Threads of each task; None: the worker's cores.
    most
        More workers would have nothing to do.
    with_gpus
        Give each worker of this machine a GPU of its own where there are some.

    Raises
    ------
    ConfigError
        If choices contradict each other, or the cluster file cannot be used.
    ClusterError
        If a cluster cannot be started or joined, or its workers have other packages.
    MissingExtraError
        If the kind of cluster needs a package that is not installed.
    """
    if n_workers is not None:
        check_at_least("workers", n_workers, 1)
    if client is not None and config.is_given:
        raise ConfigError("Give a client or the options of a cluster, not both.")
    n_threads = n_threads or config.worker.nthreads
    if client is None and not config.is_given:
        client = current_client()
        if client is not None:
            progress.note(f"Using the current Dask client: {client.scheduler.address}.")
    if client is not None:
        yield _joined(client, n_workers, n_threads, most, config.timeout_s, progress)
    elif config.joins:
        with joined_client(config) as found:
            progress.note(f"Joined the cluster of {found.scheduler.address}.{_link(found)}")
            yield _joined(found, n_workers, n_threads, most, config.timeout_s, progress)
    elif config.file is not None:
        with _started(config, n_workers, n_threads, most, progress) as workers:
            yield workers
    else:
        with _here(config, n_workers, n_threads, most, progress, with_gpus=with_gpus) as workers:
            yield workers


def _joined(
    client: Client,
    n_workers: int | None,
    n_threads: int | None,
    most: int | None,
    timeout_s: float,
    progress: Progress,
) -> Workers:
    """Return the workers of a cluster that runs."""
    advice = "Start workers (`dask worker ADDRESS --nthreads 1`)."
    wait_for_workers(client, 1, timeout_s=timeout_s, advice=advice, progress=progress)
    check_versions(client)
    cores = client.run(count_cores)
    return _described(client, _all_workers(cores, n_workers, most), n_threads, cores)


@contextmanager
def _started(
    config: ClusterConfig,
    n_workers: int | None,
    n_threads: int | None,
    most: int | None,
    progress: Progress,
) -> Iterator[Workers]:
    """Start the cluster that a file describes."""
    options = read_cluster_file(str(config.file), config.worker)
    if n_threads is not None:
        worker = dataclasses.replace(options.worker, nthreads=n_threads)
        options = dataclasses.replace(options, worker=worker)
    wanted = count_workers(options, n_workers)
    wanted = wanted if most is None else min(wanted, most)
    address = config.dashboard_address or "auto"
    with kind_client(options, wanted, dashboard_address=address) as client:
        progress.note(f"Started the cluster of {config.file}.{_link(client)}")
        wait_for_workers(
            client,
            wanted,
            timeout_s=options.wait_s,
            advice=f"Look at what the workers of {config.file} print, and into wait_s there.",
            progress=progress,
        )
        if isinstance(options, LocalOptions | CudaOptions):
            threads = threads_of(options) or max(1, count_cores() // wanted)
            yield Workers(client, wanted, threads, n_per_machine=wanted)
            return
        check_versions(client)
        cores = client.run(count_cores)
        if isinstance(options, SshOptions) and options.gpus:
            # Only the hosts know how many GPUs they have.
            wanted = _all_workers(cores, n_workers, most)
        yield _described(client, wanted, threads_of(options), cores)


@contextmanager
def _here(
    config: ClusterConfig,
    n_workers: int | None,
    n_threads: int | None,
    most: int | None,
    progress: Progress,
    *,
    with_gpus: bool,
) -> Iterator[Workers]:
    """Use this process, or start workers on this machine."""
    wanted = n_workers or 1
    wanted = wanted if most is None else min(wanted, max(1, most))
    if wanted == 1 and not config.worker.given().keys() - {"nthreads"}:
        yield Workers(None, 1, n_threads or count_cores())
        return
    gpus = visible_gpus()[:wanted] if with_gpus else ()
    n_found = len(gpus) or wanted
    n_each = n_threads or max(1, count_cores() // n_found)
    address = config.dashboard_address or "auto"
    opened: AbstractContextManager[Client]
    if gpus and has_dask_cuda():
        opened = cuda_client(gpus, n_each, config.worker, dashboard_address=address)
    else:
        _check_cpu_options(config.worker, gpus)
        opened = local_client(
            n_found, n_each, gpus=gpus, options=config.worker, dashboard_address=address
        )
    with opened as client:
        said = f"{n_found} worker{'s' * (n_found > 1)} on this machine, {n_each} thread{'s' * (n_each > 1)} each"
        if gpus:
            said += f", one for each of the GPUs {', '.join(gpus)}"
            said += " (dask-cuda)" if has_dask_cuda() else " (without dask-cuda)"
        progress.note(f"{said}.{_link(client)}", workers=n_found, threads=n_each, gpus=list(gpus))
        yield Workers(client, n_found, n_each, n_per_machine=n_found)


def _check_cpu_options(worker: WorkerOptions, gpus: tuple[str, ...]) -> None:
    """Raise if options were given that only dask-cuda knows."""
    names = ("device_memory_limit", "rmm_pool_size", "enable_tcp_over_ucx")
    given = [f"--{name.replace('_', '-')}" for name in names if name in worker.given()]
    if given:
        why = "dask-cuda is not installed" if gpus else "this process sees no GPU"
        then = "Install it with: pip install 'medl-scale[cu12]'" if gpus else "Leave it out."
        raise ConfigError(f"{', '.join(given)} is for workers on GPUs, and {why}. {then}")


def _all_workers(cores: dict[str, int], n_workers: int | None, most: int | None) -> int:
    """Return how many workers to use; without a number, those that come later take part too."""
    if most is None:
        return n_workers or len(cores)
    return min(n_workers or most, most)


def _described(
    client: Client, n_workers: int, n_threads: int | None, cores: dict[str, int]
) -> Workers:
    """Return workers on other machines, with as many threads each as all of them have cores for."""
    hosts: dict[str, list[int]] = {}
    for address, n_cores in cores.items():
        hosts.setdefault(address.split("://")[-1].rsplit(":", 1)[0], []).append(n_cores)
    share = min(max(1, min(counts) // len(counts)) for counts in hosts.values())
    return Workers(
        client,
        n_workers,
        n_threads or share,
        n_per_machine=max(len(counts) for counts in hosts.values()),
        is_elsewhere=True,
    )


def _link(client: Client) -> str:
    """Return where to look at the work."""
    link = client.dashboard_link
    return f" Dashboard: {link}" if link else ""

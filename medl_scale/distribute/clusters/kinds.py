"""The kinds of clusters that a cluster file can name, and what each is opened with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medl_scale.config import check_at_least
from medl_scale.distribute.clusters.config import WorkerOptions
from medl_scale.distribute.clusters.dask_cuda import cuda_client
from medl_scale.distribute.clusters.extras import need_extra
from medl_scale.distribute.clusters.kubernetes import KubernetesOptions, kubernetes_client
from medl_scale.distribute.clusters.local import local_client
from medl_scale.distribute.clusters.slurm import SlurmOptions, slurm_client
from medl_scale.distribute.clusters.ssh import SshOptions, ssh_client
from medl_scale.distribute.machine import count_cores, visible_gpus
from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from distributed import Client

__all__ = [
    "KINDS",
    "CudaOptions",
    "KindOptions",
    "LocalOptions",
    "count_workers",
    "kind_client",
    "threads_of",
]


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Processes on this machine, without GPUs."""

    workers: int = 1
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    wait_s: float = 60.0

    def __post_init__(self) -> None:
        check_at_least("workers", self.workers, 1)


@dataclass(frozen=True, kw_only=True)
class CudaOptions:
    """One process for each GPU of this machine."""

    workers: int | None = None
    """At most this many; None: one a GPU."""
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    wait_s: float = 120.0

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_at_least("workers", self.workers, 1)


type KindOptions = LocalOptions | CudaOptions | SshOptions | SlurmOptions | KubernetesOptions

KINDS: dict[str, type[KindOptions]] = {
    "local": LocalOptions,
    "dask-cuda": CudaOptions,
    "ssh": SshOptions,
    "slurm": SlurmOptions,
    "kubernetes": KubernetesOptions,
}
"""Options of each kind, by the name that cluster files use."""


def count_workers(options: KindOptions, n_workers: int | None) -> int:
    """Return how many workers a cluster of a kind shall have.

    Parameters
    ----------
    n_workers
        Instead of the file's number; there are never more than GPUs for `dask-cuda`.

    Raises
    ------
    ConfigError
        If `dask-cuda` is asked for where there is no GPU.
    """
    if isinstance(options, CudaOptions):
        n_gpus = len(visible_gpus())
        if n_gpus == 0:
            raise ConfigError(
                "A cluster of kind 'dask-cuda' needs NVIDIA GPUs, and this process sees none "
                "(nvidia-smi, CUDA_VISIBLE_DEVICES). Choose kind 'local' for CPUs."
            )
        return min(n_workers or options.workers or n_gpus, n_gpus)
    if isinstance(options, SshOptions):
        return n_workers or options.workers or len(options.hosts)
    return n_workers or options.workers


def threads_of(options: KindOptions) -> int | None:
    """Return the threads of a worker's libraries, as far as its options tell."""
    if options.worker.nthreads is not None:
        return options.worker.nthreads
    if isinstance(options, SlurmOptions):
        return max(1, options.cores // max(1, options.gpus))
    if isinstance(options, KubernetesOptions):
        return max(1, options.cpu // max(1, options.gpus))
    return None


def kind_client(
    options: KindOptions, n_workers: int, *, dashboard_address: str | None
) -> AbstractContextManager[Client]:
    """Return what opens a cluster of a kind, and ends it.

    Raises
    ------
    MissingExtraError
        If a package is not installed; here or when it is opened.
    """
    if isinstance(options, SshOptions):
        return ssh_client(options, n_workers, dashboard_address=dashboard_address)
    if isinstance(options, SlurmOptions):
        return slurm_client(options, n_workers, dashboard_address=dashboard_address)
    if isinstance(options, KubernetesOptions):
        return kubernetes_client(options, n_workers)
    n_threads = options.worker.nthreads or max(1, count_cores() // n_workers)
    if isinstance(options, CudaOptions):
        need_extra("dask_cuda", "cu12")
        gpus = visible_gpus()[:n_workers]
        return cuda_client(gpus, n_threads, options.worker, dashboard_address=dashboard_address)
    return local_client(
        n_workers, n_threads, options=options.worker, dashboard_address=dashboard_address
    )

"""One worker per GPU of this machine, by `dask_cuda.LocalCUDACluster`."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.clusters.dashboard import listening_at
from medl_scale.distribute.clusters.local import client_of, memory_share
from medl_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distributed import Client, LocalCluster

    from medl_scale.distribute.clusters.config import WorkerOptions

__all__ = ["cuda_client", "cuda_keywords", "has_dask_cuda"]


def has_dask_cuda() -> bool:
    """Say whether dask-cuda is installed, without importing it."""
    return find_spec("dask_cuda") is not None


@contextmanager
def cuda_client(
    gpus: Sequence[str],
    n_threads: int,
    options: WorkerOptions,
    *,
    dashboard_address: str | None = None,
) -> Iterator[Client]:
    """Yield a client of a new cluster with one worker for each of `gpus`; ended with the block.

    Raises
    ------
    ClusterError
        If dask-cuda cannot start it.
    """

    def start() -> LocalCluster:
        from dask_cuda import LocalCUDACluster

        try:
            return LocalCUDACluster(**cuda_keywords(gpus, options, listening_at(dashboard_address)))
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise ClusterError(
                f"dask-cuda could not start {len(gpus)} workers on the GPUs {', '.join(gpus)}: {error} "
                "Check the worker options and the driver (nvidia-smi)."
            ) from error

    with client_of(start, n_threads) as client:
        yield client


def cuda_keywords(
    gpus: Sequence[str], options: WorkerOptions, dashboard_address: str | None
) -> dict[str, Any]:
    """Return the keywords of `LocalCUDACluster`."""
    keywords: dict[str, Any] = {
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "n_workers": len(gpus),
        "threads_per_worker": 1,
        "memory_limit": memory_share(options.memory_limit or "auto", len(gpus)),
        "rmm_pool_size": options.rmm_pool_size,
        "enable_tcp_over_ucx": options.enable_tcp_over_ucx or None,
        "protocol": options.protocol,
        "local_directory": options.local_directory,
        "dashboard_address": dashboard_address or "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": dashboard_address is not None},
        "silence_logs": logging.CRITICAL,
    }
    # Its default is a share of the card that depends on the version.
    if options.device_memory_limit is not None:
        keywords["device_memory_limit"] = options.device_memory_limit
    if options.interface is not None:
        keywords["interface"] = options.interface
    return keywords

"""Options that name a cluster and set up its workers, spelled as `dask cuda worker` spells them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer  # noqa: TID253 - the command line is what it is for

if TYPE_CHECKING:
    from medl_scale.distribute.clusters import ClusterConfig

__all__ = [
    "Cluster",
    "DashboardAddress",
    "DeviceMemoryLimit",
    "Interface",
    "LocalDirectory",
    "MemoryLimit",
    "Protocol",
    "RmmPoolSize",
    "SchedulerAddress",
    "SchedulerFile",
    "cluster_config",
]

PANEL = "Cluster"

Cluster = Annotated[
    Path | None,
    typer.Option(
        help="Start the cluster of this YAML file: local, dask-cuda, ssh, slurm, kubernetes.",
        rich_help_panel=PANEL,
    ),
]
SchedulerAddress = Annotated[
    str | None,
    typer.Option(
        help="Join a running Dask cluster, such as tcp://HOST:8786.", rich_help_panel=PANEL
    ),
]
SchedulerFile = Annotated[
    Path | None,
    typer.Option(help="Join the cluster whose scheduler wrote this file.", rich_help_panel=PANEL),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        help="Memory a worker may use, such as 60GB (an equal part).", rich_help_panel=PANEL
    ),
]
DeviceMemoryLimit = Annotated[
    str | None, typer.Option(help="GPU memory for Dask's own data.", rich_help_panel=PANEL)
]
RmmPoolSize = Annotated[
    str | None, typer.Option(help="GPU memory set aside for RAPIDS.", rich_help_panel=PANEL)
]
Protocol = Annotated[
    str | None, typer.Option(help="tcp, tls or ucx (Dask's choice).", rich_help_panel=PANEL)
]
Interface = Annotated[
    str | None, typer.Option(help="Network interface, such as ib0.", rich_help_panel=PANEL)
]
LocalDirectory = Annotated[
    Path | None, typer.Option(help="Fast local disk for scratch files.", rich_help_panel=PANEL)
]
DashboardAddress = Annotated[
    str | None,
    typer.Option(
        help="Where Dask's dashboard listens, or none (127.0.0.1:8787, or a free port).",
        rich_help_panel=PANEL,
    ),
]


def cluster_config(
    *,
    cluster: Path | None,
    scheduler_address: str | None,
    scheduler_file: Path | None,
    memory_limit: str | None = None,
    device_memory_limit: str | None = None,
    rmm_pool_size: str | None = None,
    protocol: str | None = None,
    interface: str | None = None,
    local_directory: Path | None = None,
    dashboard_address: str | None = None,
) -> ClusterConfig:
    """Return the choice of a cluster that options make."""
    from medl_scale.distribute.clusters import ClusterConfig, WorkerOptions

    return ClusterConfig(
        scheduler_address=scheduler_address,
        scheduler_file=_text(scheduler_file),
        file=_text(cluster),
        worker=WorkerOptions(
            memory_limit=memory_limit,
            device_memory_limit=device_memory_limit,
            rmm_pool_size=rmm_pool_size,
            protocol=protocol,
            interface=interface,
            local_directory=_text(local_directory),
        ),
        dashboard_address=dashboard_address,
    )


def _text(path: Path | None) -> str | None:
    """Return a path as text."""
    return None if path is None else str(path)

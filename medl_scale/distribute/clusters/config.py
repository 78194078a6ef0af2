"""Which cluster carries the work: what a user may choose, checked when it is made."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field

from medl_scale.config import check_at_least
from medl_scale.errors import ConfigError

__all__ = ["ClusterConfig", "WorkerOptions", "as_cluster_config"]


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Options of every worker of a cluster, spelled as `dask cuda worker` spells them."""

    nthreads: int | None = None
    """CPU threads of a worker's numerical libraries; None: its cores. It runs one fit at a time."""
    memory_limit: str | None = None
    """Memory a worker may use before it is ended, such as `"60GB"`; `"0"` sets no limit. None: an equal
    part of its machine's, or all that its job was given."""
    device_memory_limit: str | None = None
    """GPU memory that Dask's own data may fill; models and atlases are not among them."""
    rmm_pool_size: str | None = None
    """GPU memory set aside for RAPIDS at the start, such as `"4GB"`. TensorFlow gets the rest."""
    enable_tcp_over_ucx: bool = False
    protocol: str | None = None
    """`"tcp"`, `"tls"`, `"ucx"`; None: Dask's choice."""
    interface: str | None = None
    """Network interface that workers and scheduler talk over, such as `"ib0"`."""
    local_directory: str | None = None
    """Folder for scratch files, on a fast local disk."""

    def __post_init__(self) -> None:
        if self.nthreads is not None:
            check_at_least("nthreads", self.nthreads, 1)
        for name in ("memory_limit", "device_memory_limit", "rmm_pool_size"):
            _check_bytes(name, getattr(self, name))

    def given(self) -> dict[str, object]:
        """Return the options that are not left to their defaults."""
        return {
            option.name: getattr(self, option.name)
            for option in dataclasses.fields(self)
            if getattr(self, option.name) != option.default
        }

    def over(self, base: WorkerOptions) -> WorkerOptions:
        """Return `base` with the options given here laid on top."""
        return dataclasses.replace(base, **self.given())  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where work is carried out; without any choice, on this machine."""

    scheduler_address: str | None = None
    """Join the cluster of this scheduler, such as `"tcp://10.0.0.1:8786"`."""
    scheduler_file: str | None = None
    """Join the cluster whose scheduler wrote this file."""
    file: str | None = None
    """Start the cluster that this YAML file describes."""
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    """On top of the file's."""
    dashboard_address: str | None = None
    """Where Dask's dashboard listens, such as `":8787"`; `"none"` for none. None: a free port."""
    timeout_s: float = 10.0
    """Seconds that a running scheduler, and a first worker of it, may take to answer."""

    def __post_init__(self) -> None:
        options = {
            "--scheduler-address": self.scheduler_address,
            "--scheduler-file": self.scheduler_file,
            "--cluster": self.file,
        }
        given = [name for name, value in options.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(
                f"A run has one cluster; {' and '.join(given)} each name one. Give one of them."
            )
        started_here = {f"--{name.replace('_', '-')}" for name in self.worker.given()}
        if self.dashboard_address is not None:
            started_here.add("--dashboard-address")
        if self.joins and started_here:
            raise ConfigError(
                f"{given[0]} joins workers that run already; {', '.join(sorted(started_here))} "
                "cannot change them. Leave it out, or start the workers with it."
            )
        check_at_least("timeout_s", self.timeout_s, 0.1)

    @property
    def joins(self) -> bool:
        """Whether the cluster runs already."""
        return self.scheduler_address is not None or self.scheduler_file is not None

    @property
    def is_given(self) -> bool:
        """Whether anything was chosen."""
        return self != ClusterConfig(timeout_s=self.timeout_s)


def as_cluster_config(cluster: ClusterConfig | str | os.PathLike[str] | None) -> ClusterConfig:
    """Return the choice of a cluster; text or a path is that of a cluster file."""
    if isinstance(cluster, str | os.PathLike):
        return ClusterConfig(file=os.fspath(cluster))
    return cluster or ClusterConfig()


def _check_bytes(name: str, text: str | None) -> None:
    """Raise unless text is a size that Dask reads."""
    from dask.utils import parse_bytes

    if text is None or text == "auto":
        return
    try:
        parse_bytes(text)
    except ValueError as error:
        raise ConfigError(
            f"{name} must be a size such as '8GB' or '500MiB'; got {text!r}."
        ) from error

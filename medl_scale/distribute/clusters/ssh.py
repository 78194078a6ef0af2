"""Workers on other machines over SSH, by `distributed.SSHCluster`."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medl_scale.config import check_at_least
from medl_scale.distribute.clusters.config import WorkerOptions
from medl_scale.distribute.clusters.environment import settings
from medl_scale.distribute.clusters.extras import need_extra
from medl_scale.distribute.clusters.lifeline import ending_with_client
from medl_scale.distribute.interrupts import interrupts_deferred
from medl_scale.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

__all__ = ["SshOptions", "ssh_client"]

_CLOSE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class SshOptions:
    """Where to, and how to log in. What is left out is as in the user's own SSH configuration."""

    hosts: tuple[str, ...]
    """Machines for workers; with more workers than hosts, the first hosts get further ones."""
    workers: int | None = None
    """Workers; None: one a host."""
    scheduler_host: str | None = None
    """Where the scheduler runs; None: the first host."""
    username: str | None = None
    port: int | None = None
    client_keys: tuple[str, ...] = ()
    """Files of private keys; none: the user's own and those of a running agent."""
    known_hosts: str | None = None
    """File of the hosts' keys; None: the user's own."""
    python: str | None = None
    """Python on the hosts; None: at the same path as here."""
    gpus: bool = False
    """Start dask-cuda's worker, which takes all GPUs of its host, one process each."""
    wait_s: float = 120.0
    """Seconds in which the hosts must have answered and the workers started."""
    worker: WorkerOptions = field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ConfigError("hosts must name at least one machine for workers.")
        if self.workers is not None:
            check_at_least("workers", self.workers, 1)
        if self.gpus and self.workers is not None:
            raise ConfigError(
                "With gpus: true each host has as many workers as GPUs. Leave out workers."
            )


@contextmanager
def ssh_client(
    options: SshOptions, n_workers: int, *, dashboard_address: str | None
) -> Iterator[Client]:
    """Yield a client of a new cluster over SSH; what it started ends with the block.

    Raises
    ------
    MissingExtraError
        If asyncssh is not installed.
    ClusterError
        If a host does not answer, refuses, or cannot start Dask.
    """
    need_extra("asyncssh", "ssh")
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings(options.worker.nthreads)))
        with interrupts_deferred():
            cluster = _start(options, n_workers, dashboard_address)
            stack.callback(_end, cluster)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        with ending_with_client(client):
            yield client


def _start(options: SshOptions, n_workers: int, dashboard_address: str | None) -> Any:
    """Start scheduler and workers."""
    from asyncssh import Error as SshError
    from distributed import SSHCluster

    places = [options.hosts[i % len(options.hosts)] for i in range(n_workers)]
    scheduler_host = options.scheduler_host or options.hosts[0]
    scheduler: dict[str, Any] = {"port": 0, "dashboard": dashboard_address not in {None, "none"}}
    if dashboard_address not in {None, "none", "auto"}:
        scheduler["dashboard_address"] = dashboard_address
    else:
        scheduler["dashboard_address"] = ":0"
    for name in ("interface", "protocol"):
        if getattr(options.worker, name) is not None:
            scheduler[name] = getattr(options.worker, name)
    try:
        return SSHCluster(
            [scheduler_host, *places],
            connect_options=connect_options(options),
            worker_options=worker_options(options, n_workers),
            scheduler_options=scheduler,
            worker_class="dask_cuda.CUDAWorker" if options.gpus else "distributed.Nanny",
            remote_python=options.python,
        )
    except (OSError, SshError, RuntimeError, TimeoutError) as error:
        # Dask wraps what went wrong.
        cause = error.__cause__ or error
        raise ClusterError(
            f"No cluster over SSH on {', '.join(dict.fromkeys([scheduler_host, *places]))}: {cause}. Log in "
            "by hand (`ssh HOST true`), and see that the hosts have medl-scale for "
            f"{options.python or 'a Python at the same path as here'}."
        ) from error


def connect_options(options: SshOptions) -> dict[str, Any]:
    """Return what asyncssh needs to log in."""
    given = {
        "username": options.username,
        "port": options.port,
        "client_keys": [_expanded(path) for path in options.client_keys] or None,
        "known_hosts": None if options.known_hosts is None else _expanded(options.known_hosts),
        "login_timeout": options.wait_s,
    }
    return {name: value for name, value in given.items() if value is not None}


def _expanded(path: str) -> str:
    """Return a path without `~`."""
    return str(Path(path).expanduser())


def worker_options(options: SshOptions, n_workers: int) -> dict[str, Any]:
    """Return the keywords of each worker, which runs one task at a time."""
    worker = options.worker
    # As a share of the host's memory; "auto" would divide it by the cores, and one task uses many.
    share = 1 / -(-n_workers // len(options.hosts))
    names = ["protocol", "interface", "local_directory"]
    if options.gpus:
        names += ["device_memory_limit", "rmm_pool_size", "enable_tcp_over_ucx"]
    given = {name: getattr(worker, name) for name in names if getattr(worker, name)}
    limit = worker.memory_limit or ("auto" if options.gpus else share)
    return {"nthreads": 1, "memory_limit": limit, **given}


def _end(cluster: Any) -> None:
    """End what was started; a scheduler that is gone has taken its workers along."""
    with suppress(OSError):
        cluster.close(timeout=_CLOSE_S)

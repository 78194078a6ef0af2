"""Workers as jobs of Slurm, by `dask_jobqueue.SLURMCluster`; the scheduler runs in this process."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medl_scale.config import check_at_least
from medl_scale.distribute.clusters.config import WorkerOptions
from medl_scale.distribute.clusters.dashboard import listening_at
from medl_scale.distribute.clusters.environment import environment_kept, settings, variables
from medl_scale.distribute.clusters.extras import need_extra
from medl_scale.distribute.interrupts import interrupts_deferred
from medl_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

__all__ = ["SlurmOptions", "slurm_client", "slurm_keywords"]

_ANSWER_S = 60.0
_CLOSE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """One job for each worker."""

    cores: int
    """`--cpus-per-task` of a job."""
    memory: str
    """`--mem` of a job, such as `"64GB"`."""
    walltime: str = "12:00:00"
    """Longest time of a job. A fit whose job ends goes on in another one, from its checkpoint."""
    workers: int = 1
    """Jobs to submit."""
    queue: str | None = None
    """Partition."""
    account: str | None = None
    gpus: int = 0
    """GPUs of a job; dask-cuda then starts one worker for each."""
    directives: tuple[str, ...] = ()
    """Further `#SBATCH` options, such as `"--constraint=a100"`."""
    prologue: tuple[str, ...] = ()
    """Shell lines before the worker starts, such as `"module load cuda"`."""
    python: str | None = None
    """Python on the nodes; None: at the same path as here."""
    log_directory: str = "slurm-logs"
    """Folder for what jobs print."""
    wait_s: float = 3600.0
    """Seconds that the first job may wait in the queue."""
    worker: WorkerOptions = field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        for name, minimum in (("cores", 1), ("workers", 1), ("gpus", 0), ("wait_s", 0)):
            check_at_least(name, getattr(self, name), minimum)


@contextmanager
def slurm_client(
    options: SlurmOptions, n_workers: int, *, dashboard_address: str | None
) -> Iterator[Client]:
    """Yield a client of a new cluster on Slurm; its jobs are cancelled when the block ends.

    Raises
    ------
    MissingExtraError
        If dask-jobqueue is not installed.
    ClusterError
        If there is no Slurm here, or it refuses the jobs.
    """
    need_extra("dask_jobqueue", "slurm")
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "There is no sbatch on this machine. Start from a login node of the Slurm cluster."
        )
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings(None)))
        if options.gpus:
            # An option that dask-cuda's worker does not have.
            stack.enter_context(dask.config.set({"jobqueue.slurm.death-timeout": None}))
        stack.enter_context(environment_kept())
        with warnings.catch_warnings(), interrupts_deferred():
            # Of the dashboard: it then listens at another one.
            warnings.filterwarnings("ignore", "Port .* is already in use")
            cluster = _start(options, dashboard_address)
            stack.callback(_end, cluster)
            _check_job(cluster.job_script())
            client = stack.enter_context(Client(cluster, set_as_default=False))
        cluster.scale(jobs=-(-n_workers // max(1, options.gpus)))
        yield client


def slurm_keywords(options: SlurmOptions, dashboard_address: str | None) -> dict[str, Any]:
    """Return the keywords of `SLURMCluster`."""
    from dask.utils import parse_bytes

    worker = options.worker
    n_threads = worker.nthreads or max(1, options.cores // max(1, options.gpus))
    extra: list[str] = []
    # The job's memory is the limit unless another is given: dask-jobqueue passes it on, the last counts.
    if worker.memory_limit is not None:
        extra += ["--memory-limit", worker.memory_limit]
    elif options.gpus > 1:
        extra += ["--memory-limit", str(parse_bytes(options.memory) // options.gpus)]
    scheduler: dict[str, Any] = {"dashboard_address": dashboard_address or ":0"}
    if dashboard_address is None:
        scheduler["dashboard"] = False
    keywords: dict[str, Any] = {
        "queue": options.queue,
        "account": options.account,
        "walltime": options.walltime,
        # Threads of Dask, not of the libraries: a worker runs one task at a time.
        "cores": 1,
        "processes": 1,
        "job_cpu": options.cores,
        "memory": options.memory,
        "interface": worker.interface,
        "protocol": worker.protocol,
        "local_directory": worker.local_directory,
        "log_directory": options.log_directory,
        "python": options.python,
        "job_name": "medl-scale",
        "job_extra_directives": list(options.directives),
        "job_script_prologue": [*options.prologue, *_exports(n_threads)],
        "scheduler_options": scheduler,
    }
    if options.gpus:
        keywords["job_extra_directives"].append(f"--gpus-per-task={options.gpus}")
        keywords["worker_command"] = "dask cuda worker"
        for name in ("device_memory_limit", "rmm_pool_size"):
            if getattr(worker, name) is not None:
                extra += [f"--{name.replace('_', '-')}", getattr(worker, name)]
        if worker.enable_tcp_over_ucx:
            extra.append("--enable-tcp-over-ucx")
    keywords["worker_extra_args"] = extra
    return keywords


def _exports(n_threads: int) -> list[str]:
    """Return shell lines that set up the workers."""
    return [f"export {name}={shlex.quote(text)}" for name, text in variables(n_threads).items()]


def _start(options: SlurmOptions, dashboard_address: str | None) -> Any:
    """Start the scheduler; no job is submitted yet."""
    from dask_jobqueue import SLURMCluster

    host = "0.0.0.0"
    try:
        return SLURMCluster(**slurm_keywords(options, listening_at(dashboard_address, host=host)))
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"No cluster on Slurm: {type(error).__name__}: {error}") from error


def _check_job(script: str) -> None:
    """Raise if Slurm would refuse the job; once submitted, nobody would tell."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.sh")
        path.write_text(script)
        try:
            asked = subprocess.run(
                ["sbatch", "--test-only", str(path)],
                capture_output=True,
                text=True,
                timeout=_ANSWER_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(
                f"Slurm did not answer within {_ANSWER_S:.0f} s. See whether `sinfo` does."
            ) from error
    if asked.returncode:
        raise ClusterError(
            f"Slurm refuses the workers' jobs: {asked.stderr.strip()} Change queue, account, cores, "
            "memory, walltime or directives in the cluster file."
        )


def _end(cluster: Any) -> None:
    """Cancel the jobs and end the scheduler."""
    with suppress(TimeoutError):
        cluster.close(timeout=_CLOSE_S)

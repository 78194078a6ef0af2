"""Workers as pods of Kubernetes, by the operator of dask-kubernetes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medl_scale.config import check_at_least
from medl_scale.distribute.clusters.config import WorkerOptions
from medl_scale.distribute.clusters.environment import variables
from medl_scale.distribute.clusters.extras import need_extra
from medl_scale.distribute.interrupts import interrupts_deferred
from medl_scale.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

__all__ = ["KubernetesOptions", "cluster_spec", "kubernetes_client"]

_CLOSE_S = 60.0
# The operator removes what a driver left that was killed.
_IDLE_S = 3600


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """One pod for each worker, and one for the scheduler."""

    image: str
    """Container image with medl-scale; see `cluster/Containerfile`."""
    name: str = "medl-scale"
    namespace: str | None = None
    """None: that of the current context."""
    workers: int = 1
    cpu: int = 4
    """Cores of a worker."""
    memory: str = "16Gi"
    """Memory of a worker."""
    gpus: int = 0
    """GPUs of a worker; dask-cuda then runs one process for each."""
    volume_claim: str | None = None
    """PersistentVolumeClaim (ReadWriteMany) that holds atlases and runs."""
    mount_path: str = "/data"
    """Where the pods see it; this process must see it at the same path."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, str], ...] = ()
    scheduler_service_type: str = "ClusterIP"
    wait_s: float = 600.0
    """Seconds in which the scheduler and a first worker must be up."""
    worker: WorkerOptions = field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        for name, minimum in (("workers", 1), ("cpu", 1), ("gpus", 0), ("wait_s", 0)):
            check_at_least(name, getattr(self, name), minimum)
        if self.worker.interface is not None or self.worker.protocol is not None:
            raise ConfigError(
                "Pods have one interface and talk TCP. Leave interface and protocol out."
            )


@contextmanager
def kubernetes_client(options: KubernetesOptions, n_workers: int) -> Iterator[Client]:
    """Yield a client of a new cluster on Kubernetes, which is deleted when the block ends.

    Raises
    ------
    MissingExtraError
        If dask-kubernetes is not installed.
    ClusterError
        If Kubernetes cannot be reached, or does not start the pods.
    """
    need_extra("dask_kubernetes", "kubernetes")
    from distributed import Client

    with ExitStack() as stack:
        with interrupts_deferred():
            cluster = _start(options, n_workers)
            stack.callback(_end, cluster)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield client


def cluster_spec(options: KubernetesOptions, n_workers: int) -> dict[str, Any]:
    """Return the operator's resource `DaskCluster`.

    Parameters
    ----------
    n_workers
        Pods, each with `gpus` workers if that is not 0.
    """
    from dask_kubernetes.operator import make_cluster_spec

    worker = options.worker
    sizes: dict[str, str] = {"cpu": str(options.cpu), "memory": options.memory}
    if options.gpus:
        sizes["nvidia.com/gpu"] = str(options.gpus)
    command = ["dask", "cuda", "worker"] if options.gpus else ["dask", "worker"]
    command += ["--nthreads", "1"]
    if worker.memory_limit is not None:
        command += ["--memory-limit", worker.memory_limit]
    names = ("local_directory", "device_memory_limit", "rmm_pool_size")
    for name in names if options.gpus else names[:1]:
        if getattr(worker, name) is not None:
            command += [f"--{name.replace('_', '-')}", getattr(worker, name)]
    spec: dict[str, Any] = make_cluster_spec(
        name=options.name,
        image=options.image,
        n_workers=n_workers,
        resources={"requests": dict(sizes), "limits": dict(sizes)},
        env=variables(worker.nthreads or max(1, options.cpu // max(1, options.gpus))),
        worker_command=command,
        scheduler_service_type=options.scheduler_service_type,
        idle_timeout=_IDLE_S,
    )
    scheduler_pod = spec["spec"]["scheduler"]["spec"]
    # The scheduler needs neither a GPU nor what a fit needs.
    small = {"cpu": "1", "memory": "2Gi"}
    scheduler_pod["containers"][0]["resources"] = {"requests": small, "limits": {"memory": "2Gi"}}
    worker_pod = spec["spec"]["worker"]["spec"]
    if options.node_selector:
        worker_pod["nodeSelector"] = dict(options.node_selector)
    if options.tolerations:
        worker_pod["tolerations"] = [dict(one) for one in options.tolerations]
    worker_pod["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if options.volume_claim is not None:
        claim = {"claimName": options.volume_claim}
        worker_pod["volumes"].append({"name": "data", "persistentVolumeClaim": claim})
        mounts.append({"name": "data", "mountPath": options.mount_path})
    worker_pod["containers"][0]["volumeMounts"] = mounts
    return spec


def _start(options: KubernetesOptions, n_workers: int) -> Any:
    """Ask the operator for a cluster and wait for its scheduler."""
    import kr8s
    from dask_kubernetes.operator import KubeCluster

    n_pods = -(-n_workers // max(1, options.gpus))
    try:
        # Before anything is made that would have to be taken back at exit.
        kr8s.api(namespace=options.namespace).version()
        return KubeCluster(
            namespace=options.namespace,
            custom_cluster_spec=cluster_spec(options, n_pods),
            resource_timeout=int(options.wait_s),
            quiet=True,
        )
    except Exception as error:
        # kr8s', httpx's and the operator's: they share no root.
        raise ClusterError(
            f"No cluster on Kubernetes: {type(error).__name__}: {error} Check the context "
            "(`kubectl cluster-info`), and that the operator is installed (`kubectl get crd "
            "daskclusters.kubernetes.dask.org`)."
        ) from error


def _end(cluster: Any) -> None:
    """Delete the cluster."""
    with suppress(TimeoutError):
        cluster.close(timeout=_CLOSE_S)

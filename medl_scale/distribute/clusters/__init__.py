"""Getting a cluster: one small module for each kind, all giving a Dask client.

- `config`: what a user may choose
- `opening`: the one door: which cluster, whether its workers will do, how many threads each task has
- `kinds`, `file`: the kinds of clusters and the YAML files that describe them
- `local`, `dask_cuda`, `ssh`, `slurm`, `kubernetes`: starting and ending one
- `joining`: a cluster that runs already
- `versions`, `paths`, `waiting`: what is checked, and waited for, before any work
- `environment`, `dashboard`, `lifeline`, `extras`: what several kinds need
"""

from medl_scale.distribute.clusters.config import (
    ClusterConfig,
    WorkerOptions,
    as_cluster_config,
)
from medl_scale.distribute.clusters.opening import Workers, check_cluster, open_workers
from medl_scale.distribute.clusters.paths import check_readable, check_shared_folder

__all__ = [
    "ClusterConfig",
    "WorkerOptions",
    "Workers",
    "as_cluster_config",
    "check_cluster",
    "check_readable",
    "check_shared_folder",
    "open_workers",
]

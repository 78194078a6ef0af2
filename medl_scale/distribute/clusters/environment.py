"""How workers must be set up for our work, as Dask's settings and as environment variables.

Whoever starts workers otherwise (see `cluster/README.md`) does well to set the same.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["THREAD_VARIABLES", "backend_name", "environment_kept", "settings", "variables"]

# Read when the libraries are loaded: OpenMP, the BLASes, numba, TensorFlow and XLA.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "NPROC",
)
_BACKEND = "KERAS_BACKEND"
_SETTINGS: dict[str, Any] = {
    # Deaths are counted by us, for the task that ran and no other.
    "distributed.scheduler.allowed-failures": 0,
    # A worker holds one running task: there is nothing to spill, and to pause it is to hang.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # Looks at the stack of whatever runs, a hundred times a second.
    "distributed.worker.profile.enabled": False,
    # Every scheduler, nanny and worker else wakes fifty times a second to see that it does.
    "distributed.admin.tick.interval": "500ms",
}
"""Those that hold for workers however they are started."""


def backend_name() -> str:
    """Return the Keras backend that this process's environment asks for."""
    return os.environ.get(_BACKEND) or "tensorflow"


def settings(n_threads: int | None) -> dict[str, Any]:
    """Return Dask's settings under which scheduler and workers are started.

    Parameters
    ----------
    n_threads
        Threads of numerical libraries in each worker; None leaves them to the workers.
    """
    import dask

    environ = dask.config.get("distributed.nanny.pre-spawn-environ")
    if n_threads is not None:
        environ = {**environ, **dict.fromkeys(THREAD_VARIABLES, n_threads)}
    return {
        "distributed.nanny.pre-spawn-environ": {**environ, _BACKEND: backend_name()},
        **_SETTINGS,
        "distributed.admin.large-graph-warning-threshold": "1 GB",
    }


def variables(n_threads: int | None) -> dict[str, str]:
    """Return the same for processes that are started by others, as environment variables."""
    threads = {} if n_threads is None else dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    return {
        **threads,
        _BACKEND: backend_name(),
        **{_variable(name): str(value) for name, value in _SETTINGS.items()},
    }


def _variable(setting: str) -> str:
    """Return the environment variable that Dask reads a setting from."""
    return f"DASK_{setting.replace('.', '__').replace('-', '_').upper()}"


@contextmanager
def environment_kept() -> Iterator[None]:
    """Undo what starting workers does to this process's environment variables."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)

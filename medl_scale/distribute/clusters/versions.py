"""Whether workers have the packages that this process has: the same code makes the same numbers."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from medl_scale.distribute.clusters.environment import backend_name
from medl_scale.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distributed import Client

__all__ = ["check_versions", "compare"]

PACKAGES = (
    "medl-scale", "dask", "distributed", "cloudpickle", "numpy", "scipy", "pandas", "numba", "scikit-learn",
    "zarr", "numcodecs", "anndata", "annbatch", "h5py", "keras",
)  # fmt: skip
"""Compared on all workers, beside Python and the packages of the backend."""
_BACKEND_PACKAGES = {"tensorflow": ("tensorflow",), "jax": ("jax", "jaxlib")}
# Differences listed in one message.
_MOST = 8


def check_versions(client: Client) -> None:
    """Raise unless all workers have this process's versions of what matters.

    Raises
    ------
    ClusterError
        With each package that differs, both versions and the worker.
    """
    mine = {"python": _minor(platform.python_version())}
    told = client.get_versions(check=False)["workers"]
    workers = {
        address: {"python": _minor(found["host"]["python"])}
        for address, found in told.items()
        if found
    }
    # Functions cannot be sent between versions of Python: ask for the rest only if it is the same.
    _raise_if_any(compare(mine, workers))
    packages = (*PACKAGES, *_BACKEND_PACKAGES.get(backend_name(), ()))
    ask = _by_value(packages)
    _raise_if_any(compare(ask(), client.run(ask)))


def compare(
    mine: Mapping[str, str | None], workers: Mapping[str, Mapping[str, str | None]]
) -> list[str]:
    """Return one line for each package of a worker that differs from ours."""
    return [
        f"{name} is {_said(found.get(name))} on worker {address}, {_said(version)} here"
        for name, version in mine.items()
        for address, found in workers.items()
        if found.get(name) != version
    ]


def _said(version: str | None) -> str:
    """Return how a version is told."""
    return version or "not installed"


def _minor(python: str) -> str:
    """Return a version of Python without its last parts, which change nothing that matters."""
    return ".".join(python.split(".")[:2])


def _raise_if_any(differences: list[str]) -> None:
    """Raise one error for all differences."""
    if not differences:
        return
    listed = "\n".join(f"  {line}" for line in differences[:_MOST])
    more = len(differences) - _MOST
    rest = f"\n  and {more} more" if more > 0 else ""
    raise ClusterError(
        f"The workers do not have the packages that this process has:\n{listed}{rest}\n"
        "Give all machines the same environment; `pip install -c constraints.txt medl-scale` pins one."
    )


def _by_value(packages: tuple[str, ...]) -> Callable[[], dict[str, str | None]]:
    """Return a function that can be sent to workers that lack our own package, or have another."""

    def ask() -> dict[str, str | None]:
        import os
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for name in packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        found["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
        return found

    return ask

"""Cluster files: YAML with a kind and its options."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medl_scale.distribute.clusters.kinds import KINDS
from medl_scale.errors import ConfigError
from medl_scale.settings import build

if TYPE_CHECKING:
    from medl_scale.distribute.clusters.config import WorkerOptions
    from medl_scale.distribute.clusters.kinds import KindOptions

__all__ = ["read_cluster_file"]


def read_cluster_file(path: str, worker: WorkerOptions | None = None) -> KindOptions:
    """Return the options that a cluster file holds.

    Parameters
    ----------
    worker
        Laid on top of the file's own section `worker`.

    Raises
    ------
    ConfigError
        If the file is missing or no YAML, or has an unknown kind or option: the known ones are listed.
    """
    values = _read(path)
    kind = values.pop("kind", None)
    listed = ", ".join(KINDS)
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        meant = f" Did you mean '{near[0]}'?" if near else ""
        found = f"has the kind {kind!r}" if kind is not None else "names no kind"
        raise ConfigError(f"The cluster file {path} {found}.{meant} Kinds: {listed}.")
    try:
        options: KindOptions = build(KINDS[kind], values, place=kind)
    except ConfigError as error:
        raise ConfigError(f"The cluster file {path} cannot be used: {error}") from error
    if worker is not None:
        options = dataclasses.replace(options, worker=worker.over(options.worker))
    return options


def _read(path: str) -> dict[str, Any]:
    """Return the values of a YAML file."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"The cluster file {path} does not exist. Copy one from the folder cluster/."
        ) from error
    except OSError as error:
        raise ConfigError(f"The cluster file {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"The cluster file {path} must hold options by name, such as `kind: local`; got {found!r}."
        )
    return found

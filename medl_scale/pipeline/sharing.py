"""How many workers share each fit of a run."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from medl_scale.errors import ConfigError
from medl_scale.ranks import Ranks
from medl_scale.train.fit_settings import check_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medl_scale.config import RunConfig
    from medl_scale.distribute.tasks import Task
    from medl_scale.store.atlas import Atlas

__all__ = ["may_share", "share_fits"]

# Below, a fit is over before processes that share it have loaded TensorFlow a few times.
LARGE_ATLAS = 500_000
"""Cells from which workers that would have no fit of their own are given a share of one."""
# Too small for steps to be shared; it takes seconds.
NEVER_SHARED = frozenset({"pca"})


def may_share(config: RunConfig, atlas: Atlas) -> bool:
    """Say whether more workers than fits may be of use."""
    if config.workers_per_fit != "auto":
        return config.workers_per_fit > 1
    return atlas.n_obs >= LARGE_ATLAS and _can_share(config)


def share_fits(
    tasks: Sequence[Task], config: RunConfig, atlas: Atlas, n_workers: int
) -> list[Task]:
    """Return the fits with the number of workers that share each.

    Parameters
    ----------
    tasks
        The fits; payloads are `FitTask`.
    n_workers
        Workers that there are, at most.

    Raises
    ------
    ConfigError
        If as many were asked for as there are not, or as cannot share these fits.
    """
    n_ranks = _asked(config, n_workers) or _free(tasks, config, atlas, n_workers)
    return [dataclasses.replace(task, n_ranks=_of(task, config, atlas, n_ranks)) for task in tasks]


def _asked(config: RunConfig, n_workers: int) -> int | None:
    """Return how many workers a fit was asked to have, if they are there."""
    asked = config.workers_per_fit
    if asked == "auto":
        return None
    if asked == 1:
        return 1
    if asked > n_workers:
        raise ConfigError(
            f"workers_per_fit {asked} needs as many workers; there are {n_workers}. Set --workers to "
            f"{asked} or more, or give a cluster that has them."
        )
    if not _can_share(config):
        raise ConfigError(
            f"workers_per_fit {asked} needs the TensorFlow backend, and a step that XLA does not compile; "
            f"found KERAS_BACKEND {_backend()!r}, compile {config.train.compile!r}. Set "
            "KERAS_BACKEND=tensorflow and --compile auto, or leave --workers-per-fit out."
        )
    return asked


def _free(tasks: Sequence[Task], config: RunConfig, atlas: Atlas, n_workers: int) -> int:
    """Return how many workers each fit gets when there are more of them than fits."""
    n_shared = sum(task.payload.model not in NEVER_SHARED for task in tasks)
    return max(1, n_workers // n_shared) if n_shared and may_share(config, atlas) else 1


def _of(task: Task, config: RunConfig, atlas: Atlas, n_ranks: int) -> int:
    """Return how many workers one fit gets; where nobody asked for a number, as many as can share it."""
    if task.payload.model in NEVER_SHARED:
        return 1
    while n_ranks > 1:
        try:
            ranks = Ranks(0, tuple(f"worker {rank}" for rank in range(n_ranks)))
            check_ranks(task.payload, atlas.split(task.payload.fold), ranks)
        except ConfigError:
            if config.workers_per_fit != "auto":
                raise
            n_ranks -= 1
        else:
            break
    return n_ranks


def _can_share(config: RunConfig) -> bool:
    """Say whether steps can be summed over processes."""
    return _backend() == "tensorflow" and config.train.compile != "on"


def _backend() -> str:
    """Return the backend that Keras will be told to use; asking Keras would load it."""
    return os.environ.get("KERAS_BACKEND") or "tensorflow"

"""What goes into a training and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from medl_scale.store.atlas import Columns, Split
    from medl_scale.stream.contract import Source
    from medl_scale.stream.densify import Transform
    from medl_scale.train.stopping import StoppingRule

__all__ = ["LoopConfig", "Status", "TrainData", "TrainingResult"]


@dataclass(frozen=True)
class LoopConfig:
    """What the loop needs to know besides network and data."""

    seed: int
    max_epochs: int
    learning_rate: float
    warm_up_steps: int
    ramp_steps: int
    """Steps over which annealed terms grow from 0 to their weight."""
    stopping: StoppingRule
    validate_every_steps: int
    """Epochs shorter than this are validated together."""
    minibatch_size: int
    run_size: int
    window_size: int
    prefetch: int
    checkpoint_every_s: float
    device_cache_memory: int | None = None
    """Bytes of train rows that an engine may keep on its device; None leaves it to the engine."""


@dataclass(frozen=True)
class TrainData:
    """Rows of one fold and where they are read."""

    source: Source
    columns: Columns
    split: Split
    transform: Transform
    batch_levels: tuple[str, ...]
    frozen_latent: NDArray[np.float32] | None = None
    """(n_obs, n_latent) embedding that replaces the encoder, or None."""


@dataclass(frozen=True)
class Status:
    """What a fit reports while it runs."""

    epoch: int
    max_epochs: int
    minibatch: int
    n_minibatches: int
    cells_per_s: float
    row: Mapping[str, Any] | None
    """The history row of an epoch that has just ended, else None."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves; the engine holds the best weights."""

    history: list[dict[str, Any]]
    best_epoch: int
    best_value: float
    n_steps: int

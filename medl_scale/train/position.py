"""Where a training stands: with the engine's state, everything that decides its next step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medl_scale.train.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Position", "position_of", "record_of"]


@dataclass
class Position:
    """Where the loop stands; JSON-like."""

    epoch: int = 0
    minibatch: int = 0
    step: int = 0
    rate_factor: float = 1.0
    recoveries: int = 0
    validated_at: int = 0
    """Step of the last validation."""
    sums: list[float] = field(default_factory=list)
    """Loss terms of this epoch so far, each times its cells."""
    n_cells: int = 0
    stopping: Stopping = field(default_factory=Stopping)
    history: list[dict[str, Any]] = field(default_factory=list)
    is_over: bool = False


def record_of(position: Position) -> dict[str, Any]:
    """Return a position as plain values, sharing nothing with it."""
    return dataclasses.asdict(position)


def position_of(record: Mapping[str, Any]) -> Position:
    """Return the position that `record_of` described."""
    values = dict(record)
    stopping = Stopping(**values.pop("stopping"))
    values["history"] = list(values["history"])
    values["sums"] = list(values["sums"])
    return Position(**values, stopping=stopping)

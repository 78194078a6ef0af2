"""Independent tasks, how they end, and running one: what every way of running them shares."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["OnUpdate", "Outcome", "State", "Task", "attempt"]

type State = Literal["waiting", "running", "done", "failed"]
type OnUpdate = Callable[[Mapping[str, State]], None]
"""Receives the state of every task, by name, about twice a second."""


@dataclass(frozen=True)
class Task:
    """One call of a function, independent of all others."""

    name: str
    """Unique among the tasks run together."""
    payload: Any
    """The function's only argument; picklable, a description rather than data."""
    cost: float = 1.0
    """Relative duration; the longest start first."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    name: str
    value: Any = None
    """What the function returned; None if it failed."""
    error: str | None = None
    """Kind and message of what went wrong, or None."""
    traceback: str | None = None
    """Where it went wrong, if in the function."""


def attempt(function: Callable[[Any], Any], task: Task) -> Outcome:
    """Run a task; whatever its function raises becomes part of the outcome."""
    try:
        return Outcome(task.name, value=function(task.payload))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one task's failure must not end the others
        text = "".join(traceback.format_exception(error))
        return Outcome(task.name, error=f"{type(error).__name__}: {error}", traceback=text)

"""Independent tasks, how they end, and running one: what every way of running them shares."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Loss", "Lost", "OnLoss", "OnUpdate", "Outcome", "State", "Task", "attempt", "failure"]

type State = Literal["waiting", "running", "done", "failed"]
type OnUpdate = Callable[[Mapping[str, State]], None]
"""Receives the state of every task, by name, about twice a second."""
type OnLoss = Callable[[str, Loss], None]
"""Receives the name of a task and what it lost, each time before it is started again."""


@dataclass(frozen=True)
class Task:
    """One call of a function, independent of all others."""

    name: str
    """Unique among the tasks run together."""
    payload: Any
    """The function's only argument; picklable, a description rather than data."""
    cost: float = 1.0
    """Relative duration; the longest start first."""
    n_ranks: int = 1
    """Workers that share the task; fewer when fewer are left. With more than one, the function is
    called on each as `function(payload, report, ranks)`; see `medl_scale.distribute.gang`."""


@dataclass(frozen=True)
class Loss:
    """Something that a task lost and survived, or died of."""

    what: str
    """Which process, where, and how it ended."""
    after_s: float
    """Seconds from the task's first start until the loss was noticed."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    name: str
    value: Any = None
    """What the function returned; None if it failed."""
    error: str | None = None
    """Kind and message of what went wrong, or None."""
    traceback: str | None = None
    """Where it went wrong, if in the function; else the last that a lost process printed."""
    losses: tuple[Loss, ...] = ()
    """Processes that died under the task, in the order of time."""
    n_restarts: int = 0
    """How often the task was started again."""


@dataclass(frozen=True)
class Lost:
    """How an attempt ended that says nothing about the task: a process of it is gone."""

    what: str
    tail: str = ""
    """The last lines that the process wrote to standard error."""
    is_echo: bool = False
    """Whether this process only met the loss of another."""


def attempt(function: Callable[[Any], Any], task: Task) -> Outcome:
    """Run a task; whatever its function raises becomes part of the outcome."""
    try:
        return Outcome(task.name, value=function(task.payload))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one task's failure must not end the others
        return failure(task.name, error)


def failure(name: str, error: BaseException) -> Outcome:
    """Return the outcome of a task whose function raised."""
    text = "".join(traceback.format_exception(error))
    return Outcome(name, error=f"{type(error).__name__}: {error}", traceback=text)

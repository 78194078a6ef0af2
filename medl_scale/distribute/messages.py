"""What a member and the worker that watches it tell each other; every message is pickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from medl_scale.ranks import Ranks

__all__ = ["Beat", "Call", "Ended", "Reported"]


class Call(NamedTuple):
    """What a member is to do."""

    name: str
    function: bytes
    """Pickled by itself, as is the payload: whatever is wrong with them is an error of the task."""
    payload: bytes
    ranks: Ranks


class Beat(NamedTuple):
    """A member lives and runs Python code."""

    cpu_s: float
    """Processor time that it has used."""


class Reported(NamedTuple):
    """The function has reported progress."""


class Ended(NamedTuple):
    """How a call ended."""

    outcome: bytes
    """A pickled `Outcome` or `Lost`."""

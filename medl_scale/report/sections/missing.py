"""What stands in a section that has nothing to show: one sentence why, and how to change that."""

from __future__ import annotations

from dataclasses import dataclass

from medl_scale.report.markup import Html, command, element, phrase, told

__all__ = ["Missing", "missing"]


@dataclass(frozen=True)
class Missing:
    """Why something is not in the report."""

    reason: str
    """A whole sentence."""
    command: str | None = None
    """What would add it."""


def missing(what: Missing) -> Html:
    """Return the sentence, and the command below it."""
    said = element("p", told(what.reason), class_="missing")
    return said if what.command is None else phrase(said, command(what.command))

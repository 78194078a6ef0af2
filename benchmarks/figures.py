"""What a benchmark says: a JSON object a figure on standard output, a table on standard error.

Only the standard library is imported at the top, so that a script that starts other processes stays
small: Linux counts what a process held before `exec` towards the peak of what it starts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Figure", "print_table", "tell"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number, its goal, and what it was made from."""

    benchmark: str
    what: str
    measured: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.at_least is not None:
            return self.measured >= self.at_least
        if self.at_most is not None:
            return self.measured <= self.at_most
        return None

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.at_least is not None:
            return f">= {self.at_least:,.6g}"
        if self.at_most is not None:
            return f"<= {self.at_most:,.6g}"
        return ""

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the figure that `to_json` wrote."""
        values = json.loads(line)
        values.pop("met")
        return cls(**values)

    def to_json(self, **more: Any) -> str:
        """Return one line; `more` are further fields, such as a date."""
        return json.dumps(dataclasses.asdict(self) | {"met": self.is_met} | more)


def tell(figures: Sequence[Figure], title: str, *, with_goals: bool = True) -> None:
    """Print figures for machines and for people; sizes made tiny leave their goals out."""
    if not with_goals:
        figures = [dataclasses.replace(f, at_least=None, at_most=None) for f in figures]
    for figure in figures:
        print(figure.to_json(), flush=True)
    print_table(figures, title)


def print_table(figures: Sequence[Figure], title: str) -> None:
    """Print figures for people, on standard error."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", title=title, title_justify="left")
    for heading in ("goal", "measured", "unit", "met"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    for figure in figures:
        words = {True: "[green]yes", False: "[red]NO", None: ""}[figure.is_met]
        measured = f"{figure.measured:,.4g}" if figure.measured < 1e4 else f"{figure.measured:,.0f}"
        table.add_row(
            f"{figure.benchmark}: {figure.what}", figure.goal, measured, figure.unit, words
        )
    # A log or a pipe has no width of its own; cells that wrap are hard to read there.
    console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 120)
    console.print(table)

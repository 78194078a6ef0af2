"""Estimates with their intervals as a chart: a row each, around zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medl_scale.report.markup import Html, element
from medl_scale.report.svg import cut, dot, line, nice_ticks, svg, text, tick_label

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["intervals_chart"]

WIDTH, ROW = 640.0, 22.0
LEFT, RIGHT, TOP, BOTTOM = 130.0, 130.0, 6.0, 42.0
MOST_LETTERS = 18


def intervals_chart(
    rows: Sequence[tuple[str, str, float, float, float]], *, unit: str, label: str
) -> Html:
    """Return estimates as dots on their intervals, one below the other.

    Parameters
    ----------
    rows
        A name, a note at the right, the estimate, and the ends of its interval, finite; at least one.
    unit
        Under the axis.
    label
        What the chart shows, for those who do not see it.
    """
    low = min(0.0, *(lower for *_, lower, _ in rows))
    high = max(0.0, *(upper for *_, upper in rows))
    room = 0.04 * (high - low) or 1.0
    low, high = low - room, high + room
    base = TOP + ROW * len(rows)

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = []
    for tick in nice_ticks(low, high, 6):
        if low <= tick <= high:
            parts.append(line("grid", x(tick), TOP, x(tick), base))
            parts.append(text(x(tick), base + 16, tick_label(tick), anchor="middle"))
    parts.append(line("axis", x(0.0), TOP, x(0.0), base))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, base + 35, unit, anchor="middle"))
    for place, (name, note, value, lower, upper) in enumerate(rows):
        y = TOP + ROW * (place + 0.5)
        told = f"{name}, {note}: {value:.2f} ({lower:.2f} to {upper:.2f})"
        parts.append(
            element(
                "g",
                element("title", told),
                line("interval", x(lower), y, x(upper), y),
                dot("mean", x(value), y, 4.5),
                text(LEFT - 10, y + 4, cut(name, MOST_LETTERS), anchor="end", class_="name"),
                text(WIDTH - RIGHT + 10, y + 4, cut(note, MOST_LETTERS)),
            )
        )
    return svg(WIDTH, base + BOTTOM, parts, label, fixed=True)

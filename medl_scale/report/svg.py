"""Pieces of the charts that lie in the page as SVG: axes, lines, text, in the page's own colours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medl_scale.report.markup import Html, element, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cut", "dot", "line", "nice_ticks", "svg", "text", "tick_label"]


def nice_ticks(low: float, high: float, at_most: int) -> list[float]:
    """Return round numbers that cover low to high, with about `at_most` steps between them."""
    raw = (high - low) / max(1, at_most)
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * place for place in range(first, last + 1)]


def tick_label(value: float) -> str:
    """Return a number as an axis shows it: −0.5, 1200, 3e−5."""
    if abs(value) < 1e-12:
        return "0"
    written = f"{value:.4g}"
    if "e" in written:
        digits, power = written.split("e")
        written = f"{digits}e{int(power)}"
    return written.replace("-", "\N{MINUS SIGN}")


def cut(name: str, n_letters: int) -> str:
    """Return a name, cut where it is too long to be drawn."""
    return name if len(name) <= n_letters else f"{name[: n_letters - 1]}…"


def line(class_: str, x1: float, y1: float, x2: float, y2: float) -> Html:
    """Return a straight line."""
    return Html(f'<line class="{class_}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')


def dot(class_: str, x: float, y: float, radius: float) -> Html:
    """Return a filled circle."""
    return Html(f'<circle class="{class_}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')


def text(
    x: float, y: float, content: str, *, anchor: str | None = None, class_: str | None = None
) -> Html:
    """Return a text at a place."""
    return element("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def svg(
    width: float, height: float, parts: Sequence[Html], label: str, *, fixed: bool = False
) -> Html:
    """Return a picture.

    Parameters
    ----------
    width, height
        In units of its coordinates.
    parts
        What is drawn.
    label
        What is to be seen, for those who do not see it.
    fixed
        Keep the size in pixels, and scroll where there is no room.
    """
    return element(
        "svg",
        joined(parts),
        class_="chart",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}" if fixed else None,
        height=f"{height:.0f}" if fixed else None,
        role="img",
        aria_label=label,
    )

"""Training curves in the page: a small panel for each loss term, for every fold and split a line.

The same curves as `report.curves` draws for the run's folder; these take the page's colours in both
themes, and a hundredth of the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.report.curves import ordered_terms, readable_term, spans_decades
from medl_scale.report.markup import Html, element
from medl_scale.report.svg import dot, line, nice_ticks, svg, text, tick_label

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

__all__ = ["curve_legend", "curve_panels"]

WIDTH, HEIGHT = 260.0, 168.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 8.0, 28.0, 26.0
MOST_POINTS = 200
"""Of one line: more cannot be seen at this width."""


def curve_panels(losses: pd.DataFrame) -> Html:
    """Return a panel for each loss term of one model, a line for each fold and split.

    Parameters
    ----------
    losses
        Rows of one model, as `report.curves.losses_of` returns them.
    """
    by_term = dict(iter(losses.groupby("term", sort=False)))
    panels = [_panel(term, by_term[term]) for term in ordered_terms(losses)]
    return element("div", *panels, class_="curves")


def curve_legend() -> Html:
    """Return what the lines and dots of `curve_panels` are."""
    samples = (
        ('<path class="line train" d="M1 6H31"/>', "train"),
        ('<path class="line val" d="M1 6H31"/>', "validation"),
        ('<circle class="dot" cx="16" cy="6" r="4"/>', "best epoch: its weights were kept"),
    )
    entries = []
    for mark, meaning in samples:
        sample = f'<svg class="chart" viewBox="0 0 32 12" aria-hidden="true">{mark}</svg>'
        entries.append(element("li", Html(sample), meaning))
    return element("ul", *entries, class_="legend")


@dataclass(frozen=True)
class _Axis:
    """Values to coordinates, on a linear or logarithmic axis."""

    ticks: list[float]
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    thousands: int = 0
    """Labels are in units of 1000 to this power."""

    def at(self, values: Doubles) -> Doubles:
        """Return the coordinates of values."""
        scaled, low, high = values, self.low, self.high
        if self.is_log:
            scaled, low, high = np.log10(values), math.log10(low), math.log10(high)
        placed: Doubles = self.start + (scaled - low) / (high - low) * (self.end - self.start)
        return placed

    def at_one(self, value: float) -> float:
        """Return the coordinate of a value."""
        return float(self.at(np.array([value]))[0])


def _panel(term: str, of_term: pd.DataFrame) -> Html:
    """Return the lines of one loss term."""
    title = readable_term(term)
    heading = text(2, 14, title, class_="title")
    finite = of_term[np.isfinite(of_term["value"])]
    if finite.empty:
        nothing = text(LEFT, HEIGHT / 2, "no finite value")
        return svg(WIDTH, HEIGHT, [heading, nothing], f"{title}: no finite value")
    x, y = _epoch_axis(finite), _value_axis(finite["value"].to_numpy(np.float64))
    parts = [heading]
    if y.thousands:
        unit = f"1e{3 * y.thousands}".replace("-", "\N{MINUS SIGN}")
        parts.append(text(WIDTH - RIGHT, 14, f"in units of {unit}", anchor="end"))
    for tick in y.ticks:
        height = y.at_one(tick)
        parts.append(line("grid", LEFT, height, WIDTH - RIGHT, height))
        label = tick_label(tick / 1000.0**y.thousands)
        parts.append(text(LEFT - 6, height + 4, label, anchor="end"))
    for tick in x.ticks:
        parts.append(text(x.at_one(tick), HEIGHT - BOTTOM + 16, tick_label(tick), anchor="middle"))
    dots, bests = [], []
    for (split, fold), rows in finite.groupby(["split", "fold"], sort=True):
        ordered = rows.sort_values("epoch")
        epochs, values = ordered["epoch"].to_numpy(np.float64) + 1, ordered["value"].to_numpy()
        kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).astype(int))
        points = zip(x.at(epochs[kept]), y.at(values[kept]), strict=True)
        drawn = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(Html(f'<polyline class="line {split}" points="{drawn}"/>'))
        if split != "val":
            continue
        for place in np.flatnonzero(ordered["best"].astype(bool)):
            told = f"fold {fold}: {values[place]:.4g} at the best epoch, {epochs[place]:.0f}"
            bests.append(told)
            where = (x.at_one(epochs[place]), y.at_one(values[place]))
            dots.append(element("g", element("title", told), dot("dot", *where, 4)))
    label = f"{title} over {x.high:.0f} epochs. Validation, {'; '.join(bests) or 'no best epoch'}."
    return svg(WIDTH, HEIGHT, [*parts, *dots], label)


def _epoch_axis(rows: pd.DataFrame) -> _Axis:
    """Return the axis of epochs, counted from 1."""
    n_epochs = int(rows["epoch"].max()) + 1
    within = {round(tick) for tick in nice_ticks(1, n_epochs, 4) if 1 <= tick <= n_epochs}
    ticks = sorted({1, *within} - ({2} if n_epochs > 8 else set()))
    return _Axis([float(t) for t in ticks], 1.0, max(2.0, n_epochs), LEFT, WIDTH - RIGHT)


def _value_axis(values: Doubles) -> _Axis:
    """Return the axis of losses."""
    start, end = HEIGHT - BOTTOM, TOP
    low, high = float(values.min()), float(values.max())
    if spans_decades(values):
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        stride = max(1, math.ceil((last - first) / 4))
        powers = [10.0**power for power in range(first, last + 1, stride)]
        return _Axis(powers, 10.0**first, 10.0**last, start, end, is_log=True)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 0.1 * abs(high) or 1.0
        low, high = low - room, high + room
    ticks = nice_ticks(low, high, 4)
    largest = max(abs(ticks[0]), abs(ticks[-1]))
    thousands = 0 if 0.1 <= largest < 1e5 else math.floor(math.log10(largest) / 3)
    return _Axis(ticks, ticks[0], ticks[-1], start, end, thousands=thousands)

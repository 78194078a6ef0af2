"""A heat map as a PNG file, for slides and mail."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.report.svg import cut
from medl_scale.report.theme import LIGHT

if TYPE_CHECKING:
    from medl_scale.report.heat_map import HeatMap

__all__ = ["heat_map_png"]

_DPI = 120
_MOST_LETTERS = 28
# Beyond, values in cells are too small to be read.
_MOST_WRITTEN = 30


def heat_map_png(shown: HeatMap, title: str) -> bytes:
    """Return a picture of a heat map on white, with a title.

    Parameters
    ----------
    shown
        What to draw; tips are left out.
    title
        Line above it.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    n_rows, n_columns = shown.shades.shape
    cell = float(np.clip(9.0 / max(n_rows, n_columns), 0.13, 0.4))
    names = 0.088 * min(_MOST_LETTERS, max(map(len, [*shown.rows, *shown.columns]))) + 0.1
    tree = 1.6 if shown.tree else 0.0
    width = n_columns * cell + names + tree + 0.9
    height = n_rows * cell + names + 1.0
    height = max(height, 0.08 * len(shown.row_title) + 1.2)
    figure = Figure(figsize=(max(width, 0.09 * len(title)), height), dpi=_DPI)
    wide = figure.get_figwidth()
    spread = n_columns * cell / wide, n_rows * cell / height
    left, bottom = (names + 0.5) / wide, 1 - (names + 0.75) / height - spread[1]
    axes = figure.add_axes((left, bottom, *spread))
    colours = LinearSegmentedColormap.from_list("accent", ["#ffffff", LIGHT["accent"]])
    is_written = max(n_rows, n_columns) <= _MOST_WRITTEN
    shades = np.nan_to_num(np.clip(shown.shades, 0, 1)) * (0.5 if is_written else 1.0)
    axes.imshow(shades, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    size = float(np.clip(cell * 40, 4.5, 9))
    rows, columns = (
        [_plain(cut(name, _MOST_LETTERS)) for name in side] for side in (shown.rows, shown.columns)
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(LIGHT["line"])
    # Texts of the figure: those of axes are clipped one by one, which takes most of the time.
    write = partial(figure.text, transform=axes.transData, va="center")
    for i, name in enumerate(rows):
        write(-0.6, i, name, ha="right", fontsize=size)
    for j, name in enumerate(columns):
        write(j, -0.65, name, ha="center", va="bottom", fontsize=size, rotation=90)
    if is_written:
        for (i, j), text in shown.texts.items():
            write(j, i, text, ha="center", fontsize=size - 1.5)
    muted: dict[str, Any] = {"fontsize": 9, "color": LIGHT["muted"]}
    middle = left + spread[0] / 2, bottom + spread[1] / 2
    figure.text(middle[0], 1 - 0.42 / height, _plain(shown.column_title), ha="center", **muted)
    figure.text(
        0.12 / wide,
        middle[1],
        _plain(shown.row_title),
        ha="left",
        va="center",
        rotation=90,
        **muted,
    )
    corners = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]
    boxes = [[(j + x, i + y) for x, y in corners] for i, j in shown.outlined]
    axes.add_collection(LineCollection(boxes, colors=LIGHT["ink"], linewidths=0.6))
    if shown.tree:
        beside = figure.add_axes((left + spread[0] + 0.08 / wide, bottom, tree / wide, spread[1]))
        lines = [[(x1, y1), (x2, y2)] for x1, y1, x2, y2 in shown.tree]
        beside.add_collection(LineCollection(lines, colors=LIGHT["muted"], linewidths=1.0))
        beside.set_xlim(0, 1.02)
        beside.set_ylim(n_rows - 0.5, -0.5)
        beside.set_axis_off()
    figure.text(0.1 / wide, 1 - 0.12 / height, _plain(title), va="top", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Return a text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")

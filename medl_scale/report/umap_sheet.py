"""All UMAPs of a run on one sheet, for those who want a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from medl_scale.report.svg import cut
from medl_scale.report.umap_points import PANEL_DPI

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medl_scale.report.umaps import LegendEntry, UmapPanel, UmapPicture

__all__ = ["umap_sheet"]

_MOST_LETTERS = 24


def umap_sheet(pictures: Sequence[UmapPicture]) -> bytes:
    """Return pictures as one PNG: a row for each latent, the legends below the last.

    Parameters
    ----------
    pictures
        At least one, all with the same panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.image import imread
    from matplotlib.lines import Line2D

    n_rows, n_columns = len(pictures), len(pictures[0].panels)
    figure = Figure(figsize=(4.0 * n_columns, 4.25 * n_rows + 1.9), dpi=PANEL_DPI * 0.75)
    bottom = 1.9 / figure.get_figheight()
    axes = figure.subplots(
        n_rows, n_columns, squeeze=False,
        gridspec_kw={"left": 0.01, "right": 0.99, "top": 1 - 0.3 / figure.get_figheight(),
                     "bottom": bottom, "wspace": 0.02, "hspace": 0.07},
    )  # fmt: skip
    for row, picture in zip(axes, pictures, strict=True):
        for place, panel in zip(row, picture.panels, strict=True):
            place.imshow(imread(io.BytesIO(panel.png)), interpolation="antialiased")
            place.set_axis_off()
            place.set_title(_plain(f"{picture.latent} by {panel.title}"), fontsize=12, loc="left")
    for column, panel in enumerate(pictures[0].panels):
        handles = [
            Line2D(
                [], [], marker="o", linestyle="", color=entry.colour, label=_plain(_named(entry))
            )
            for entry in panel.legend
        ]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(column / n_columns + 0.01, bottom),
            ncols=3,
            frameon=False,
            fontsize=9,
            handletextpad=0.1,
            columnspacing=0.8,
            title=_plain(panel.title + _more(panel)),
            title_fontsize=10,
            alignment="left",
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _named(entry: LegendEntry) -> str:
    """Return a level as the sheet lists it."""
    name = cut(entry.name, _MOST_LETTERS)
    return f"{entry.number} {name}" if entry.number else name


def _more(panel: UmapPanel) -> str:
    """Return how many levels the legend does not list."""
    return f", the {len(panel.legend)} largest, and {panel.n_more:,} more" if panel.n_more else ""


def _plain(text: str) -> str:
    """Return a text that matplotlib does not take for a formula, nor for a line to be left out."""
    return text.replace("$", r"\$").replace("\n", " ").lstrip("_")

"""Pictures of UMAPs: panels of points, each coloured by one column of obs, with their legends as text.

The points are a transparent PNG that reads on light and on dark paper; names stand in HTML, where
they can be read at any size. `umap_sheet` puts all of it into one file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import DataError
from medl_scale.report.markup import Html, element, image, joined
from medl_scale.report.palette import NO_LEVEL, PALETTE, colours_of
from medl_scale.report.umap_points import points_png
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "Colouring",
    "LegendEntry",
    "UmapPanel",
    "UmapPicture",
    "picture_of",
    "umaps_html",
]

_MOST_LISTED = len(PALETTE)
_CSS = """
.medl-umap-panels { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; }
.medl-umap-panel { flex: 1 1 18rem; min-width: min(18rem, 100%); max-width: 32rem; }
.medl-umap-panel > p { margin: 0 0 .25rem; font-weight: 600; }
.medl-umap-panel > img { display: block; width: 100%; height: auto; }
.medl-umap-panel > ul { list-style: none; margin: .5rem 0 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .1rem .9rem; font-size: .85rem; }
.medl-umap-panel > ul > li { margin: 0; overflow-wrap: anywhere; }
.medl-umap-panel > ul span { color: var(--muted, #57606a); }
.medl-umap-panel > ul i { display: inline-block; width: .75em; height: .75em; border-radius: 50%;
  margin-right: .35em; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
"""


@dataclass(frozen=True, eq=False)
class Colouring:
    """A column of obs that cells are coloured by."""

    title: str
    """What it is: `batch (donor)`."""
    levels: tuple[str, ...]
    """All levels in the atlas, drawn or not, so that colours stay the same."""
    codes: NDArray[np.int32]
    """(n,) positions in `levels` of the cells drawn; -1 where not known."""
    no_level: str = "Unknown"
    """How cells without a level are called."""
    numbered: bool = False
    """Whether levels are numbered where their cells lie, for those who cannot tell colours."""


@dataclass(frozen=True)
class LegendEntry:
    """A level with its colour."""

    name: str
    colour: str
    n: int
    """Cells drawn."""
    number: int | None
    """As written into the picture; None for none."""


@dataclass(frozen=True)
class UmapPanel:
    """Points coloured by one column."""

    title: str
    png: bytes
    """Square and transparent."""
    alt: str
    legend: tuple[LegendEntry, ...]
    """The largest levels, at most 20."""
    n_more: int
    """Levels drawn that the legend does not list."""
    n_more_cells: int


@dataclass(frozen=True)
class UmapPicture:
    """The UMAP of one latent, coloured in several ways."""

    latent: str
    """Key in obsm."""
    panels: tuple[UmapPanel, ...]
    caption: str
    n_drawn: int

    @property
    def alt(self) -> str:
        """What is to be seen, for those who do not see it."""
        return " ".join(panel.alt for panel in self.panels)


def picture_of(
    latent: str,
    embedding: NDArray[np.float32],
    colourings: Sequence[Colouring],
    *,
    caption: str,
    seed: int = 0,
) -> UmapPicture:
    """Return a picture of an embedding.

    Parameters
    ----------
    latent
        Name of what was embedded.
    embedding
        (n, 2) finite.
    colourings
        A panel for each.
    caption
        What was drawn and how.
    seed
        Of the order in which cells are drawn: it is random, so that no level hides another.

    Raises
    ------
    DataError
        If values are not finite, or there is not one code a cell.
    """
    n = len(embedding)
    n_wrong = int(np.count_nonzero(~np.isfinite(embedding).all(axis=1)))
    if embedding.shape != (n, 2) or not n or n_wrong:
        raise DataError(
            f"An embedding must be (n, 2) finite numbers; got shape {embedding.shape} with {n_wrong:,} "
            "cells that have others. Embed the latent again."
        )
    for colouring in colourings:
        if colouring.codes.shape != (n,):
            raise DataError(
                f"Colouring by {colouring.title!r} needs one code for each of {n:,} cells; got shape "
                f"{colouring.codes.shape}. Take the codes of the cells drawn."
            )
    order = generator(seed, Purpose.UMAP, 2).permutation(n)
    panels = tuple(_panel(latent, embedding, colouring, order) for colouring in colourings)
    return UmapPicture(latent, panels, caption, n)


def umaps_html(pictures: Sequence[UmapPicture]) -> Html:
    """Return a figure for each picture, as a part of a page; empty for none."""
    if not pictures:
        return Html("")
    figures = [
        element(
            "figure",
            element("h3", picture.latent),
            element("div", *map(_panel_html, picture.panels), class_="medl-umap-panels"),
            element("figcaption", picture.caption),
            class_="medl-umap",
        )
        for picture in pictures
    ]
    return joined([element("style", Html(_CSS)), *figures])


def _panel(
    latent: str, embedding: NDArray[np.float32], colouring: Colouring, order: NDArray[np.int64]
) -> UmapPanel:
    """Return one panel."""
    n_levels = len(colouring.levels)
    # The last stands for cells without a level.
    codes = np.where(colouring.codes < 0, n_levels, colouring.codes)
    names = (*colouring.levels, colouring.no_level)
    colours = (*colours_of(colouring.levels), NO_LEVEL)
    counts = np.bincount(codes, minlength=n_levels + 1)
    present = np.flatnonzero(counts)
    largest = present[np.argsort(-counts[present], kind="stable")][:_MOST_LISTED]
    listed = np.sort(largest)
    numbers = {int(code): i for i, code in enumerate(listed, 1) if code < n_levels}
    if not colouring.numbered:
        numbers = {}
    legend = tuple(
        LegendEntry(names[code], colours[code], int(counts[code]), numbers.get(int(code)))
        for code in listed
    )
    marks = {number: _middle(embedding[codes == code]) for code, number in numbers.items()}
    n_more_cells = int(counts[present].sum() - counts[listed].sum())
    named = ", ".join(names[code] for code in listed[:5])
    alt = (
        f"UMAP of {latent}: {len(embedding):,} cells coloured by {colouring.title}, "
        f"{len(present)} levels, among them {named}."
    )
    png = points_png(embedding[order], np.array(colours)[codes[order]], marks)
    return UmapPanel(colouring.title, png, alt, legend, len(present) - len(listed), n_more_cells)


def _middle(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cell that is nearest to the median of its level."""
    nearest = np.square(points - np.median(points, axis=0)).sum(axis=1).argmin()
    found: NDArray[np.float32] = points[nearest]
    return found


def _panel_html(panel: UmapPanel) -> Html:
    """Return a panel with its legend."""
    entries = [
        element(
            "li",
            element("i", style=f"background:{entry.colour}", aria_hidden="true"),
            f"{entry.number} " if entry.number else "",
            element("bdi", entry.name),
            " ",
            element("span", f"{entry.n:,}"),
        )
        for entry in panel.legend
    ]
    if panel.n_more:
        more = f"and {panel.n_more:,} more with {panel.n_more_cells:,} cells"
        entries.append(element("li", element("span", more)))
    return element(
        "div",
        element("p", f"by {panel.title}"),
        image(panel.png, panel.alt),
        element("ul", *entries, aria_label=f"Colours and cells: {panel.title}"),
        class_="medl-umap-panel",
    )

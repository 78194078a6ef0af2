"""Colours of categories: told apart on light and on dark paper, and the same in all pictures."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NO_LEVEL", "PALETTE", "colours_of"]

PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6bb1", "#a6761d",
    "#808080", "#7cae00", "#e7298a", "#1b9e9e", "#c44e52", "#5a7bff", "#b8a000", "#9e4a9c",
    "#ff7f7f", "#5f8a8b", "#c49a6c", "#4f9d3a",
)  # fmt: skip
"""The first eight after Okabe and Ito, for colour-blind readers; no set of twenty is safe for them."""
NO_LEVEL = "#9a9a9a"
"""Of cells whose category is not known."""
_GOLDEN = 0.6180339887
_LIGHTNESSES = (0.42, 0.54, 0.48)


def colours_of(levels: Sequence[str]) -> tuple[str, ...]:
    """Return a colour, `#rrggbb`, for each of all levels of a column.

    The first 20 take those of the palette, the others hues a golden angle apart, so that those near
    each other in the list are far apart in colour. Give all levels of an atlas, drawn or not: then a
    level has the same colour in all its pictures.
    """
    n = len(levels)
    return PALETTE[:n] + tuple(_further(place) for place in range(n - len(PALETTE)))


def _further(place: int) -> str:
    """Return a colour beyond the palette."""
    hue = (0.05 + place * _GOLDEN) % 1.0
    parts = colorsys.hls_to_rgb(hue, _LIGHTNESSES[place % len(_LIGHTNESSES)], 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)

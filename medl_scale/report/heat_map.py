"""A matrix as an SVG heat map in the colours of the page, with names, values and tips.

Darker is more on light paper, and brighter is more on dark: a cell is the accent colour, more or less
opaque. Large matrices have their cells in one small image, since a page of 20,000 shapes is slow.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.report.markup import escaped
from medl_scale.report.svg import cut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["HeatMap", "Line", "heat_map_svg", "standalone"]

type Line = tuple[float, float, float, float]

_INK = "var(--ink, #1b1f24)"
_MUTED, _LINE = "var(--muted, #57606a)", "var(--line, #d5dbe1)"
_ACCENT = "var(--accent, #0b5a9e)"
# Between the accents of light and dark, for the image of a large matrix.
_BOTH = (0x3B, 0x86, 0xBB)
_MOST_SHAPES = 60
_FONT, _LETTER = 11.0, 6.2
_MOST_LETTERS = 28
_CELLS = (13.0, 34.0)
_LEAST_WRITTEN = 22.0
# Ink keeps a contrast of 4.5 on the accent up to here, on light and on dark paper.
_UNDER_TEXT = 0.5
_WIDTH = 620.0
_TREE = 130.0
_VARIABLE = re.compile(r"var\(--[a-z-]+, *(#[0-9a-f]+)\)")


@dataclass(frozen=True, eq=False)
class HeatMap:
    """What a heat map shows."""

    shades: NDArray[np.float64]
    """(n_rows, n_columns) in [0, 1]; 0 and NaN are paper."""
    rows: Sequence[str]
    columns: Sequence[str]
    label: str
    """What is to be seen, for those who do not see it."""
    row_title: str
    column_title: str
    texts: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """What is written into cells, where there is room."""
    tips: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """What is shown where the pointer rests on cells."""
    outlined: Sequence[tuple[int, int]] = ()
    """Cells with a border."""
    tree: Sequence[Line] = ()
    """Lines beside the rows: (depth, row, depth, row), depths in [0, 1] from the rows away."""


def heat_map_svg(shown: HeatMap) -> str:
    """Return a picture for a page, or for a file through `standalone`.

    Up to 40 rows it shrinks with the page; beyond, names would become too small to be read, and it keeps its
    size, so that the page has to let it scroll.
    """
    n_rows, n_columns = shown.shades.shape
    size = float(np.clip(_WIDTH / max(n_rows, n_columns), *_CELLS))
    left = 24 + _LETTER * min(_MOST_LETTERS, max(map(len, shown.rows)))
    top = 30 + _LETTER * 0.72 * min(_MOST_LETTERS, max(map(len, shown.columns))) + 6
    # Slanted names of the last columns reach beyond them.
    reach = max(
        (j + 1) * size + 0.75 * _LETTER * min(_MOST_LETTERS, len(name))
        for j, name in enumerate(shown.columns)
    )
    reach = max(reach, n_columns * size + (_TREE + 12 if shown.tree else 0))
    # The title of the rows stands upright at their middle.
    below = max(n_rows * size, n_rows * size / 2 + 0.5 * _LETTER * len(shown.row_title))
    width, height = left + reach + 8, top + below + 10
    parts = [
        f'<text x="{left:.0f}" y="12" fill="{_MUTED}">{escaped(shown.column_title)}</text>',
        (
            f'<text transform="translate(12 {top + n_rows * size / 2:.0f}) rotate(-90)" fill="{_MUTED}" text-anchor="middle">'
            f"{escaped(shown.row_title)}</text>"
        ),
        *_names(shown, left, top, size),
        _cells(shown, left, top, size),
        *_tree(shown, left + n_columns * size + 6, top, size),
    ]
    fixed = max(n_rows, n_columns) > 40
    room = f'width="{width:.0f}" height="{height:.0f}"' if fixed else ""
    style = f"font: {_FONT:g}px system-ui, sans-serif; " + (
        "max-width: none" if fixed else f"width: 100%; max-width: {width:.0f}px; height: auto"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" {room} '
        f'style="{style}" role="img" aria-label="{escaped(shown.label)}">{"".join(parts)}</svg>'
    )


def standalone(svg: str) -> str:
    """Return a picture for a file: on white, in plain colours, since few programs know variables."""
    plain = _VARIABLE.sub(r"\1", svg).replace("width: 100%; ", "")
    end = plain.index(">") + 1
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', plain)
    size = (
        f' width="{found[1]}" height="{found[2]}"'
        if found and " height=" not in plain[:end]
        else ""
    )
    return (
        f'{plain[: end - 1]}{size}><rect width="100%" height="100%" fill="#ffffff"/>{plain[end:]}\n'
    )


def _names(shown: HeatMap, left: float, top: float, size: float) -> list[str]:
    """Return the names of rows and columns."""
    parts = [f'<g fill="{_INK}" text-anchor="end">']
    for i, name in enumerate(shown.rows):
        y = top + (i + 0.5) * size + 0.35 * _FONT
        parts.append(f'<text x="{left - 5:.1f}" y="{y:.1f}">{_short(name)}</text>')
    parts.append(f'</g><g fill="{_INK}">')
    for j, name in enumerate(shown.columns):
        x = left + (j + 0.5) * size + 0.25 * _FONT
        place = f"translate({x:.1f} {top - 5:.1f}) rotate(-46)"
        parts.append(f'<text transform="{place}">{_short(name)}</text>')
    parts.append("</g>")
    return parts


def _short(name: str) -> str:
    """Return a name, cut with the whole of it as a tip where it is long."""
    shown = escaped(cut(name, _MOST_LETTERS))
    return shown if len(name) <= _MOST_LETTERS else f"{shown}<title>{escaped(name)}</title>"


def _cells(shown: HeatMap, left: float, top: float, size: float) -> str:
    """Return the cells, each a shape with its tip; of a large matrix, one image with tips upon it."""
    n_rows, n_columns = shown.shades.shape
    shades = np.nan_to_num(np.clip(shown.shades, 0, 1))
    many = max(n_rows, n_columns) > _MOST_SHAPES
    parts = [f'<g transform="translate({left:.1f} {top:.1f})" fill="{_ACCENT}">']
    parts.append(
        f'<rect width="{n_columns * size:.1f}" height="{n_rows * size:.1f}" fill="none" stroke="{_LINE}"/>'
    )
    if many:
        parts.append(
            f'<image width="{n_columns * size:.1f}" height="{n_rows * size:.1f}" '
            f'preserveAspectRatio="none" style="image-rendering: pixelated" '
            f'href="data:image/png;base64,{_as_image(shades)}"/>'
        )
    written = size >= _LEAST_WRITTEN
    strongest = _UNDER_TEXT if written else 1.0
    for i, j in np.argwhere(shades > 0).tolist():
        tip = shown.tips.get((i, j))
        if many and tip is None:
            continue
        box = f'x="{j * size:.1f}" y="{i * size:.1f}" width="{size:.1f}" height="{size:.1f}"'
        opacity = 0.0 if many else strongest * shades[i, j]
        title = f"<title>{escaped(tip)}</title>" if tip else ""
        parts.append(f'<rect {box} fill-opacity="{opacity:.3g}">{title}</rect>')
        if written and (text := shown.texts.get((i, j))):
            x, y = (j + 0.5) * size, (i + 0.5) * size + 0.35 * (_FONT - 1)
            parts.append(
                f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}" text-anchor="middle" font-size="{_FONT - 1:g}" '
                f'pointer-events="none">{escaped(text)}</text>'
            )
    for i, j in shown.outlined:
        parts.append(
            f'<rect x="{j * size + 0.5:.1f}" y="{i * size + 0.5:.1f}" width="{size - 1:.1f}" '
            f'height="{size - 1:.1f}" fill="none" stroke="{_INK}" stroke-width="0.8" pointer-events="none"/>'
        )
    return "".join([*parts, "</g>"])


def _as_image(shades: NDArray[np.float64]) -> str:
    """Return a matrix as a PNG of one pixel a cell, in base64."""
    from matplotlib.image import imsave

    pixels = np.empty((*shades.shape, 4), np.uint8)
    pixels[..., :3] = _BOTH
    pixels[..., 3] = np.round(255 * shades)
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _tree(shown: HeatMap, x: float, top: float, size: float) -> list[str]:
    """Return the lines beside the rows."""
    if not shown.tree:
        return []
    lines = "".join(
        f"M{x + _TREE * x1:.1f} {top + (y1 + 0.5) * size:.1f}L{x + _TREE * x2:.1f} {top + (y2 + 0.5) * size:.1f}"
        for x1, y1, x2, y2 in shown.tree
    )
    return [f'<path d="{lines}" fill="none" stroke="{_MUTED}" stroke-width="1.2"/>']

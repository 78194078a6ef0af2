"""The points of a UMAP as a transparent PNG that reads on light and on dark paper."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["PANEL_DPI", "points_png"]

PANEL_DPI = 150
_PANEL_INCHES = 4.0
_AXES = "#808080"
# Share of the picture that a number needs to be read.
_MARK_ROOM, _PUSHES = 0.05, 60


def points_png(
    embedding: NDArray[np.float32], colours: NDArray[Any], marks: Mapping[int, NDArray[np.float32]]
) -> bytes:
    """Return a picture of points.

    Parameters
    ----------
    embedding
        (n, 2), drawn in this order.
    colours
        (n,) `#rrggbb`.
    marks
        Numbers, and where they are written; those upon each other are moved apart.

    Returns
    -------
    A square PNG with axes without ticks, and no paper.
    """
    from matplotlib.colors import to_rgba_array
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    n = len(embedding)
    figure = Figure(figsize=(_PANEL_INCHES, _PANEL_INCHES), dpi=PANEL_DPI)
    axes = figure.add_axes((0.06, 0.06, 0.93, 0.93))
    distinct, place = np.unique(colours, return_inverse=True)
    shown = to_rgba_array(list(distinct))[place]
    shown[:, 3] = np.interp(np.log10(n), [3, 5], [0.85, 0.45])
    size = float(np.clip(300 / np.sqrt(n), 0.8, 16))
    axes.scatter(embedding[:, 0], embedding[:, 1], s=size, c=shown, linewidths=0)
    for number, (x, y) in _apart(marks, float(np.ptp(embedding, axis=0).max()) or 1.0).items():
        axes.annotate(
            str(number), (x, y), ha="center", va="center", fontsize=11, fontweight="bold", color="#111111",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_AXES)
    axes.set_xlabel("UMAP 1", color=_AXES, fontsize=11)
    axes.set_ylabel("UMAP 2", color=_AXES, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()


def _apart(
    marks: Mapping[int, NDArray[np.float32]], extent: float
) -> dict[int, NDArray[np.floating[Any]]]:
    """Return marks pushed away from each other as far as they would lie upon each other."""
    if not marks:
        return {}
    places = np.array(list(marks.values()), np.float64)
    room = _MARK_ROOM * extent
    for _ in range(_PUSHES):
        gaps = places[:, None] - places
        # Marks at the same place part along the circle, each in its own direction.
        angles = np.arange(len(places)) * 2.4
        gaps += 1e-6 * extent * np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None]
        far = np.sqrt(np.square(gaps).sum(axis=2, keepdims=True))
        push = gaps / far * np.maximum(room - far, 0.0)
        push[np.arange(len(places)), np.arange(len(places))] = 0.0
        places += 0.25 * push.sum(axis=1)
    return dict(zip(marks, places, strict=True))

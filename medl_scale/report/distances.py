"""How far batches are from each other: a matrix of distances in the order of its tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import DataError
from medl_scale.report.heat_map import HeatMap, Line, heat_map_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["distances_map", "distances_svg"]

_MANY = 60


def distances_svg(
    matrix: ArrayLike,
    names: Sequence[str],
    linkage: ArrayLike,
    *,
    title: str = "Distances between batches",
    unit: str = "s.d. of the gene",
) -> str:
    """Return `distances_map` as a picture for a page."""
    return heat_map_svg(distances_map(matrix, names, linkage, title=title, unit=unit))


def distances_map(
    matrix: ArrayLike,
    names: Sequence[str],
    linkage: ArrayLike,
    *,
    title: str = "Distances between batches",
    unit: str = "s.d. of the gene",
) -> HeatMap:
    """Return a heat map of distances with a dendrogram beside it; near batches have the stronger colour.

    Parameters
    ----------
    matrix
        (n, n) distances, n >= 2.
    names
        (n,) batches.
    linkage
        (n - 1, 4) as `scipy.cluster.hierarchy.linkage` returns it.
    title
        What it is, for the description.
    unit
        Of the distances, for the tips.

    Raises
    ------
    DataError
        If the three do not fit each other, or distances are not finite.
    """
    from scipy.cluster.hierarchy import dendrogram

    distances, joined = np.asarray(matrix, np.float64), np.asarray(linkage, np.float64)
    n = len(names)
    if distances.shape != (n, n) or joined.shape != (n - 1, 4) or n < 2:
        raise DataError(
            f"Distances need an (n, n) matrix, n >= 2 names and an (n - 1, 4) linkage; got shape "
            f"{distances.shape}, {n} names and shape {joined.shape}. Pass those of one Dendrogram."
        )
    if not np.isfinite(distances).all():
        raise DataError("Distances must be finite numbers; some are not. Leave their batches out.")
    drawn = dendrogram(joined, no_plot=True)
    order = drawn["leaves"]
    ordered = distances[np.ix_(order, order)]
    shown = [str(names[i]) for i in order]
    apart = [(i, j) for i in range(n) for j in range(n) if i != j]
    largest = float(ordered.max())
    # Two digits of the largest.
    n_digits = int(np.clip(2 - np.ceil(np.log10(largest)), 0, 6)) if largest > 0 else 0
    texts = {(i, j): f"{ordered[i, j]:.{n_digits}f}" for i, j in apart}
    tips = {(i, j): f"{shown[i]} and {shown[j]}: {ordered[i, j]:.3g} {unit}" for i, j in apart}
    nearest = apart[int(np.argmin([ordered[pair] for pair in apart]))]
    farthest = apart[int(np.argmax([ordered[pair] for pair in apart]))]
    label = (
        f"{title}, {n} batches. Nearest: {shown[nearest[0]]} and {shown[nearest[1]]}, "
        f"{ordered[nearest]:.3g} {unit}; farthest: {shown[farthest[0]]} and {shown[farthest[1]]}, "
        f"{ordered[farthest]:.3g}."
    )
    return HeatMap(
        shades=_shades(ordered),
        rows=shown,
        columns=shown,
        label=label,
        row_title="near batches are next to each other",
        column_title="strongest colour: nearest pair",
        texts=texts,
        tips={} if n > _MANY else tips,
        tree=_lines(drawn, joined),
    )


def _shades(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 for the nearest pair, a little for the farthest, nothing for a batch and itself."""
    apart = ~np.eye(len(distances), dtype=np.bool_)
    low, high = distances[apart].min(), distances[apart].max()
    shades = 1.0 - 0.97 * (distances - low) / ((high - low) or 1.0)
    return np.where(apart, shades, 0.0)


def _lines(drawn: dict[str, list[list[float]]], joined: np.ndarray) -> list[Line]:
    """Return the tree's lines; leaves lie at 0, 1, ..., the root at depth 1."""
    height = float(joined[:, 2].max()) or 1.0
    lines: list[Line] = []
    for depths, places in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        points = [
            (depth / height, (place - 5) / 10) for depth, place in zip(depths, places, strict=True)
        ]
        lines += [(*points[k], *points[k + 1]) for k in range(3)]
    return lines

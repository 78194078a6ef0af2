"""What forests take cells for: a matrix of counts as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import DataError
from medl_scale.report.heat_map import HeatMap, heat_map_svg

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["confusion_map", "confusion_matrix", "confusion_svg"]

_COLUMNS = ("truth", "predicted", "n")
# In a large matrix only shares from here on have a tip.
_MANY, _LEAST_TIPPED = 60, 0.05
_LEAST_WRITTEN = 0.005


def confusion_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Return counts of true classes (rows) by what they are taken for (columns).

    Parameters
    ----------
    table
        `truth`, `predicted`, `n`; counts of the same pair are added up.

    Returns
    -------
    Square: all classes that occur on either side, sorted.

    Raises
    ------
    DataError
        If a column is missing, or there are no cells, or negative counts.
    """
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise DataError(
            f"A confusion needs the columns {', '.join(_COLUMNS)}; {', '.join(missing)} not found among "
            f"{', '.join(map(str, table.columns))}. Pass run.scores.confusion."
        )
    if table.empty or table["n"].sum() == 0 or (table["n"] < 0).any():
        raise DataError(
            f"A confusion needs counts of cells; got {len(table):,} rows that sum to {table['n'].sum():,}. "
            "Score the run with forests: medl-scale evaluate RUN --metrics forest."
        )
    classes = sorted({*table["truth"].astype(str), *table["predicted"].astype(str)})
    counts = table.groupby([table["truth"].astype(str), table["predicted"].astype(str)])["n"].sum()
    wide: pd.DataFrame = counts.unstack(fill_value=0)
    return wide.reindex(index=classes, columns=classes, fill_value=0).astype(np.int64)


def confusion_svg(table: pd.DataFrame, *, title: str) -> str:
    """Return `confusion_map` as a picture for a page."""
    return heat_map_svg(confusion_map(table, title=title))


def confusion_map(table: pd.DataFrame, *, title: str) -> HeatMap:
    """Return a heat map: rows are what cells are, columns what a forest says.

    Parameters
    ----------
    table
        As for `confusion_matrix`.
    title
        Whose confusion it is, for the description.

    Notes
    -----
    A row's shades are shares of its cells; the counts are in the tips.
    """
    matrix = confusion_matrix(table)
    names, counts = list(map(str, matrix.index)), matrix.to_numpy()
    shares = _shares(counts)
    is_many = len(names) > _MANY
    texts, tips = {}, {}
    for i, j in np.argwhere(counts > 0).tolist():
        if shares[i, j] >= _LEAST_WRITTEN:
            texts[i, j] = f"{100 * shares[i, j]:.0f}"
        if not is_many or shares[i, j] >= _LEAST_TIPPED:
            tips[i, j] = (
                f"{names[i]} taken for {names[j]}: {counts[i, j]:,} of {counts[i].sum():,} cells "
                f"({100 * shares[i, j]:.1f} %)"
            )
    right = int(np.trace(counts))
    return HeatMap(
        shades=shares,
        rows=names,
        columns=names,
        label=f"{title}: {right:,} of {counts.sum():,} test cells of {len(names)} classes told right.",
        row_title="what cells are (100 % a row)",
        column_title="what the forest says",
        texts=texts,
        tips=tips,
        outlined=[(i, i) for i in range(len(names))],
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row over its sum; zeros where there are no cells."""
    sums = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, sums, out=np.zeros(counts.shape), where=sums > 0)

"""Which cells of an atlas a user means, and their expression, streamed in that order."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medl_scale.errors import ConfigError, DataError
from medl_scale.store.atlas import read_columns
from medl_scale.stream import blocks, open_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from medl_scale.store.atlas import AtlasRef
    from medl_scale.stream import Minibatch, Prefetched
    from medl_scale.stream.densify import Transform

    type Cells = str | Sequence[str] | Sequence[int] | NDArray[Any] | pd.Series

__all__ = ["choose_cells", "stream_cells"]

_LISTED = 5


def choose_cells(cells: Cells, obs: pd.DataFrame, place: str) -> NDArray[np.int64]:
    """Return rows of an atlas.

    Parameters
    ----------
    cells
        A pandas query on `obs` (`"cell_type == 'T' and donor == 'a'"`), names of cells, positions, or
        one boolean per cell.
    obs
        Of the atlas.
    place
        How messages call the atlas.

    Returns
    -------
    (m,) int64: in the order of names or positions, in that of the atlas for queries and booleans.

    Raises
    ------
    ConfigError
        If a query cannot be read; the columns there are get listed.
    DataError
        If no cell is chosen, one is chosen twice, or there is none of a name or position.
    """
    if isinstance(cells, str):
        rows = np.flatnonzero(_answers(cells, obs, place))
        if not len(rows):
            raise DataError(
                f"No cell of {place} fits the query {cells!r}. Columns and values to choose by: "
                f"{_overview(obs)}."
            )
        return rows.astype(np.int64)
    given = cells.to_numpy() if isinstance(cells, pd.Series | pd.Index) else np.asarray(cells)
    if given.ndim != 1 or not given.size:
        raise DataError(
            "cells must be a query, names, positions or booleans, at least one; got an array of shape "
            f"{given.shape}."
        )
    if given.dtype.kind == "b":
        rows = _where(given, len(obs), place)
    elif given.dtype.kind in "iu":
        rows = _positions(given, len(obs), place)
    else:
        rows = _named([str(name) for name in given], obs.index, place)
    repeated = pd.Index(rows).duplicated()
    if repeated.any():
        first = obs.index[rows[repeated][0]]
        raise DataError(
            f"{int(repeated.sum()):,} of the cells chosen are named more than once, such as "
            f"{str(first)!r}. Name each once."
        )
    return rows


@contextmanager
def stream_cells(
    ref: AtlasRef, rows: NDArray[np.int64], transform: Transform, block_rows: int
) -> Iterator[Prefetched[Minibatch]]:
    """Yield an iterator over some cells in the order of `rows`, `block_rows` at a time."""
    # Rows that follow each other are read together.
    ends = np.flatnonzero(np.diff(rows) != 1)
    starts = rows[np.concatenate([[0], ends + 1])]
    stops = rows[np.concatenate([ends, [len(rows) - 1]])] + 1
    slices = [slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]
    with (
        open_source(ref) as source,
        blocks(source, read_columns(ref), slices, transform, block_rows) as made,
    ):
        yield made


def _answers(query: str, obs: pd.DataFrame, place: str) -> NDArray[np.bool_]:
    """Return which cells a query holds for."""
    listed = ", ".join(repr(str(name)) for name in obs)
    try:
        found = obs.eval(query, engine="python")
    # What pandas raises for text that it cannot read has no common class.
    except Exception as error:
        raise ConfigError(
            f"The query {query!r} cannot be answered from obs of {place}: {error}. Columns: {listed}. "
            "Write it as in \"cell_type == 'T' and donor in ['a', 'b']\"."
        ) from error
    # Columns that may miss values answer with yes, no or missing: missing is no.
    answers = np.asarray(found.fillna(value=False) if isinstance(found, pd.Series) else found)
    if answers.dtype == object and set(np.unique(answers)) <= {True, False}:
        answers = answers.astype(np.bool_)
    if answers.shape != (len(obs),) or answers.dtype.kind != "b":
        raise ConfigError(
            f"The query {query!r} does not say yes or no of every cell. Compare a column with a value, "
            f"as in \"cell_type == 'T'\". Columns: {listed}."
        )
    return answers


def _overview(obs: pd.DataFrame) -> str:
    """Return the columns of few values, and their first values."""
    parts = []
    for name in obs:
        column = obs[name]
        if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind in "bO":
            values = sorted(str(value) for value in pd.unique(column.dropna()))
            more = ", ..." if len(values) > _LISTED else ""
            parts.append(f"{name} ({', '.join(map(repr, values[:_LISTED]))}{more})")
    return "; ".join(parts) or ", ".join(map(str, obs)) or "none"


def _where(given: NDArray[np.bool_], n_obs: int, place: str) -> NDArray[np.int64]:
    """Return the rows that are marked."""
    if len(given) != n_obs:
        raise DataError(
            f"A boolean per cell is needed: {place} has {n_obs:,} cells; got {len(given):,}."
        )
    if not given.any():
        raise DataError("No cell is marked true. Choose at least one.")
    return np.flatnonzero(given).astype(np.int64)


def _positions(given: NDArray[Any], n_obs: int, place: str) -> NDArray[np.int64]:
    """Return rows that are given as such."""
    rows = given.astype(np.int64)
    beyond = rows[(rows < 0) | (rows >= n_obs)]
    if beyond.size:
        raise DataError(
            f"Positions must lie between 0 and {n_obs - 1:,}, the cells of {place}; got "
            f"{int(beyond[0])}."
        )
    return rows


def _named(names: list[str], index: pd.Index, place: str) -> NDArray[np.int64]:
    """Return the rows of names."""
    known = pd.Index(index.astype(str))
    if known.has_duplicates:
        raise DataError(
            f"Names of cells are not unique in {place}: {str(known[known.duplicated()][0])!r} occurs "
            "more than once. Choose cells by a query or by position."
        )
    rows = known.get_indexer(names)
    missing = [name for name, row in zip(names, rows, strict=True) if row < 0]
    if missing:
        more = ", ..." if len(missing) > _LISTED else ""
        raise DataError(
            f"{len(missing):,} of {len(names):,} cells are not in {place}: "
            f"{', '.join(map(repr, missing[:_LISTED]))}{more}. Its cells are named like "
            f"{', '.join(repr(str(name)) for name in known[:3])}."
        )
    return np.asarray(rows, np.int64)

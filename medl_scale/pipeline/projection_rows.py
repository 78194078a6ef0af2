"""What the rows of a projection are: of every cell the same kinds, one after another, told in obs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from medl_scale.interpret.targets import AVERAGE
from medl_scale.store.atlas import read_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.store.atlas import Atlas, AtlasRef

__all__ = ["Kind", "kinds_of", "row_table"]

_OWN, _NOWHERE, _POPULATION = -3, -2, -1
_SPLITS = ("train", "val", "test")


class Kind(NamedTuple):
    """One row of every cell."""

    name: str
    """`measured`, `reconstruction` or `as_if`."""
    model: str | None
    """Who made it."""
    target: int
    """Position in the model's batches, or one of the negative numbers above."""


def kinds_of(
    model: str, target_codes: NDArray[np.int32], beside: Sequence[str] | None
) -> tuple[Kind, ...]:
    """Return the rows of every cell, in order.

    Parameters
    ----------
    model
        The model that projects.
    target_codes
        Batches to project to; -1 is the population.
    beside
        Models whose reconstructions stand beside those of `model` and the measured; None for
        projections alone.
    """
    projected = [Kind("as_if", model, int(code)) for code in target_codes]
    if beside is None:
        return tuple(projected)
    others = [Kind("reconstruction", name, _NOWHERE) for name in beside]
    own = Kind("reconstruction", model, _OWN)
    return (Kind("measured", None, _NOWHERE), own, *others, *projected)


def row_table(
    ref: AtlasRef,
    atlas: Atlas,
    fold: int,
    rows: NDArray[np.int64],
    names: NDArray[np.object_],
    kinds: Sequence[Kind],
) -> pd.DataFrame:
    """Return the obs of a projection, (len(rows) * len(kinds)) rows.

    Parameters
    ----------
    ref, atlas
        The atlas, and its description.
    fold
        Whose split is told.
    rows, names
        (m,) chosen cells.
    kinds
        The rows of every cell.
    """
    n_cells, n_kinds = len(rows), len(kinds)
    columns = read_columns(ref)
    source = columns.batch_codes[rows]
    levels = (*atlas.batch_levels, AVERAGE)

    def per_cell(codes: NDArray[Any], values: Sequence[str]) -> pd.Categorical:
        return _categories(np.repeat(codes, n_kinds), values)

    def per_kind(values: list[str | None]) -> pd.Categorical:
        known = list(dict.fromkeys(value for value in values if value is not None))
        codes = [known.index(value) if value is not None else -1 for value in values]
        return _categories(np.tile(np.array(codes, np.int32), n_cells), known)

    target = np.tile(np.array([kind.target for kind in kinds], np.int32), (n_cells, 1))
    target = np.where(target == _OWN, source[:, None], target)
    target[target == _POPULATION] = len(levels) - 1
    target[target == _NOWHERE] = -1
    suffixes = [_suffix(kind, levels) for kind in kinds]
    index = [f"{name}|{suffix}" for name in names for suffix in suffixes]
    obs = pd.DataFrame(index=pd.Index(index, dtype=object))
    cell_codes, cells = pd.factorize(names)
    obs["cell"] = per_cell(cell_codes, list(cells))
    obs["kind"] = per_kind([kind.name for kind in kinds])
    obs["model"] = per_kind([kind.model for kind in kinds])
    obs["source_batch"] = per_cell(source, atlas.batch_levels)
    obs["target_batch"] = _categories(target.ravel(), levels)
    obs["is_own_batch"] = (target == source[:, None]).ravel()
    if atlas.labels_key is not None:
        obs["label"] = per_cell(columns.label_codes[rows], atlas.label_levels)
    obs["split"] = per_cell(_split_codes(atlas, fold)[rows], _SPLITS)
    obs["atlas_row"] = np.repeat(rows, n_kinds)
    return obs


def _suffix(kind: Kind, levels: Sequence[str]) -> str:
    """Return how a row is told from the others of its cell."""
    if kind.name == "as_if":
        return f"as:{levels[kind.target]}"
    return ":".join(part for part in (kind.name, kind.model) if part is not None)


def _split_codes(atlas: Atlas, fold: int) -> NDArray[np.int8]:
    """Return the split of every cell of the atlas."""
    parts = atlas.split(fold)
    codes = np.zeros(atlas.n_obs, np.int8)
    codes[parts.val], codes[parts.test] = 1, 2
    return codes


def _categories(codes: NDArray[Any], values: Sequence[str]) -> pd.Categorical:
    """Return text by codes, -1 for missing."""
    return pd.Categorical.from_codes(codes, pd.Index(list(values), dtype=object))

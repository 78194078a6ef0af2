"""Tables of cells and genes: put one below another, and made fit for any AnnData store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["concatenated", "storable"]


def concatenated(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the frames one below another, with the union of their columns.

    Columns of categories keep being that, over all levels in order of appearance; values that an
    input does not have are missing.
    """
    import pandas as pd

    if len(frames) == 1:
        return frames[0].copy()
    joined = pd.DataFrame(index=pd.Index(np.concatenate([frame.index for frame in frames])))
    for name in dict.fromkeys(name for frame in frames for name in frame.columns):
        pieces = [
            frame[name] if name in frame else pd.Series(np.nan, frame.index, dtype=object)
            for frame in frames
        ]
        present = [frame[name] for frame in frames if name in frame]
        if any(isinstance(piece.dtype, pd.CategoricalDtype) for piece in present):
            joined[name] = _categories(pieces)
        else:
            column = pd.concat(pieces, ignore_index=True)
            joined[name] = (
                column.infer_objects().to_numpy() if column.dtype == object else (column.array)
            )
    return joined


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose columns any AnnData store can hold: text as categories.

    Columns of mixed or unknown types become text, missing values stay missing. Names that HDF5 and
    Zarr would take for paths get an underscore for each slash.
    """
    import pandas as pd

    stored = pd.DataFrame(index=pd.Index(frame.index.astype(str).to_numpy(dtype=object)))
    stored.index.name = None
    for name in frame.columns:
        column = frame[name]
        key = str(name).replace("/", "_")
        if isinstance(column.dtype, pd.CategoricalDtype):
            levels = column.cat.categories
            plain = pd.api.types.is_numeric_dtype(levels.dtype)
            codes = column.cat.codes.to_numpy()
            names = levels if plain else pd.Index([str(level) for level in levels], dtype=object)
            stored[key] = pd.Categorical.from_codes(codes, names, ordered=column.cat.ordered)
        elif pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(
            column.dtype
        ):
            stored[key] = column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array
        else:
            stored[key] = _text(column)
    return stored


def _categories(pieces: Sequence[pd.Series]) -> pd.Categorical:
    """Return columns, at least one of categories, below one another as categories."""
    import pandas as pd

    texts = [pd.Categorical(piece) for piece in pieces]
    levels = list(dict.fromkeys(level for text in texts for level in text.categories))
    position = {level: code for code, level in enumerate(levels)}
    # The last entry is gathered by code -1, a missing value.
    codes = [
        np.array([position[level] for level in text.categories] + [-1], np.int32)[text.codes]
        for text in texts
    ]
    return pd.Categorical.from_codes(np.concatenate(codes), pd.Index(levels, dtype=object))


def _text(column: pd.Series) -> pd.Categorical:
    """Return a column as categories of text."""
    import pandas as pd

    codes, levels = pd.factorize(column, use_na_sentinel=True)
    texts, merged = np.unique([str(level) for level in levels], return_inverse=True)
    table = np.append(merged, -1)
    return pd.Categorical.from_codes(table[codes], pd.Index(texts.astype(object), dtype=object))

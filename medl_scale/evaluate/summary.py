"""Scores of several folds as one figure with an interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from medl_scale.evaluate.score import Kind

__all__ = ["over_folds"]

_LEVEL = 0.95
_KEYS = ["space", "split", "metric", "of"]
# From the strongest promise to the weakest.
_KINDS: tuple[Kind, ...] = ("exact", "certified", "confidence")


def over_folds(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per latent and metric: its mean over folds and how sure that is.

    Parameters
    ----------
    table
        One row per fold, with columns `space`, `split`, `metric`, `of`, `fold`, `value`, `error`, `kind`, `n`.

    Returns
    -------
    DataFrame
        `space`, `split`, `metric`, `of`; `value`, the mean over folds; `half_width` of its 95 % t-interval
        (NaN for one fold); `error`, the largest of a single figure, and its weakest `kind`;
        `n_folds`; `n`, cells in all. Folds whose score is undefined are left out, and so is what is
        undefined in all.

    Notes
    -----
    Student's t with `n_folds` - 1 degrees of freedom; the papers take 4 whatever the number of
    folds. Folds share train cells, so the interval is about the split, not about new data sets.
    """
    from scipy.stats import t

    rows = []
    for key, group in table.groupby(_KEYS, sort=False):
        found = group.dropna(subset=["value"])
        n_folds = len(found)
        if not n_folds:
            continue
        half_width = math.nan
        if n_folds > 1:
            spread = float(found["value"].std(ddof=1)) / math.sqrt(n_folds)
            half_width = float(t.ppf((1 + _LEVEL) / 2, n_folds - 1)) * spread
        rows.append(
            {
                **dict(zip(_KEYS, key, strict=True)),
                "value": float(found["value"].mean()),
                "half_width": half_width,
                "error": float(found["error"].max()),
                "kind": max(found["kind"], key=_KINDS.index),
                "n_folds": n_folds,
                "n": int(found["n"].sum()),
            }
        )
    return pd.DataFrame(
        rows, columns=[*_KEYS, "value", "half_width", "error", "kind", "n_folds", "n"]
    )

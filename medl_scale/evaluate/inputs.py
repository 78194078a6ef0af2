"""Latents and labels as users give them, checked once at the door of every metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from medl_scale.errors import DataError, ScoreUndefinedError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Labels", "check_latent", "check_n_labels", "encode_labels"]

_BLOCK_ROWS = 262_144


class Labels(NamedTuple):
    """A label for every cell."""

    codes: NDArray[np.int32]
    """(n,) positions in `levels`."""
    levels: NDArray[Any]
    """(n_labels,) names, sorted; each occurs."""
    counts: NDArray[np.int64]
    """(n_labels,) cells of each."""


def check_latent(latent: ArrayLike, *, name: str = "latent") -> NDArray[Any]:
    """Return a latent as an array of floats, (n, d), float32 as it came or else float64.

    Raises
    ------
    DataError
        If it is not a matrix of numbers, has no row or column, or holds NaN or infinite values
        (they are counted).
    """
    found = np.asarray(latent)
    if found.ndim != 2 or 0 in found.shape:
        raise DataError(
            f"{name} must be a matrix, one row a cell (n, d); its shape is {found.shape}."
        )
    if found.dtype.kind not in "fiub":
        raise DataError(f"{name} must hold real numbers; its dtype is {found.dtype}.")
    if found.dtype != np.float32:
        found = np.asarray(found, np.float64)
    n_nan = n_infinite = 0
    for start in range(0, len(found), _BLOCK_ROWS):
        block = found[start : start + _BLOCK_ROWS]
        if not np.isfinite(block).all():
            n_nan += int(np.isnan(block).any(axis=1).sum())
            n_infinite += int(np.isinf(block).any(axis=1).sum())
    if n_nan or n_infinite:
        raise DataError(
            f"{name} has NaN in {n_nan:,} cells and infinite values in {n_infinite:,} of {len(found):,}. "
            "Leave these cells out, or train again."
        )
    return found


def encode_labels(labels: ArrayLike | Any, n: int, *, name: str = "labels") -> Labels:
    """Return labels as codes; text, numbers and categories are all welcome.

    Categories that no cell has are left out.

    Raises
    ------
    DataError
        If there is not one label for each of `n` cells, or some are missing (they are counted).
    """
    found = labels if isinstance(labels, pd.Categorical) else _one_dimensional(labels, name)
    if len(found) != n:
        raise DataError(f"{name} must name every cell: {n:,} cells, but {len(found):,} labels.")
    codes, levels = pd.factorize(found, sort=False, use_na_sentinel=True)
    n_missing = int(np.count_nonzero(codes < 0))
    if not n_missing and not isinstance(found, pd.Categorical) and found.dtype.kind == "f":
        n_missing = int(np.count_nonzero(np.isinf(np.asarray(found, np.float64))))
    if n_missing:
        raise DataError(
            f"{name} is missing or not finite for {n_missing:,} of {n:,} cells. Leave these cells out, "
            "or give them a label of their own."
        )
    names = np.asarray(levels.astype(object) if isinstance(levels, pd.CategoricalIndex) else levels)
    try:
        order = np.argsort(names, kind="stable")
    except TypeError:
        # Numbers beside text have no order of their own.
        order = np.argsort(names.astype(str), kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    own = rank[codes] if n else np.empty(0, np.int32)
    return Labels(own, names[order], np.bincount(own, minlength=len(order)).astype(np.int64))


def check_n_labels(labels: Labels, *, name: str = "labels") -> None:
    """Raise unless there are at least 2 labels, and fewer than cells."""
    n, n_labels = len(labels.codes), len(labels.levels)
    if not 2 <= n_labels <= n - 1:
        raise ScoreUndefinedError(
            f"{name} must have between 2 and {n - 1:,} different values for {n:,} cells; it has "
            f"{n_labels:,}. A score that compares groups is undefined here."
        )


def _one_dimensional(labels: Any, name: str) -> Any:
    """Return labels as a pandas Categorical or a one-dimensional array."""
    values = getattr(labels, "array", labels)
    if isinstance(values, pd.Categorical):
        return values
    found = np.asarray(labels)
    if found.ndim != 1:
        raise DataError(f"{name} must be one label a cell, (n,); its shape is {found.shape}.")
    return found

"""The columns of obs that preparing relies on: batch, label, and the batch to rank genes within."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.errors import DataError
from medl_scale.store.choices import no_such

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from medl_scale.config import PrepareConfig

__all__ = ["KeyColumns", "Levels", "key_columns"]


class Levels(NamedTuple):
    """A column by its values as text: sorted names, and each cell's position among them."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    def among(self, cells: NDArray[np.integer]) -> Levels:
        """Return the levels of some cells, without those that none of them has."""
        used, codes = np.unique(self.codes[cells], return_inverse=True)
        return Levels(codes.astype(np.int32), tuple(self.names[code] for code in used))


class KeyColumns(NamedTuple):
    """Batches and labels of all cells, before filtering."""

    batch: Levels
    labels: Levels | None


def key_columns(obs: pd.DataFrame, config: PrepareConfig, place: str) -> KeyColumns:
    """Check the columns that the configuration names, before any count is read.

    Raises
    ------
    DataError
        If one is missing or has missing values, or there is a single batch.
    """
    named = {
        "--batch-key": config.batch_key,
        "--labels-key": config.labels_key,
        "--hvg-batch-key": config.hvg_batch_key,
    }
    for option, key in named.items():
        if key is None:
            continue
        if key not in obs:
            raise no_such("obs column", key, [str(name) for name in obs.columns], place, option)
        _check_complete(obs[key], key, option, config.unlabeled_category)
    batch = _levels(obs[config.batch_key])
    check_batches(batch, config.batch_key)
    labels = None if config.labels_key is None else _levels(obs[config.labels_key])
    return KeyColumns(batch, labels)


def check_batches(batch: Levels, key: str) -> None:
    """Raise if there is a single batch."""
    if len(batch.names) < 2:
        found = ", ".join(repr(name) for name in batch.names) or "none"
        raise DataError(
            f"Two batches or more are expected in obs[{key!r}]; there is only {found}. "
            "Choose another --batch-key, or add cells of other batches."
        )


def _check_complete(column: pd.Series, key: str, option: str, unlabeled: str) -> None:
    """Raise if values are missing."""
    n_missing = int(column.isna().sum())
    if n_missing:
        advice = (
            f"fill them with {unlabeled!r} (adata.obs[{key!r}] = adata.obs[{key!r}]"
            f".astype(object).fillna({unlabeled!r}))"
            if option == "--labels-key"
            else "fill them or remove these cells"
        )
        raise DataError(
            f"obs[{key!r}], asked for with {option}, is missing (NaN) for {n_missing:,} of "
            f"{len(column):,} cells: {advice}."
        )


def _levels(column: pd.Series) -> Levels:
    """Return a column without missing values by its values as text."""
    import pandas as pd

    codes, values = pd.factorize(column)
    names, merged = np.unique(np.array([str(v) for v in values], dtype=object), return_inverse=True)
    return Levels(merged.astype(np.int32)[codes], tuple(names.tolist()))

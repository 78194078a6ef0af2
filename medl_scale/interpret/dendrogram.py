"""Batches in order of their distances: a dendrogram, and the strata it falls into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medl_scale.errors import ConfigError, DataError, ScoreUndefinedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Dendrogram", "dendrogram"]

_MOST_STRATA = 10
"""Strata that are tried where their number is not given."""
_MOST_ORDERED = 1000
"""Batches up to which leaves are ordered best; the time grows with the cube of their number."""


@dataclass(frozen=True, eq=False)
class Dendrogram:
    """Batches joined two by two, the nearest first."""

    names: tuple[str, ...]
    """Batches, as in the distances."""
    linkage: NDArray[np.float64]
    """(n - 1, 4) as `scipy.cluster.hierarchy.linkage` returns it, for its `dendrogram`."""
    order: tuple[str, ...]
    """Batches from one end of the tree to the other, neighbours being near."""
    distances: pd.DataFrame
    """(n, n) as given."""

    def strata(self, n_strata: int | None = None) -> pd.Series:
        """Cut the tree into groups of batches that are like each other.

        Parameters
        ----------
        n_strata
            How many; by default the number, 2 to 10, whose mean silhouette is largest. That number
            is a description: no test says that there are strata at all.

        Returns
        -------
        Stratum of each batch, from 1, numbered in the order of the leaves; `attrs["silhouette"]`
        holds the mean silhouette over batches, NaN where each batch is a stratum or all are one.

        Raises
        ------
        ConfigError
            If the number makes no sense.
        """
        n = len(self.names)
        if n_strata is None:
            tried = [self._cut(k) for k in range(2, min(_MOST_STRATA, n - 1) + 1)]
            cut = max(tried or [self._cut(n)], key=_silhouette_or_least)
        elif 1 <= n_strata <= n:
            cut = self._cut(n_strata)
        else:
            raise ConfigError(
                f"n_strata must be 1 to {n}, the number of batches; got {n_strata}. Leave it out to "
                "take the number whose silhouette is largest."
            )
        return cut

    def _cut(self, n_strata: int) -> pd.Series:
        """Return the strata of one cut with their silhouette."""
        from scipy.cluster.hierarchy import cut_tree

        raw = pd.Series(cut_tree(self.linkage, n_strata)[:, 0], index=list(self.names))
        # Numbered by the order of the leaves, not by that of the joins.
        number = {old: i for i, old in enumerate(pd.unique(raw[list(self.order)]), start=1)}
        strata = raw.map(number).rename("stratum")
        strata.attrs["silhouette"] = _silhouette(self.distances.to_numpy(), strata.to_numpy())
        return strata


def dendrogram(distances: pd.DataFrame) -> Dendrogram:
    """Join batches by average linkage.

    Parameters
    ----------
    distances
        (n, n) symmetric, zeros on the diagonal, batches by name; n >= 2.

    Raises
    ------
    ScoreUndefinedError
        If there are fewer than two batches.
    DataError
        If it is not a matrix of distances.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    values = distances.to_numpy(np.float64)
    n = len(values)
    if n < 2:
        raise ScoreUndefinedError(f"A dendrogram needs two batches or more; got {n}. Name more.")
    if values.shape != (n, n) or not np.isfinite(values).all() or (values != values.T).any():
        raise DataError(
            f"Distances must be a symmetric matrix of finite numbers; got shape {values.shape}. "
            "Give what Sketch.distances returns."
        )
    joined = linkage(
        squareform(values, checks=False), method="average", optimal_ordering=n <= _MOST_ORDERED
    )
    names = tuple(map(str, distances.index))
    return Dendrogram(names, joined, tuple(names[i] for i in leaves_list(joined)), distances)


def _silhouette(distances: NDArray[np.float64], strata: NDArray[np.int64]) -> float:
    """Return the mean silhouette; a batch alone in its stratum counts 0."""
    members = (strata[:, None] == np.unique(strata)).astype(np.float64)
    sizes = members.sum(axis=0)
    if not 1 < sizes.size < strata.size:
        return float("nan")
    sums = distances @ members
    own = members.astype(bool)
    alone = sizes[own.argmax(axis=1)] == 1
    within = sums[own] / np.maximum(sizes[own.argmax(axis=1)] - 1, 1)
    nearest = np.where(own, np.inf, sums / sizes).min(axis=1)
    largest = np.maximum(within, nearest)
    each = np.divide(nearest - within, largest, out=np.zeros_like(within), where=largest > 0)
    return float(np.where(alone, 0.0, each).mean())


def _silhouette_or_least(strata: pd.Series) -> float:
    """Return a cut's silhouette, the least possible where it has none."""
    found = float(strata.attrs["silhouette"])
    return -1.0 if np.isnan(found) else found

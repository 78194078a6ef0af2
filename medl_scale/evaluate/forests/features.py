"""What a forest is told of each cell: a latent, the batch as one-hot columns, or both.

Batches are one integer a cell, and trees grow from these: as one-hot columns, a thousand batches of a
million cells would be 4 GB. A matrix is made only for those who want one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from medl_scale.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Features", "know_batches", "latent_features"]

_MOST_DENSE_BYTES = 2 * 2**30
"""A matrix of latents and one-hot columns beyond this is sparse: the same trees, 3 times slower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """One row a cell; at least one of the two parts is there."""

    latent: NDArray[np.float32] | None = None
    """(n, d), or None."""
    batch_codes: NDArray[np.int32] | None = None
    """(n,) column of the cell's batch, -1 for a batch without one, whose row is all zeros; or None."""
    n_batches: int = 0
    """Number of one-hot columns."""

    def __len__(self) -> int:
        """Return the number of cells."""
        parts = (part for part in (self.latent, self.batch_codes) if part is not None)
        return len(next(parts))

    @property
    def n_features(self) -> int:
        """Columns of the matrix."""
        return self.n_batches + (0 if self.latent is None else self.latent.shape[1])

    def matrix(self) -> Any:
        """Return (n, n_features) float32: dense, or compressed columns where dense would be large."""
        if self.batch_codes is None:
            return self.latent
        n = len(self.batch_codes)
        if self.latent is not None and 4 * n * self.n_features <= _MOST_DENSE_BYTES:
            wide = np.zeros((n, self.n_features), np.float32)
            wide[:, : -self.n_batches] = self.latent
            seen = np.flatnonzero(self.batch_codes >= 0)
            wide[seen, self.n_features - self.n_batches + self.batch_codes[seen]] = 1.0
            return wide
        one_hot = _one_hot(self.batch_codes, self.n_batches)
        if self.latent is None:
            return one_hot
        return sp.hstack([sp.csc_matrix(self.latent), one_hot], format="csc", dtype=np.float32)

    def dense_matrix(self) -> NDArray[np.float32]:
        """Return (n, n_features) float32 that is dense at any size, as GPUs want it."""
        found = self.matrix()
        return np.asarray(found.toarray() if sp.issparse(found) else found, np.float32)


def know_batches(
    train_batches: NDArray[np.integer], test_batches: NDArray[np.integer]
) -> tuple[Features, Features]:
    """Return one-hot batches of the cells to train on and of those to test on, without latents.

    Batches that no train cell is of have no column: their cells are all zeros, as with
    scikit-learn's `OneHotEncoder(handle_unknown="ignore")`.

    Parameters
    ----------
    train_batches, test_batches
        (n,) integer codes from 0 with one meaning.
    """
    known = np.unique(train_batches)
    size = 1 + max(int(known.max()), int(test_batches.max(initial=0)))
    column = np.full(size, -1, np.int32)
    column[known] = np.arange(len(known), dtype=np.int32)
    train, test = (
        Features(batch_codes=column[batches], n_batches=len(known))
        for batches in (train_batches, test_batches)
    )
    return train, test


def latent_features(
    train: NDArray[Any], test: NDArray[Any], *, standardise: bool
) -> tuple[Features, Features]:
    """Return latents as forests take them.

    Parameters
    ----------
    train, test
        (n, d) finite floats.
    standardise
        Less the mean of train, over its standard deviation, column by column.

    Raises
    ------
    DataError
        If values are beyond float32, or their squares overflow.
    """
    from sklearn.preprocessing import StandardScaler

    with np.errstate(over="ignore", invalid="ignore"):
        if standardise:
            scaler = StandardScaler().fit(train)
            train, test = scaler.transform(train), scaler.transform(test)
        return Features(latent=_as_float32(train)), Features(latent=_as_float32(test))


def _as_float32(latent: NDArray[Any]) -> NDArray[np.float32]:
    """Return what trees are grown from; raise if a value has no float32."""
    found = np.ascontiguousarray(latent, np.float32)
    if not np.isfinite(found).all():
        raise DataError(
            "Forests need latents whose values fit float32 when standardised; "
            f"{int((~np.isfinite(found)).any(axis=1).sum()):,} of {len(found):,} cells have larger "
            "ones. Divide the latent by its largest absolute value."
        )
    return found


def _one_hot(codes: NDArray[np.int32], n_batches: int) -> Any:
    """Return (n, n_batches) compressed columns with a one in each known cell's batch."""
    # A stable order keeps rows ascending within each column, as trees want them.
    order = np.argsort(codes, kind="stable").astype(np.int32)
    rows = order[np.count_nonzero(codes < 0) :]
    counts = np.bincount(codes[rows], minlength=n_batches)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    ones = np.ones(len(rows), np.float32)
    return sp.csc_matrix((ones, rows, starts), shape=(len(codes), n_batches))

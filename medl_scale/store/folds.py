"""Which cells test together: parts of the cross-validation, and the order of the rows in them.

Every batch is dealt to the parts cyclically, its labels one after another, so that parts hold equal
shares of each batch and of each label in it. Cards go to even parts first, then to odd ones: since
a fold leaves two neighbouring parts out of training, even a batch of 2 cells keeps one in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import DataError
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["deal_parts", "row_order"]


def deal_parts(
    batch_codes: NDArray[np.integer],
    label_codes: NDArray[np.integer],
    batch_levels: Sequence[str],
    *,
    n_parts: int,
    seed: int,
) -> NDArray[np.int32]:
    """Return the part of each cell.

    Parameters
    ----------
    batch_codes, label_codes
        (n_obs,), label -1 where unlabelled.
    batch_levels
        Names of the batches, for errors.
    n_parts
        Number of parts, >= 3. Fold k tests on part k and validates on part k + 1.
    seed
        The user's seed.

    Returns
    -------
    (n_obs,), from 0 to `n_parts` - 1. Within a batch the sizes of parts differ by at most 1, and
    so they do within a label of a batch.

    Raises
    ------
    DataError
        If a batch has too few cells to be in every training split, or a part would be empty.
    """
    random = generator(seed, Purpose.FOLDS)
    n_batches = len(batch_levels)
    sizes = np.bincount(batch_codes, minlength=n_batches)
    needed = 3 if n_parts == 3 else 2
    _check_sizes(batch_levels, sizes, needed, n_parts)
    dealt = np.concatenate((np.arange(0, n_parts, 2), np.arange(1, n_parts, 2)))
    following = np.roll(dealt, -1)
    apart = np.flatnonzero(~np.isin((following - dealt) % n_parts, (1, n_parts - 1)))
    offsets = random.integers(n_parts, size=n_batches)
    if apart.size:
        offsets = np.where(sizes == 2, random.choice(apart, size=n_batches), offsets)
    keys = random.random(len(batch_codes), dtype=np.float32)
    order = np.lexsort((keys, label_codes, batch_codes))
    # The k-th cell of all, so ordered, is the (k - start)-th of its batch, dealt from its offset.
    starts = np.cumsum(sizes) - sizes
    turn = np.arange(len(order)) + np.repeat(offsets - starts, sizes)
    turn %= n_parts
    parts = np.empty(len(order), np.int32)
    parts[order] = dealt[turn]
    empty = np.setdiff1d(np.arange(n_parts), parts)
    if empty.size:
        raise DataError(
            f"{len(parts):,} cells are too few for {n_parts} folds: {empty.size} would be empty. "
            "Lower --folds."
        )
    return parts


def row_order(parts: NDArray[np.integer], *, seed: int) -> NDArray[np.int64]:
    """Return which cell goes to each row: parts one after another, each shuffled.

    Parameters
    ----------
    parts
        (n_obs,) part of each cell.
    seed
        The user's seed.
    """
    shuffled = generator(seed, Purpose.ROW_SHUFFLE).permutation(len(parts))
    order: NDArray[np.int64] = shuffled[np.argsort(parts[shuffled], kind="stable")]
    return order


def _check_sizes(
    levels: Sequence[str], sizes: NDArray[np.int64], needed: int, n_parts: int
) -> None:
    """Raise if batches are too small to be split."""
    small = np.flatnonzero(sizes < needed)
    if small.size:
        listed = ", ".join(f"{levels[code]!r} has {sizes[code]}" for code in small[:5])
        more = "" if needed == 2 else " (with 4 folds or more 2 cells are enough)"
        raise DataError(
            f"Every batch needs {needed} cells or more to be in every training split of {n_parts} "
            f"folds{more}; after filtering, {small.size:,} are smaller: {listed}. Remove these "
            "cells, merge their batch with another, or lower --min-genes."
        )

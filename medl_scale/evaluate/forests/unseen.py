"""Which forest is asked for which cells when batches must be new to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int32]
    Rows = NDArray[np.int64]

__all__ = ["deal_batches", "is_constant_in_batches", "split_by_batch"]


def split_by_batch(
    codes: Codes, batch_codes: Codes, train: Rows, test: Rows, n_parts: int
) -> list[tuple[Rows, Rows]]:
    """Return train and test cells of each forest, such that they share no batch.

    Batches are dealt to parts; the test cells of a part are asked of a forest grown on the train
    cells of the other parts, so that every test cell is asked for once.

    Parameters
    ----------
    codes, batch_codes
        (n,) class and batch of each cell.
    train, test
        Positions of the cells of each split.
    n_parts
        Parts to deal to; as many as batches if these are fewer.

    Returns
    -------
    A pair of positions for each part that has test cells. None at all where no class of a test cell
    can be learnt elsewhere: where there is one batch, or each class lies in a batch of its own.
    """
    both = np.concatenate([train, test])
    seen = np.unique(batch_codes[both])
    counts = np.zeros((len(seen), int(codes.max()) + 1), np.int64)
    np.add.at(counts, (np.searchsorted(seen, batch_codes[both]), codes[both]), 1)
    if (np.count_nonzero(counts, axis=0) <= 1).all():
        return []
    n_parts = min(n_parts, len(seen))
    part_of = np.full(int(seen.max()) + 1, -1, np.int32)
    part_of[seen] = deal_batches(counts, n_parts)
    pairs = []
    for part in range(n_parts):
        elsewhere = train[part_of[batch_codes[train]] != part]
        here = test[part_of[batch_codes[test]] == part]
        if elsewhere.size and here.size:
            pairs.append((elsewhere, here))
    return pairs


def deal_batches(counts: NDArray[np.integer], n_parts: int) -> Codes:
    """Return the part of each batch, so that parts hold equal shares of every class where they can.

    Parameters
    ----------
    counts
        (n_batches, n_classes) cells.
    n_parts
        Parts, at most `n_batches`.

    Returns
    -------
    (n_batches,) from 0 to `n_parts` - 1; no part is empty. Where every batch holds one class only,
    no class of two batches or more lies in one part, so that no forest lacks it.

    Notes
    -----
    Batches are dealt from the most unevenly distributed to the least. Each goes where its classes are
    rarest, which adds least to the sum of squared shares; all cells together count as a class too.
    """
    shares = np.column_stack([counts, counts.sum(axis=1)]).astype(np.float64)
    shares /= np.maximum(shares.sum(axis=0), 1.0)
    held = np.zeros((n_parts, shares.shape[1]))
    n_held = np.zeros(n_parts, np.int64)
    part_of = np.empty(len(counts), np.int32)
    for batch in np.argsort(-np.square(shares).sum(axis=1), kind="stable"):
        # An empty part first, which a batch without cells would not find by itself.
        part = np.lexsort((n_held, held @ shares[batch], n_held > 0))[0]
        part_of[batch] = part
        held[part] += shares[batch]
        n_held[part] += 1
    return part_of


def is_constant_in_batches(codes: Codes, batch_codes: Codes) -> bool:
    """Say whether no batch holds cells of two classes, as with a diagnosis of donors."""
    pairs = np.unique(batch_codes.astype(np.int64) * (int(codes.max()) + 1) + codes)
    return len(pairs) == len(np.unique(batch_codes))

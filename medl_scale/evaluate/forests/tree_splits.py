"""The best split of a tree's node along one feature, rounded as scikit-learn rounds it.

All sums are of whole numbers below 2^53, so exact in any order. Moving a cell from right to left changes
the sums of squared class weights in a few operations; scikit-learn sums over all classes again at
every place of a split, which comes to the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from medl_scale.evaluate.forests.tree_keys import CLASS_MASK, WEIGHT_MASK, WEIGHT_SHIFT, value_of

__all__ = ["ONE_VALUE", "split_by_batch", "split_by_value"]

ONE_VALUE = np.float32(1e-7)
"""Values closer than this are one value, as in scikit-learn."""


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _gain(weight: float, left: float, left_squares: float, right_squares: float) -> float:
    """Return what is gained by a split, up to a constant, rounded as scikit-learn rounds it.

    Squares are sums of squared class weights on a side; 1 - squares / weight^2 is its impurity.
    """
    right = weight - left
    on_left = 1.0 - left_squares / (left * left)
    on_right = 1.0 - right_squares / (right * right)
    return -right * on_right - left * on_left


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def split_by_value(
    keys: Any, n: int, within: Any, moved: Any, weight: float, squares: float
) -> Any:
    """Return the best split of a node along one feature, as `grow_tree` keeps it.

    Parameters
    ----------
    keys
        The node's cells in the order of the feature.
    n
        Number of cells.
    within
        Weight of each class in the node.
    moved
        Zeros, one a class; zeros again at the end.
    weight, squares
        Of all classes in the node: their weight, and the sum of their squared weights.
    """
    best, boundary, threshold = -np.inf, 0.0, 0.0
    best_left = best_left_squares = best_right_squares = 0.0
    left = left_squares = 0.0
    right_squares = squares
    before = value_of(keys[0])
    for i in range(n):
        value = value_of(keys[i])
        if value > before + ONE_VALUE:
            gain = _gain(weight, left, left_squares, right_squares)
            if gain > best:
                best, boundary, threshold = gain, np.float64(value), before / 2.0 + value / 2.0
                best_left, best_left_squares = left, left_squares
                best_right_squares = right_squares
        before = value
        w = np.float64(keys[i] & WEIGHT_MASK)
        c = np.int64((keys[i] >> WEIGHT_SHIFT) & CLASS_MASK)
        left_squares += w * (2.0 * moved[c] + w)
        right_squares += w * (w - 2.0 * (within[c] - moved[c]))
        moved[c] += w
        left += w
    for i in range(n):
        moved[np.int64((keys[i] >> WEIGHT_SHIFT) & CLASS_MASK)] = 0.0
    return best, boundary, threshold, best_left, best_left_squares, best_right_squares


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def split_by_batch(
    rows: Any, payload: Any, batches: Any, batch: int, within: Any, moved: Any, weight: float,
    squares: float,
) -> Any:  # fmt: skip
    """Return the split of a node's cells, `rows`, into those of a batch, on the right, and others.

    Left weight 0 says that all cells are of the batch; gain -inf, that all or none are.
    """
    right = right_squares = 0.0
    left_squares = squares
    for row in rows:
        if batches[row] == batch:
            own = np.uint64(payload[row])
            w, c = np.float64(own & WEIGHT_MASK), np.int64(own >> WEIGHT_SHIFT)
            right_squares += w * (2.0 * moved[c] + w)
            left_squares += w * (w - 2.0 * (within[c] - moved[c]))
            moved[c] += w
            right += w
    left = weight - right
    best = -np.inf
    if 0.0 < right < weight:
        best = _gain(weight, left, left_squares, right_squares)
    for row in rows:
        moved[np.int64(np.uint64(payload[row]) >> WEIGHT_SHIFT)] = 0.0
    return best, np.float64(batch), 0.5, left, left_squares, right_squares

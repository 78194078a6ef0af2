"""The compiled loops that grow one tree, and find the leaves of cells.

The tree is scikit-learn's `DecisionTreeClassifier(max_features="sqrt")`, split for split: features are
drawn by the same generator in the same order, nodes are visited in the same order, and what decides is
computed to the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from medl_scale.evaluate.forests.tree_keys import WEIGHT_MASK, WEIGHT_SHIFT, make_keys, sort_keys
from medl_scale.evaluate.forests.tree_splits import ONE_VALUE, split_by_batch, split_by_value

__all__ = ["find_leaves", "grow_tree"]

# An impurity below this is none, as in scikit-learn.
_EPSILON = np.finfo(np.float64).eps


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def grow_tree(
    matrix: Any,
    batches: Any,
    n_batches: int,
    payload: Any,
    rows: Any,
    n_classes: int,
    max_features: int,
    seed: int,
) -> Any:
    """Grow one tree until its leaves are pure or their cells alike.

    Parameters
    ----------
    matrix
        (n, d) float32, finite, row by row: the rows of a small node then stay in the cache.
    batches
        (n,) int32 batch of each cell, whose one-hot columns follow those of the matrix; or empty.
    n_batches
        Number of these columns.
    payload
        (n,) uint32 class << WEIGHT_BITS | weight of each cell.
    rows
        (m,) int64 cells of weight > 0, m < 2^30; overwritten by their order in the leaves.
    n_classes
        Number of classes.
    max_features
        Features that a split looks at, if one of them is not constant.
    seed
        uint32 state of the generator that draws features.

    Returns
    -------
    feature, threshold, left, start, stop, answer : one entry a node, the root first
        A cell of value <= threshold goes to node `left`, another to the one after it. Leaves have feature -1, hold the cells
        rows[start:stop], and `answer` is their class, or -1 where there are several.
    """
    n_values, m = matrix.shape[1], len(rows)
    n_features = n_values + n_batches
    most_nodes = 2 * m - 1
    feature = np.full(most_nodes, -1, np.int32)
    threshold = np.zeros(most_nodes)
    left = np.zeros(most_nodes, np.int32)
    start, stop = np.zeros(most_nodes, np.int32), np.zeros(most_nodes, np.int32)
    answer = np.full(most_nodes, -1, np.int32)
    n_constant = np.zeros(most_nodes, np.int32)
    stop[0] = m
    n_nodes = 1
    stack = np.zeros(m + 1, np.int32)
    n_stacked = 1

    keys, spare = np.empty(m, np.uint64), np.empty(m, np.uint64)
    ends = np.empty(m + 2, np.int32)
    aside = np.empty(m, np.int64)
    # Weights of the classes in the node, and of those on one side; zero between uses.
    within, moved = np.zeros(n_classes), np.zeros(n_classes)
    features, constant = np.arange(n_features), np.zeros(n_features, np.int64)
    state = np.uint32(seed)
    total_weight = 0.0
    for row in rows:
        total_weight += np.float64(np.uint64(payload[row]) & WEIGHT_MASK)

    while n_stacked > 0:
        n_stacked -= 1
        node = stack[n_stacked]
        low, high = start[node], stop[node]
        here = rows[low:high]
        size = len(here)
        weight = squares = 0.0
        for row in here:
            own = np.uint64(payload[row])
            w, c = np.float64(own & WEIGHT_MASK), np.int64(own >> WEIGHT_SHIFT)
            squares += w * (2.0 * within[c] + w)
            within[c] += w
            weight += w
        impurity = 1.0 - squares / (weight * weight)
        if size < 2 or impurity <= _EPSILON:
            answer[node] = np.int64(np.uint64(payload[here[0]]) >> WEIGHT_SHIFT)
            within[answer[node]] = 0.0
            continue

        best_feature = -1
        best = (-np.inf, 0.0, 0.0, 0.0, 0.0, 0.0)
        # As in scikit-learn, `features` holds, one after another: constant ones drawn here, other
        # constant ones known from above, constant ones found here, ones not drawn, ones drawn.
        n_known = np.int64(n_constant[node])
        n_total = n_known
        n_known_drawn = n_found = n_visited = 0
        undrawn = n_features
        while undrawn > n_total and (
            n_visited < max_features or n_visited <= n_found + n_known_drawn
        ):
            n_visited += 1
            if state == 0:
                state = np.uint32(1)
            state ^= np.uint32(state << np.uint32(13))
            state ^= np.uint32(state >> np.uint32(17))
            state ^= np.uint32(state << np.uint32(5))
            n_left_to_draw = undrawn - n_found - n_known_drawn
            place = n_known_drawn + np.int64(state & np.uint32(0x7FFFFFFF)) % n_left_to_draw
            if place < n_known:
                other = features[n_known_drawn]
                features[n_known_drawn], features[place] = features[place], other
                n_known_drawn += 1
                continue
            place += n_found
            f = features[place]
            if f < n_values:
                lowest, highest = make_keys(here, matrix, f, payload, keys)
                is_constant = highest <= lowest + ONE_VALUE
            else:
                split = split_by_batch(
                    here, payload, batches, f - n_values, within, moved, weight, squares
                )
                is_constant = split[0] == -np.inf
            if is_constant:
                features[place], features[n_total] = features[n_total], features[place]
                n_found += 1
                n_total += 1
                continue
            undrawn -= 1
            features[undrawn], features[place] = features[place], features[undrawn]
            if f < n_values:
                sort_keys(keys, spare, ends, size, lowest, highest)
                split = split_by_value(spare, size, within, moved, weight, squares)
            if split[0] > best[0]:
                best, best_feature = split, f

        features[:n_known] = constant[:n_known]
        constant[n_known:n_total] = features[n_known:n_total]
        for row in here:
            within[np.int64(np.uint64(payload[row]) >> WEIGHT_SHIFT)] = 0.0
        if best_feature < 0:
            continue
        _, boundary, at, left_weight, left_squares, right_squares = best
        right_weight = weight - left_weight
        on_left = 1.0 - left_squares / (left_weight * left_weight)
        on_right = 1.0 - right_squares / (right_weight * right_weight)
        improvement = (weight / total_weight) * (
            impurity - (right_weight / weight * on_right) - (left_weight / weight * on_left)
        )
        if improvement + _EPSILON < 0.0:
            continue

        # Both sides keep their order, so that cells are read in the order they lie in memory.
        n_left = n_right = 0
        for i in range(size):
            row = here[i]
            if best_feature < n_values:
                goes_left = np.float64(matrix[row, best_feature]) < boundary
            else:
                goes_left = np.float64(batches[row]) != boundary
            if goes_left:
                here[n_left] = row
                n_left += 1
            else:
                aside[n_right] = row
                n_right += 1
        here[n_left:] = aside[:n_right]
        feature[node], threshold[node] = best_feature, at
        left[node] = n_nodes
        start[n_nodes], stop[n_nodes] = low, low + n_left
        start[n_nodes + 1], stop[n_nodes + 1] = low + n_left, high
        n_constant[n_nodes] = n_constant[n_nodes + 1] = n_total
        # The left side is next, as in scikit-learn: the generator goes on from node to node.
        stack[n_stacked], stack[n_stacked + 1] = n_nodes + 1, n_nodes
        n_stacked += 2
        n_nodes += 2
    return (
        feature[:n_nodes],
        threshold[:n_nodes],
        left[:n_nodes],
        start[:n_nodes],
        stop[:n_nodes],
        answer[:n_nodes],
    )


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def find_leaves(latent: Any, batches: Any, feature: Any, threshold: Any, left: Any) -> Any:
    """Return the leaf that each cell falls into, (n,) int32.

    Parameters
    ----------
    latent
        (n, d) float32.
    batches
        (n,) int32 batches, -1 where a tree cannot know it; or empty.
    feature, threshold, left
        Of the nodes, as `grow_tree` returns them.
    """
    n, n_values = latent.shape
    leaves = np.empty(n, np.int32)
    for i in range(n):
        node = 0
        while feature[node] >= 0:
            f = feature[node]
            if f < n_values:
                goes_left = latent[i, f] <= threshold[node]
            else:
                goes_left = batches[i] != f - n_values
            node = left[node] if goes_left else left[node] + 1
        leaves[i] = node
    return leaves

"""cuML's random forest, set up to be as near to scikit-learn's as it can be.

It is another forest: splits are sought among quantiles, and random numbers differ. So its accuracy is
compared over several seeds, never its trees or the label of one cell.
"""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.config import check_at_least
from medl_scale.errors import ConfigError
from medl_scale.evaluate.backend import choose_backend
from medl_scale.evaluate.blocks import row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Agreement", "compare_forests", "gpu_forest_proba"]

N_BINS = 1024
"""Quantiles of a feature among which splits are sought; cuML's 128 cost some 0.003 of accuracy."""
_BLOCK_VALUES = 1 << 27
_MOST_DIFFERENCE = 0.005
_DEVIATIONS, _LEAST_ALLOWANCE = 3.0, 0.002


class Agreement(NamedTuple):
    """How far the accuracies of two kinds of forest are apart."""

    difference: float
    """Mean of the second minus mean of the first."""
    most: float
    """What it may be in size."""

    @property
    def is_met(self) -> bool:
        """Whether they agree."""
        return abs(self.difference) <= self.most


def gpu_forest_proba(
    train: NDArray[np.floating],
    train_codes: NDArray[np.int32],
    test: NDArray[np.floating],
    n_classes: int,
    *,
    n_trees: int = 100,
    seed: int = 42,
    max_depth: int | None = None,
    share_drawn: float = 1.0,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield probabilities of the classes for the test cells, block by block.

    Parameters
    ----------
    train, test
        (n_train, d) and (n_test, d); computed in float32.
    train_codes
        (n_train,) classes from 0 to n_classes - 1; each occurs.
    n_classes
        Number of classes.
    n_trees, seed
        Of the forest.
    max_depth
        Depth at which trees stop growing; None: at pure leaves, as scikit-learn's do.
    share_drawn
        Cells drawn for each tree, with replacement, as a share of the train cells.

    Yields
    ------
    rows of the block, and (n_rows, n_classes) float64.

    Raises
    ------
    MissingExtraError
        If cuML is missing, or older than 26.08.
    ConfigError
        If no device answers, or a class has no train cell.

    Notes
    -----
    As published in all that cuML offers: bootstrap, Gini, sqrt(d) features a split. The forest and
    the train cells stay on the device; the same seed gives the same forest.
    """
    choose_backend("gpu", what="random forests", library="cuml")
    check_at_least("n_trees", n_trees, 1)
    found = np.unique(train_codes)
    if not np.array_equal(found, np.arange(n_classes)):
        raise ConfigError(
            f"train_codes must have every class from 0 to {n_classes - 1}; {len(found)} of "
            f"{n_classes} occur. Number the classes that train cells have."
        )
    from cuml.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=n_trees,
        random_state=seed,
        max_depth=max_depth,
        max_features="sqrt",
        max_samples=share_drawn,
        # More quantiles than cells, and cuML warns.
        n_bins=min(N_BINS, len(train)),
        output_type="numpy",
    )
    forest.fit(np.ascontiguousarray(train, np.float32), np.ascontiguousarray(train_codes, np.int32))
    # Few blocks: the forest is sent to the device for each.
    for rows in row_blocks(len(test), max(1, _BLOCK_VALUES // max(n_classes, test.shape[1]))):
        cells = np.ascontiguousarray(test[rows], np.float32)
        yield rows, np.asarray(forest.predict_proba(cells), np.float64)


def compare_forests(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """Compare accuracies of two kinds of forest over seeds, at least 2 of each.

    The means may differ by 0.005, but by no more than 0.002 and three times the pooled standard
    deviation over seeds.
    """
    for name, accuracies in (("first", first), ("second", second)):
        check_at_least(f"number of seeds in {name}", len(accuracies), 2)
    weights = len(first) - 1, len(second) - 1
    pooled = (weights[0] * stdev(first) ** 2 + weights[1] * stdev(second) ** 2) / sum(weights)
    allowance = _DEVIATIONS * pooled**0.5 + _LEAST_ALLOWANCE
    return Agreement(fmean(second) - fmean(first), min(_MOST_DIFFERENCE, allowance))

"""Batches that are near lie together, and strata are what they fall into."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from medl_scale.errors import (
    ConfigError,
    DataError,
    ScoreUndefinedError,
)
from medl_scale.interpret.dendrogram import dendrogram


def clumps(sizes: list[int]) -> pd.DataFrame:
    """Distances of points in clumps far from each other, shuffled."""
    rng = np.random.default_rng(5)
    centres = np.repeat(np.arange(len(sizes)) * 10.0, sizes)
    points = rng.permutation(centres + rng.normal(size=centres.size))
    names = [f"d{i:02d} of {round(p / 10)}" for i, p in enumerate(points)]
    return pd.DataFrame(np.abs(points[:, None] - points), names, names)


def test_strata_are_the_clumps_and_lie_together_in_the_order_of_leaves():
    tree = dendrogram(clumps([4, 3, 5]))
    strata = tree.strata()
    clump = strata.index.str.split(" of ").str[1]
    assert strata.groupby(clump).nunique().tolist() == [1, 1, 1]
    assert strata.nunique() == 3
    assert strata[list(tree.order)].is_monotonic_increasing
    expected = silhouette_score(tree.distances, strata, metric="precomputed")
    assert strata.attrs["silhouette"] == pytest.approx(expected)
    four = tree.strata(4)
    assert four.nunique() == 4
    expected = silhouette_score(tree.distances, four, metric="precomputed")
    assert four.attrs["silhouette"] == pytest.approx(expected)
    assert np.isnan(tree.strata(1).attrs["silhouette"])


def test_two_batches_make_a_tree_and_one_does_not():
    pair = dendrogram(clumps([1, 1]))
    assert sorted(pair.strata()) == [1, 2]
    with pytest.raises(ConfigError, match="n_strata must be 1 to 2, the number of batches; got 3"):
        pair.strata(3)
    with pytest.raises(ScoreUndefinedError, match="two batches or more; got 1"):
        dendrogram(clumps([1]))
    with pytest.raises(DataError, match="symmetric matrix of finite numbers; got shape"):
        dendrogram(clumps([2, 2]) + np.triu(np.ones((4, 4)), 1))

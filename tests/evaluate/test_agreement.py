"""ARI, NMI and k-means against scikit-learn, and against integers of any size."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from medl_scale.errors import ConfigError, DataError, ScoreUndefinedError
from medl_scale.evaluate.agreement import (
    Contingency,
    _ari,
    _nmi,
    ari,
    ari_kmeans,
    cluster_by_kmeans,
    cross,
    nmi,
    nmi_kmeans,
)

partitions = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=60)


@given(partitions)
@settings(deadline=None)
def test_figures_equal_scikit_learn(pairs):
    labels, clusters = np.array(pairs).T
    assert float(ari(labels, clusters)) == pytest.approx(
        adjusted_rand_score(labels, clusters), abs=1e-12
    )
    for average in ("arithmetic", "max"):
        score = nmi(labels, clusters, average)
        expected = normalized_mutual_info_score(labels, clusters, average_method=average)
        assert float(score) == pytest.approx(expected, abs=1e-12)
        assert (score.kind, score.n) == ("exact", len(pairs))
        assert score.error < 1e-11


@given(partitions)
@settings(deadline=None)
def test_neither_order_nor_names_nor_the_side_matter(pairs):
    labels, clusters = np.array(pairs).T
    names = pd.Categorical(np.array(["e", "d", "c", "b", "a"])[labels], categories=list("xabcde"))
    assert float(ari(names, clusters)) == float(ari(labels, clusters))
    assert float(ari(clusters[::-1], labels[::-1])) == float(ari(labels, clusters))
    there, back = nmi(names[::-1], clusters[::-1]), nmi(clusters, labels)
    assert float(there) == pytest.approx(float(back), abs=1e-13)


@pytest.mark.parametrize(
    ("labels", "clusters", "expected"),
    [
        ([0, 0, 0], [5, 5, 5], 1.0),
        ([0, 1, 2], [2, 0, 1], 1.0),
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0),
        ([0, 0, 0, 0], [0, 1, 2, 3], 0.0),
        ([0], [3], 1.0),
    ],
)
def test_partitions_that_agree_or_say_nothing(labels, clusters, expected):
    assert float(ari(labels, clusters)) == expected
    assert float(nmi(labels, clusters)) == pytest.approx(expected, abs=1e-13)
    assert normalized_mutual_info_score(labels, clusters) == pytest.approx(expected)


@given(partitions, st.integers(1, 59))
@settings(deadline=None)
def test_contingencies_of_disjoint_cells_add_up(pairs, cut):
    labels, clusters = np.array(pairs).T
    # Codes of all, so that the parts speak of the same levels.
    whole = cross(labels, clusters)
    _, labels = np.unique(labels, return_inverse=True)
    _, clusters = np.unique(clusters, return_inverse=True)
    keys = (labels.astype(np.int64) << 32) | clusters
    parts = [
        Contingency(*(a.astype(np.int64) for a in np.unique(part, return_counts=True)))
        for part in (keys[:cut], keys[cut:])
    ]
    merged = parts[1].merge(parts[0])
    np.testing.assert_array_equal(merged.pairs, whole.pairs)
    np.testing.assert_array_equal(merged.counts, whole.counts)


@pytest.mark.parametrize("size", [10**3, 10**8, 4 * 10**9])
def test_pair_counts_stay_exact_where_int64_overflows(size):
    rng = np.random.default_rng(0)
    labels, clusters = np.divmod(np.arange(30), 6)
    counts = rng.integers(1, size, 30)
    table = Contingency((labels.astype(np.int64) << 32) | clusters, counts)
    grid = [[int(counts[6 * i + j]) for j in range(6)] for i in range(5)]
    n = sum(map(sum, grid))
    index = sum(math.comb(x, 2) for row in grid for x in row)
    rows = sum(math.comb(sum(row), 2) for row in grid)
    columns = sum(math.comb(sum(column), 2) for column in zip(*grid, strict=True))
    chance = Fraction(rows * columns, math.comb(n, 2))
    expected = (index - chance) / (Fraction(rows + columns, 2) - chance)
    value, error, cells = _ari(table)
    assert cells == n
    assert abs(Fraction(value) - expected) <= Fraction(error) * max(abs(expected), 1)
    shares = counts / n
    entropies = [-sum(p * math.log(p) for p in shares.reshape(5, 6).sum(axis=a)) for a in (0, 1)]
    product = np.outer(shares.reshape(5, 6).sum(axis=1), shares.reshape(5, 6).sum(axis=0))
    shared = float(np.sum(shares * np.log(shares / product.ravel())))
    assert _nmi(table, "max")[0] == pytest.approx(shared / max(entropies), abs=1e-12)


def test_as_many_levels_as_cells_need_no_table_of_all_pairs():
    n = 200_000
    labels = np.random.default_rng(1).permutation(n)
    assert float(ari(labels, np.arange(n))) == 1.0
    assert float(nmi(labels, np.arange(n))) == pytest.approx(1.0, abs=1e-12)


def backwards(function, shared, items):
    yield from reversed([function(shared, item) for item in reversed(items)])


def test_figures_do_not_depend_on_who_counts():
    rng = np.random.default_rng(2)
    labels, clusters = rng.integers(0, 9, (2, 2_200_000))
    for metric in (ari, nmi):
        here, there = metric(labels, clusters), metric(labels, clusters, map_blocks=backwards)
        assert here.value == there.value
    assert float(ari(labels, clusters)) == pytest.approx(adjusted_rand_score(labels, clusters))


def blobs(n=900):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, n)
    return (8 * rng.normal(size=(4, 3))[labels] + rng.normal(size=(n, 3)) + 1e4).astype(
        "f4"
    ), labels


def test_kmeans_finds_clear_blobs_and_names_its_clusters_and_seed():
    latent, labels = blobs()
    found = ari_kmeans(latent, labels, seed=5)
    assert float(found) > 0.95
    assert found.method == "k-means, 4 clusters, seed 5"
    average = nmi_kmeans(latent, labels, "max", seed=5)
    assert average.method == "k-means, 4 clusters, seed 5, max mean of entropies"
    clusters = cluster_by_kmeans(latent, 4, seed=5)
    assert float(found) == adjusted_rand_score(labels, clusters)
    assert float(average) == pytest.approx(
        normalized_mutual_info_score(labels, clusters, average_method="max"), abs=1e-12
    )
    np.testing.assert_array_equal(clusters, cluster_by_kmeans(latent, 4, seed=5))


def test_kmeans_is_as_good_as_scikit_learn_s_own():
    latent = np.random.default_rng(4).normal(size=(600, 2))

    def spread(clusters):
        return sum(
            np.sum((latent[clusters == c] - latent[clusters == c].mean(axis=0)) ** 2)
            for c in np.unique(clusters)
        )

    own = spread(cluster_by_kmeans(latent, 5, seed=0))
    theirs = KMeans(5, n_init=1, random_state=0).fit(latent).inertia_
    assert own == pytest.approx(theirs, rel=0.1)


def test_kmeans_takes_any_scale_and_fewer_places_than_clusters_in_silence():
    latent, labels = blobs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale in (1e-25, 1e25):
            assert float(ari_kmeans(latent * np.float32(scale), labels)) > 0.95
        assert float(ari_kmeans(np.zeros((12, 2)), np.arange(12) // 4)) == 0.0


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: ari([0, 1], [0]),
            DataError,
            "clusters must name every cell: 2 cells, but 1 labels",
        ),
        (lambda: ari([], []), DataError, "must name at least one cell"),
        (lambda: nmi([0, None], [0, 1]), DataError, "labels is missing or not finite for 1 of 2"),
        (lambda: nmi([0, 1], [0, 1], "mean"), ConfigError, "'arithmetic', 'max'; got 'mean'"),
        (lambda: cluster_by_kmeans(np.zeros((3, 1)), 4), DataError, "from 1 to .* 3; got 4"),
        (lambda: ari_kmeans(np.zeros((3, 1)), [1, 1, 1]), ScoreUndefinedError, "between 2 and 2"),
        (lambda: nmi_kmeans(np.zeros((3, 1)), [0, 1, 2]), ScoreUndefinedError, "it has 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()

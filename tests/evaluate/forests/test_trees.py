"""Trees, votes and sums against scikit-learn's forest, array by array and bit by bit."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from medl_scale.errors import ConfigError
from medl_scale.evaluate.forests import features as features_module
from medl_scale.evaluate.forests.features import Features, know_batches
from medl_scale.evaluate.forests.trees import (
    ForestTask,
    available_threads,
    forest_probabilities,
    forest_seconds,
    grow_trees,
    tree_seeds,
)

TREE_ARRAYS = ("children_left", "children_right", "feature", "threshold", "value", "impurity",
               "weighted_n_node_samples")  # fmt: skip


def cells(n, d, n_classes, *, seed=0, decimals=None, spread=1.5):
    rng = np.random.default_rng(seed)
    codes = np.append(np.arange(n_classes), rng.integers(0, n_classes, n - n_classes))
    latent = rng.normal(size=(n_classes, d))[codes] + spread * rng.normal(size=(n, d))
    if decimals is not None:
        latent = latent.round(decimals)
    return latent.astype(np.float32), codes.astype(np.int32)


def task_of(train, codes, test, **options):
    defaults = {"n_classes": int(codes.max()) + 1, "n_draws": len(codes)}
    return ForestTask(train=train, codes=codes, test=test, **(defaults | options))


def probabilities(task, **options):
    return np.concatenate([shares for _, shares in forest_probabilities(task, **options)])


def one_tree(train, codes, seed, weights):
    return DecisionTreeClassifier(max_features="sqrt", random_state=seed).fit(
        train, codes, sample_weight=weights
    )


def bootstrap(seed, n):
    return np.bincount(np.random.RandomState(seed).randint(0, n, n), minlength=n)


def test_seeds_and_bootstraps_make_the_trees_of_scikit_learns_forest():
    latent, codes = cells(400, 7, 5)
    forest = RandomForestClassifier(12, random_state=42).fit(latent, codes)
    seeds = tree_seeds(12, 42)
    assert seeds == [tree.random_state for tree in forest.estimators_]
    for seed, theirs in zip(seeds, forest.estimators_, strict=True):
        ours = one_tree(latent, codes, seed, bootstrap(seed, 400))
        for name in TREE_ARRAYS:
            np.testing.assert_array_equal(getattr(ours.tree_, name), getattr(theirs.tree_, name))


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["pure", "some mixed", "mostly mixed"])
@pytest.mark.parametrize("n_classes", [2, 21, 300], ids=lambda k: f"{k} classes")
def test_probabilities_are_those_of_one_process_bit_for_bit(n_classes, decimals):
    latent, codes = cells(900, 3, n_classes, decimals=decimals)
    test, _ = cells(300, 3, 2, seed=1, decimals=decimals)
    forest = RandomForestClassifier(30, random_state=42).fit(latent, codes)
    task = task_of(Features(latent=latent), codes, Features(latent=test))
    np.testing.assert_array_equal(probabilities(task, n_trees=30), forest.predict_proba(test))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_small_forest_equals_scikit_learns(data):
    n = data.draw(st.integers(2, 40))
    n_classes = data.draw(st.integers(1, min(n, 4)))
    d, decimals = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([None, 0]))
    n_draws = data.draw(st.integers(1, n))
    latent, codes = cells(n, d, n_classes, seed=data.draw(st.integers(0, 99)), decimals=decimals)
    task = task_of(Features(latent=latent), codes, Features(latent=latent), n_draws=n_draws)
    forest = RandomForestClassifier(7, random_state=3, max_samples=n_draws).fit(latent, codes)
    np.testing.assert_array_equal(
        probabilities(task, n_trees=7, seed=3), forest.predict_proba(latent)
    )


@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_and_workers_change_no_bit(n_threads):
    latent, codes = cells(600, 4, 6, decimals=1)
    options = {"codes": codes, "test": Features(latent=latent[::2])}
    one = task_of(Features(latent=latent), **options)
    several = task_of(Features(latent=latent), n_threads=n_threads, **options)

    def map_elsewhere(function, shared, items):
        """The last item first, all of it through pickle, as on workers."""
        call = pickle.dumps((function, shared))
        found = {}
        for position in reversed(range(len(items))):
            there, what = pickle.loads(call)
            found[position] = pickle.loads(pickle.dumps(there(what, items[position])))
        return (found[position] for position in range(len(items)))

    expected = probabilities(one, n_trees=23)
    size = len(pickle.dumps(several))
    np.testing.assert_array_equal(probabilities(several, n_trees=23), expected)
    assert len(pickle.dumps(several)) == size
    np.testing.assert_array_equal(
        probabilities(several, n_trees=23, map_blocks=map_elsewhere), expected
    )


def test_blocks_of_the_sum_change_no_bit(monkeypatch):
    latent, codes = cells(300, 4, 6, decimals=0)
    task = task_of(Features(latent=latent), codes, Features(latent=latent))
    whole = probabilities(task, n_trees=5)
    monkeypatch.setattr("medl_scale.evaluate.forests.trees._BLOCK_VALUES", 60)
    blocks = list(forest_probabilities(task, n_trees=5))
    assert [rows.stop - rows.start for rows, _ in blocks] == [10] * 30
    np.testing.assert_array_equal(np.concatenate([shares for _, shares in blocks]), whole)


def test_votes_are_a_byte_a_cell_where_leaves_are_pure():
    latent, codes = cells(500, 4, 20)
    task = task_of(Features(latent=latent), codes, Features(latent=latent))
    (votes,) = grow_trees(task, [1])
    assert votes.answers.dtype == np.uint8
    assert votes.mixed.shape == (0, 20)


def donors(n, n_batches, n_classes, seed=0):
    """Cells whose class depends on their batch."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(n_classes, 0.5), n_batches)
    batches = rng.integers(0, n_batches, n)
    codes = np.array([rng.choice(n_classes, p=share[batch]) for batch in batches])
    codes[:n_classes] = np.arange(n_classes)
    return batches, codes.astype(np.int32)


def test_a_forest_of_one_hot_batches_is_grown_from_a_few_rows_and_is_the_same():
    batches, codes = donors(2000, 12, 5)
    # Batches 12 and 13 have no train cell.
    asked = np.arange(14)
    train, test = know_batches(batches, asked)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    told = encoder.fit_transform(batches[:, None])
    forest = RandomForestClassifier(40, random_state=42).fit(told, codes)
    expected = forest.predict_proba(encoder.transform(asked[:, None]))
    found = probabilities(task_of(train, codes, test), n_trees=40)
    np.testing.assert_array_equal(found, expected)


def test_a_tree_of_few_rows_has_the_same_arrays():
    batches, codes = donors(1500, 9, 4, seed=2)
    weights = bootstrap(5, 1500)
    pairs, row_of_cell = np.unique(batches * 4 + codes, return_inverse=True)
    few = one_tree(
        np.eye(9, dtype=np.float32)[pairs // 4], pairs % 4, 5, np.bincount(row_of_cell, weights)
    )
    every = one_tree(np.eye(9, dtype=np.float32)[batches], codes, 5, weights)
    for name in TREE_ARRAYS:
        np.testing.assert_array_equal(getattr(few.tree_, name), getattr(every.tree_, name))


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_a_latent_with_one_hot_batches_is_the_wide_matrix(is_sparse, monkeypatch):
    latent, codes = cells(800, 3, 4)
    latent[::7] = 0.0
    batches, _ = donors(800, 6, 4)
    seen, asked = batches[:600] % 5, batches[600:]  # batch 5 is new
    train, test = know_batches(seen, asked)
    train = Features(latent=latent[:600], batch_codes=train.batch_codes, n_batches=5)
    test = Features(latent=latent[600:], batch_codes=test.batch_codes, n_batches=5)
    if is_sparse:
        monkeypatch.setattr(features_module, "_MOST_DENSE_BYTES", 0)
    assert sp.issparse(train.matrix()) is is_sparse
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    wide = np.hstack([latent[:600], encoder.fit_transform(seen[:, None])])
    there = np.hstack([latent[600:], encoder.transform(asked[:, None])])
    forest = RandomForestClassifier(20, random_state=42).fit(wide, codes[:600])
    found = probabilities(task_of(train, codes[:600], test), n_trees=20)
    np.testing.assert_array_equal(found, forest.predict_proba(there))


def test_standardised_one_hot_columns_would_change_nothing():
    latent, codes = cells(700, 3, 4)
    batches, _ = donors(700, 8, 4)
    batch, _ = know_batches(batches, batches)
    own = Features(latent=latent, batch_codes=batch.batch_codes, n_batches=8)
    one_hot = np.eye(8, dtype=np.float32)[batches]
    scaled = (one_hot - one_hot.mean(axis=0)) / one_hot.std(axis=0)
    wide = np.hstack([latent, scaled]).astype(np.float32)
    forest = RandomForestClassifier(20, random_state=42).fit(wide, codes)
    found = probabilities(task_of(own, codes, own), n_trees=20)
    np.testing.assert_array_equal(found, forest.predict_proba(wide))


@pytest.mark.parametrize("n_draws", [0, 21])
def test_a_tree_draws_between_one_and_all_cells(n_draws):
    latent, codes = cells(20, 2, 2)
    with pytest.raises(ConfigError, match=f"between 1 and the 20 train cells; got {n_draws}"):
        task_of(Features(latent=latent), codes, Features(latent=latent), n_draws=n_draws)


def test_no_tree_is_an_error():
    latent, codes = cells(20, 2, 2)
    task = task_of(Features(latent=latent), codes, Features(latent=latent))
    with pytest.raises(ConfigError, match="n_trees must be at least 1; got 0"):
        next(forest_probabilities(task, n_trees=0))


def test_the_estimate_of_seconds_grows_with_what_costs():
    assert forest_seconds(200_000, 50, 20) > 2 * forest_seconds(100_000, 50, 20)
    assert forest_seconds(100_000, 50, 20) > forest_seconds(100_000, 4, 20)
    assert forest_seconds(100_000, 50, 147) > forest_seconds(100_000, 50, 20)
    half = forest_seconds(100_000, 50, 20) / 2
    assert forest_seconds(100_000, 50, 20, n_trees=50) == pytest.approx(half)
    assert forest_seconds(1, 1, 1) > 0
    assert available_threads() >= 1

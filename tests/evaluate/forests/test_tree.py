"""Our own trees against scikit-learn's, split by split, and the sort that they stand on."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from medl_scale.evaluate.forests import tree as tree_module
from medl_scale.evaluate.forests.features import Features
from medl_scale.evaluate.forests.tree import (
    KernelGrower,
    ScikitLearnGrower,
    grower_for,
    kernels_agree,
)
from medl_scale.evaluate.forests.tree_kernels import grow_tree
from medl_scale.evaluate.forests.tree_keys import WEIGHT_BITS, make_keys, sort_keys, value_of


@pytest.fixture(autouse=True)
def forget_agreement():
    """What one test made of the comparison is nothing to the next."""
    kernels_agree.cache_clear()
    yield
    kernels_agree.cache_clear()


def cells(n, d, n_classes, *, seed=0, decimals=None, n_batches=0):
    rng = np.random.default_rng(seed)
    codes = np.append(np.arange(n_classes), rng.integers(0, n_classes, n - n_classes))
    latent = rng.normal(size=(n_classes, d))[codes] + 1.5 * rng.normal(size=(n, d))
    if decimals is not None:
        latent = latent.round(decimals)
    batches = rng.integers(0, n_batches, n).astype(np.int32) if n_batches else None
    features = Features(latent=latent.astype(np.float32), batch_codes=batches, n_batches=n_batches)
    return features, codes.astype(np.int32)


def draws(n, seed):
    return np.bincount(np.random.RandomState(seed).randint(0, n, n), minlength=n)


def check_same_tree(features, codes, n_classes, seed):
    """Walk both trees from the root: equal features and thresholds, bit for bit."""
    n = len(codes)
    weights = draws(n, seed)
    grower = KernelGrower.of(features, codes, features, n_classes)
    payload = (codes.astype(np.uint32) << np.uint32(WEIGHT_BITS)) | weights.astype(np.uint32)
    rows = np.flatnonzero(weights)
    state = np.random.RandomState(seed).randint(0, np.iinfo(np.int32).max)
    feature, threshold, left, start, stop, answer = grow_tree(
        grower.latent,
        grower.batches,
        features.n_batches,
        payload,
        rows,
        n_classes,
        max(1, int(np.sqrt(features.n_features))),
        np.uint32(state),
    )
    theirs = (
        DecisionTreeClassifier(max_features="sqrt", random_state=seed)
        .fit(features.matrix(), codes, sample_weight=weights)
        .tree_
    )
    assert len(feature) == theirs.node_count
    pairs = [(0, 0)]
    while pairs:
        own, other = pairs.pop()
        if theirs.children_left[other] < 0:
            assert feature[own] == -1
            inside = rows[start[own] : stop[own]]
            assert len(inside) == theirs.n_node_samples[other]
            classes = np.unique(codes[inside])
            assert answer[own] == (classes[0] if len(classes) == 1 else -1)
            continue
        assert feature[own] == theirs.feature[other]
        assert threshold[own] == theirs.threshold[other]
        pairs.append((left[own], theirs.children_left[other]))
        pairs.append((left[own] + 1, theirs.children_right[other]))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_small_tree_is_scikit_learns(data):
    n = data.draw(st.integers(2, 80))
    n_classes = data.draw(st.integers(1, min(n, 6)))
    features, codes = cells(
        n,
        data.draw(st.integers(1, 7)),
        n_classes,
        seed=data.draw(st.integers(0, 500)),
        decimals=data.draw(st.sampled_from([None, 1, 0])),
        n_batches=data.draw(st.sampled_from([0, 0, 2, 9])),
    )
    check_same_tree(features, codes, max(2, n_classes), data.draw(st.integers(0, 2**31 - 2)))


@pytest.mark.parametrize(
    ("n", "d", "n_classes", "options"),
    [
        (6000, 50, 147, {}),
        (6000, 2, 3, {}),
        (5000, 6, 13, {"decimals": 1}),
        (3000, 4, 5, {"n_batches": 60}),
    ],
    ids=["many classes", "plane", "ties", "batches"],
)
def test_a_larger_tree_is_scikit_learns(n, d, n_classes, options):
    features, codes = cells(n, d, n_classes, **options)
    check_same_tree(features, codes, n_classes, 42)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: np.where(x > 2, x * 1e30, x),
        lambda x: np.exp(8 * x),
        lambda x: x * np.float32(1e-8),
        lambda x: x * np.float32(3e-6),
        lambda x: np.where(x > 0, np.float32(0.0), np.float32(-0.0)),
        lambda x: np.column_stack([np.zeros(len(x)), x[:, 1:]]),
        lambda x: np.repeat(x[::10], 10, axis=0),
        lambda x: np.sign(x) * 1e34,
    ],
    ids=[
        "outliers",
        "heavy tail",
        "one value",
        "near ties",
        "zeros",
        "one constant",
        "duplicates",
        "huge",
    ],
)
def test_odd_values_make_the_same_trees(spoil):
    features, codes = cells(700, 4, 5)
    odd = Features(latent=spoil(features.latent).astype(np.float32))
    for seed in range(3):
        check_same_tree(odd, codes, 5, seed)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_keys_are_sorted_however_their_values_lie(data):
    n = data.draw(st.integers(1, 400))
    kind = data.draw(st.sampled_from(["even", "crowded", "powers", "ties", "both signs"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    values = {
        "even": rng.random(n),
        # All but a few in the first bucket.
        "crowded": np.append(rng.random(n - 1), 1e30),
        "powers": 2.0 ** rng.integers(-140, 120, n),
        "ties": rng.integers(0, 3, n) - 1.0,
        "both signs": rng.normal(size=n),
    }[kind].astype(np.float32)[:, None]
    payload = rng.integers(0, 2**32, n, dtype=np.uint32)
    keys, spare = np.empty(n, np.uint64), np.empty(n, np.uint64)
    rows = np.arange(n)
    lowest, highest = make_keys(rows, values, 0, payload, keys)
    assert (lowest, highest) == (values.min(), values.max())
    assert [value_of(key) for key in keys] == values[:, 0].tolist()
    if lowest == highest:
        return
    sort_keys(keys, spare, np.empty(n + 2, np.int32), n, lowest, highest)
    np.testing.assert_array_equal(spare, np.sort(keys))
    order = np.lexsort((payload, values[:, 0]))
    np.testing.assert_array_equal((spare & np.uint64(0xFFFFFFFF)), payload[order])


@pytest.mark.parametrize("n_batches", [0, 5])
def test_both_growers_give_the_same_votes(n_batches):
    features, codes = cells(900, 3, 6, decimals=0, n_batches=n_batches)
    growers = [kind.of(features, codes, features, 6) for kind in (KernelGrower, ScikitLearnGrower)]
    n_mixed = 0
    for seed in range(5):
        ours, theirs = (grower.votes(draws(900, seed), seed) for grower in growers)
        assert ours.answers.dtype == theirs.answers.dtype
        own, other = (_spread(votes, 6) for votes in (ours, theirs))
        np.testing.assert_array_equal(own, other)
        n_mixed += ours.mixed.shape[0]
    assert n_mixed > 0


def _spread(votes, n_classes):
    """Probabilities of every cell, (n, n_classes)."""
    each = np.vstack([np.eye(n_classes), votes.mixed.toarray()])
    return each[votes.answers]


def test_here_our_own_loops_grow_the_trees():
    features, codes = cells(50, 3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(grower_for(features, codes, features, 2), KernelGrower)


def test_another_scikit_learn_grows_its_own_trees_and_is_told(monkeypatch):
    # Stands for a version whose trees differ.
    monkeypatch.setattr("sklearn.tree.DecisionTreeClassifier", ExtraTreeClassifier)
    features, codes = cells(50, 3, 2)
    with pytest.warns(UserWarning, match="grows other trees here than medl-scale does.*Install"):
        assert isinstance(grower_for(features, codes, features, 2), ScikitLearnGrower)


def test_more_classes_than_a_payload_holds_are_left_to_scikit_learn(monkeypatch):
    monkeypatch.setattr(tree_module, "_MOST_CLASSES", 3)
    features, codes = cells(50, 3, 4)
    assert isinstance(grower_for(features, codes, features, 4), ScikitLearnGrower)


def test_batches_alone_are_no_work_for_our_own_loops():
    batches = Features(batch_codes=np.zeros(4, np.int32), n_batches=1)
    with pytest.raises(TypeError, match="needs latents"):
        KernelGrower.of(batches, np.zeros(4, np.int32), batches, 1)

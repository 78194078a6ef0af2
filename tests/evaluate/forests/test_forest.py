"""The published protocol against scikit-learn's own pipeline, and figures worked out by hand."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medl_scale.errors import ConfigError, DataError, MissingExtraError, ScoreUndefinedError
from medl_scale.evaluate.backend import gpu_problem
from medl_scale.evaluate.forests.features import latent_features
from medl_scale.evaluate.forests.forest import ForestSettings, forest_accuracy
from medl_scale.evaluate.forests.tally import stratified_guesses, tally

FEW = ForestSettings(n_trees=10)
NAMES = np.array(["B cell", "Mono", "NK", "T cell"])


def labelled(n, d=5, *, seed=0, dtype=np.float32, offset=0.0, names=NAMES):
    rng = np.random.default_rng(seed)
    codes = rng.choice(len(names), n, p=[0.4, 0.3, 0.2, 0.1])
    centres = np.random.default_rng(9).normal(size=(len(names), d))
    return (centres[codes] + 1.2 * rng.normal(size=(n, d)) + offset).astype(dtype), names[codes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_figures_are_those_of_the_published_pipeline(dtype, offset):
    train, labels = labelled(600, dtype=dtype, offset=offset)
    test, truth = labelled(300, seed=1, dtype=dtype, offset=offset)
    published = make_pipeline(
        StandardScaler(), RandomForestClassifier(n_estimators=100, random_state=42)
    )
    said = published.fit(train, labels).predict(test)
    dummy = DummyClassifier(strategy="stratified", random_state=42).fit(train, labels)
    result = forest_accuracy(train, labels, test, truth)
    np.testing.assert_array_equal(result.levels[result.predictions], said)
    np.testing.assert_array_equal(result.confusion, confusion_matrix(truth, said))
    assert result.accuracy == accuracy_score(truth, said)
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, said))
    guessed = dummy.predict(test)
    assert result.chance == accuracy_score(truth, guessed)
    assert result.balanced_chance == pytest.approx(balanced_accuracy_score(truth, guessed))
    largest = pd.Series(labels).mode()[0]
    assert result.majority == np.mean(truth == largest)
    assert result.balanced_majority == 0.25
    np.testing.assert_array_equal(result.is_right, truth == said)
    np.testing.assert_array_equal(result.majority_is_right, truth == largest)
    assert result.n_train == (600,)
    assert result.n_test == 300
    assert result.method == "random forest of 100 trees, seed 42, 600 train cells"
    assert (result.absent, result.n_absent) == ((), 0)


def test_scores_carry_the_papers_names_and_say_how():
    result = forest_accuracy(*labelled(300), *labelled(200, seed=1), settings=FEW)
    scores = result.scores()
    assert {name: score.value for name, score in scores.items()} == {
        "RFAccuracy": result.accuracy,
        "RFBalancedAccuracy": result.balanced_accuracy,
        "ChanceAccuracy": result.chance,
        "MajorityAccuracy": result.majority,
    }
    for score in scores.values():
        assert (score.kind, score.n) == ("exact", 200)
        assert score.error <= 1e-15
        assert score.seconds > 0
    assert scores["RFAccuracy"].method == "random forest of 10 trees, seed 42, 300 train cells"
    assert scores["ChanceAccuracy"].method == "classes drawn by their frequency in train"


@pytest.mark.parametrize(
    "labels",
    [
        lambda names: pd.Categorical(names, categories=[*NAMES[::-1], "unused"]),
        lambda names: pd.Series(names, dtype="category"),
        lambda names: names.astype(object),
        lambda names: np.searchsorted(NAMES, names),
    ],
    ids=["Categorical", "Series", "objects", "numbers"],
)
def test_labels_of_any_kind_give_the_same_figures(labels):
    train, names = labelled(300)
    test, truth = labelled(100, seed=1)
    expected = forest_accuracy(train, names, test, truth, settings=FEW)
    found = forest_accuracy(train, labels(names), test, labels(truth), settings=FEW)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert len(found.levels) == 4


def test_classes_that_train_lacks_count_as_errors_and_are_told():
    train, labels = labelled(400)
    test, truth = labelled(200, seed=1)
    kept = labels != "NK"
    result = forest_accuracy(train[kept], labels[kept], test, truth, settings=FEW)
    assert result.absent == ("NK",)
    assert result.n_absent == np.sum(truth == "NK")
    assert not result.is_right[truth == "NK"].any()
    assert result.confusion[:, 2].sum() == 0
    assert result.confusion[2].sum() == result.n_absent
    said = result.levels[result.predictions]
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, said))


def test_a_class_that_test_lacks_does_not_enter_the_balanced_accuracy():
    train, labels = labelled(400)
    test, truth = labelled(200, seed=1)
    kept = truth != "Mono"
    result = forest_accuracy(train, labels, test[kept], truth[kept], settings=FEW)
    each = [result.is_right[truth[kept] == name].mean() for name in ("B cell", "NK", "T cell")]
    assert result.balanced_accuracy == pytest.approx(np.mean(each))


def test_one_class_in_train_is_always_named():
    train, _ = labelled(50)
    test, truth = labelled(60, seed=1)
    result = forest_accuracy(train, ["Mono"] * 50, test, truth, settings=FEW)
    assert result.accuracy == result.majority == result.chance == np.mean(truth == "Mono")


def test_fewer_draws_are_those_of_scikit_learn_and_are_told():
    train, labels = labelled(500)
    test, truth = labelled(200, seed=1)
    settings = ForestSettings(n_trees=20, max_samples=100, standardise=False)
    forest = RandomForestClassifier(20, random_state=42, max_samples=100).fit(train, labels)
    result = forest_accuracy(train, labels, test, truth, settings=settings)
    np.testing.assert_array_equal(result.levels[result.predictions], forest.predict(test))
    assert result.method == (
        "random forest of 20 trees, seed 42, latent not standardised, "
        "each tree on 100 draws from 500 train cells"
    )


@given(st.lists(st.integers(0, 30), min_size=2, max_size=9).filter(any), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_chance_is_scikit_learns_stratified_dummy(counts, n):
    labels = np.repeat(np.arange(len(counts)), counts)
    dummy = DummyClassifier(strategy="stratified", random_state=7).fit(labels[:, None], labels)
    expected = dummy.predict(np.zeros((n, 1)))
    np.testing.assert_array_equal(stratified_guesses(np.array(counts), n, seed=7), expected)


def test_chance_is_the_same_in_blocks(monkeypatch):
    counts = np.array([5, 0, 3, 9])
    whole = stratified_guesses(counts, 1000, seed=42)
    monkeypatch.setattr("medl_scale.evaluate.forests.tally._BLOCK_VALUES", 30)
    np.testing.assert_array_equal(stratified_guesses(counts, 1000, seed=42), whole)


def test_a_tally_of_two_forests_takes_chance_and_majority_from_each_ones_train_cells():
    truth = np.array([0, 1, 1, 2], np.int32)
    parts = [
        (np.array([0, 0, 1], np.int32), np.array([0, 2])),
        (np.array([1, 1, 1], np.int32), np.array([1, 3])),
    ]
    result = tally(
        np.array(["a", "b", "c"]),
        truth,
        np.array([0, 1, 0, 1], np.int32),
        parts,
        method="two forests",
        seed=0,
        started=0.0,
    )
    assert result.majority_is_right.tolist() == [True, True, False, False]
    assert result.majority == result.accuracy == 0.5
    assert result.balanced_accuracy == pytest.approx((1 + 0.5 + 0) / 3)
    assert (result.absent, result.n_absent) == (("c",), 1)
    assert result.n_train == (3, 3)


LATENT, LABELS = labelled(30)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((LATENT, LABELS, LATENT[:, :3], LABELS), DataError,
         "train and test must have the same latent dimensions; they have 5 and 3"),
        ((LATENT, LABELS[:-1], LATENT, LABELS), DataError,
         "train_labels must name every cell: 30 cells, but 29 labels"),
        ((LATENT, LABELS, LATENT, [None, *LABELS[1:]]), DataError,
         "test_labels is missing or not finite for 1 of 30 cells"),
        ((np.full_like(LATENT, np.nan), LABELS, LATENT, LABELS), DataError,
         "train has NaN in 30 cells"),
        ((LATENT, ["x"] * 30, LATENT, ["x"] * 30), ScoreUndefinedError,
         "labels must have between 2 and 59 different values"),
        ((LATENT.astype(float) * 1e200, LABELS, LATENT, LABELS), DataError,
         "30 of 30 cells have larger ones. Divide the latent"),
    ],
)  # fmt: skip
def test_bad_input_is_told(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        forest_accuracy(*arguments, settings=FEW)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_trees": 0}, "n_trees must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"max_samples": 0}, "max_samples must be at least 1; got 0"),
        ({"n_threads": 0}, "n_threads must be at least 1; got 0"),
        ({"backend": "tpu"}, "backend must be one of 'auto', 'cpu', 'gpu'; got 'tpu'"),
    ],
)
def test_settings_are_checked_when_made(options, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        ForestSettings(**options)


def test_a_latent_that_is_not_standardised_keeps_its_values_and_must_fit_float32():
    train, _ = latent_features(LATENT, LATENT, standardise=False)
    np.testing.assert_array_equal(train.latent, LATENT)
    large = LATENT.astype(float)
    large[3, 2] = 1e39
    with pytest.raises(DataError, match="1 of 30 cells have larger ones"):
        latent_features(LATENT, large, standardise=False)


def test_without_a_gpu_auto_gives_the_cpus_figures_and_gpu_is_an_error(monkeypatch):
    if gpu_problem("cuml") is None:
        pytest.skip("there is a GPU with cuML here")
    monkeypatch.delenv("MEDL_REQUIRE_GPU", raising=False)
    arguments = *labelled(200), *labelled(100, seed=1)
    expected = forest_accuracy(*arguments, settings=FEW)
    found = forest_accuracy(*arguments, settings=replace(FEW, backend="auto"))
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert found.method == expected.method
    with pytest.raises((MissingExtraError, ConfigError), match="was asked for random forests"):
        forest_accuracy(*arguments, settings=replace(FEW, backend="gpu"))
    monkeypatch.setenv("MEDL_REQUIRE_GPU", "1")
    with pytest.raises(ConfigError, match="random forests would be computed on the CPU"):
        forest_accuracy(*arguments, settings=replace(FEW, backend="auto"))
    forest_accuracy(*arguments, settings=FEW)


@pytest.mark.gpu
def test_cumls_forest_is_as_accurate_and_is_named():
    if gpu_problem("cuml") is not None:
        pytest.skip(f"no cuML on a GPU: {gpu_problem('cuml')}")
    arguments = *labelled(20_000), *labelled(5000, seed=1)
    cpu = forest_accuracy(*arguments)
    gpu = forest_accuracy(*arguments, settings=ForestSettings(backend="gpu"))
    assert gpu.accuracy == pytest.approx(cpu.accuracy, abs=0.01)
    assert gpu.method == "cuML's random forest of 100 trees, seed 42, 20,000 train cells"

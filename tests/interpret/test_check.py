"""The what-if check: which pairs, whose means, and whether its figures and words are right."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from medl_scale.interpret.as_if_means import AsIfMeans
from medl_scale.interpret.baselines import AdditiveBaselines
from medl_scale.interpret.check import BASELINES, checked_pairs_table, judged
from medl_scale.interpret.check_cells import CheckedCells, choose_pairs
from medl_scale.interpret.project import AsIf
from medl_scale.interpret.targets import find_targets
from tests.interpret.test_project import LEVELS, network

COUNTS = np.array([[5, 0, 9, 7], [4, 4, 0, 2], [8, 0, 0, 1]])


def test_pairs_are_all_moves_of_a_type_between_batches_with_enough_cells():
    pairs = choose_pairs(COUNTS, min_cells=4, most_pairs=100, seed=0)
    expected = [
        (label, source, target)
        for label in range(3)
        for source, target in itertools.permutations(np.flatnonzero(COUNTS[label] >= 4), 2)
    ]
    assert list(zip(pairs.labels, pairs.sources, pairs.targets, strict=True)) == expected
    assert pairs.n_possible == len(pairs) == 8
    # A type that no second batch has is in no pair, and its cells are not read.
    assert (pairs.group_of[2] == -1).all()
    assert sorted(pairs.group_of[pairs.group_of >= 0]) == list(range(pairs.n_groups)) == [*range(5)]
    assert len(choose_pairs(COUNTS, min_cells=10, most_pairs=9, seed=0)) == 0


def test_too_many_pairs_are_drawn_and_the_seed_draws_them():
    every = choose_pairs(np.full((3, 12), 9), min_cells=2, most_pairs=1000, seed=0)
    some = [
        choose_pairs(np.full((3, 12), 9), min_cells=2, most_pairs=50, seed=s) for s in (1, 1, 2)
    ]

    def listed(pairs):
        return list(zip(pairs.labels, pairs.sources, pairs.targets, strict=True))

    assert listed(some[0]) == listed(some[1]) != listed(some[2])
    assert len(set(listed(some[0]))) == 50
    assert set(listed(some[0])) < set(listed(every))
    assert some[0].n_possible == len(every) == 3 * 12 * 11


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 1, (60, network("me").network.spec.n_vars)).astype(np.float32)
    return x, rng.integers(0, 3, 60).astype(np.int32), rng.integers(-1, 2, 60).astype(np.int32)


@pytest.mark.parametrize("name", ["me", "re", "re-scmedal", "me, latents given"])
def test_means_under_other_batches_are_those_of_projected_cells(cells, name):
    x, batches, labels = cells
    model = network(name)
    pairs = choose_pairs(np.full((2, 4), 5), min_cells=5, most_pairs=100, seed=0)
    given = model.engine.encode(x, batches)
    latents = (lambda rows: given[rows]) if "given" in name else None
    made = AsIfMeans(model, pairs.source_groups(), pairs.targets, latents)
    checked = CheckedCells(pairs, {name: made}, x.shape[1], most_cells=6)
    for rows in (slice(0, 25), slice(25, 60)):
        checked.add(x[rows], batches[rows], labels[rows], np.arange(60)[rows])
    projected = AsIf(model, find_targets("all", LEVELS)).project(x, batches)
    for move, (label, source, target) in enumerate(
        zip(pairs.labels, pairs.sources, pairs.targets, strict=True)
    ):
        # The first six cells count, wherever blocks begin.
        own = np.flatnonzero((labels == label) & (batches == source))[:6]
        if not len(own):
            continue
        np.testing.assert_allclose(
            made.mean(move), projected[own, target].mean(axis=0), rtol=2e-4, atol=2e-5
        )
        group = pairs.group_of[label, source]
        np.testing.assert_allclose(checked.measured.mean[group], x[own].mean(axis=0), rtol=1e-5)
        assert checked.measured.n[group] == len(own)


class Told:
    """A model that says what it was told to."""

    def __init__(self, means):
        self.means = means

    def add(self, *cells):
        """Take in cells."""

    def mean(self, move):
        """Return a mean."""
        return self.means[move]


@pytest.fixture(scope="module")
def truth():
    """Two types in two batches: cells around known means, and baselines that know some of it."""
    rng = np.random.default_rng(1)
    means = rng.normal(size=(2, 2, 40))
    values = means[:, :, None] + 0.1 * rng.normal(size=(2, 2, 30, 40))
    flat = values.reshape(120, 40).astype(np.float32)
    labels, batches = np.repeat([0, 1], 60), np.tile(np.repeat([0, 1], 30), 2)
    baselines = AdditiveBaselines(
        n=np.array([[9, 9], [9, 0]]),
        batch_mean=means.mean(axis=0),
        profile=means.mean(axis=1),
        effect=means.mean(axis=0) - means.mean(axis=(0, 1)),
    )
    return means, flat, labels.astype(np.int32), batches.astype(np.int32), baselines


def table(truth, models, **columns):
    means, flat, labels, batches, baselines = truth
    pairs = choose_pairs(np.full((2, 2), 30), min_cells=20, most_pairs=99, seed=0)
    told = {
        name: Told([share * means[k, b] + (1 - share) * means[k, a]
                    for k, a, b in zip(pairs.labels, pairs.sources, pairs.targets, strict=True)])
        for name, share in models.items()
    }  # fmt: skip
    checked = CheckedCells(pairs, told, 40, most_cells=100)
    checked.add(flat, batches, labels, np.arange(120))
    return checked_pairs_table(
        checked, baselines, label_levels=("B", "T"), batch_levels=("x", "y"), fold=2
    )


def test_errors_are_relative_to_no_change_and_knowing_all_leaves_the_noise(truth):
    _, flat, labels, batches, baselines = truth
    found = table(truth, {"knows": 1.0, "half": 0.5, "nothing": 0.0})
    assert found["model"].tolist() == ["half"] * 4 + ["knows"] * 4 + ["nothing"] * 4
    assert (found["fold"] == 2).all()
    assert (found["error_no_shift"] == 1.0).all()
    by_model = found.groupby("model")["error"].mean()
    assert by_model["knows"] == pytest.approx(found["noise_floor"].mean(), rel=0.3)
    assert by_model["half"] == pytest.approx(0.25, rel=0.1)
    assert by_model["nothing"] == pytest.approx(1.0, rel=0.1)
    assert found.loc[found["model"] == "half", "correlation"].min() > 0.95
    row = found[(found["model"] == "half") & (found["label"] == "T") & (found["source"] == "x")]
    measured = [flat[(labels == 1) & (batches == b)].mean(axis=0, dtype=np.float64) for b in (0, 1)]
    unit = np.mean((measured[1] - measured[0]) ** 2)
    shifted = measured[0] + baselines.effect[1] - baselines.effect[0]
    expected = np.mean((shifted - measured[1]) ** 2) / unit
    assert row["error_two_way_shift"].item() == pytest.approx(expected, rel=1e-5)
    told = np.corrcoef(shifted - measured[0], measured[1] - measured[0])[0, 1]
    assert row["correlation_two_way_shift"].item() == pytest.approx(told, rel=1e-5)
    spread = [flat[(labels == 1) & (batches == b)].var(axis=0, ddof=1).mean() / 30 for b in (0, 1)]
    assert row["noise_floor"].item() == pytest.approx(spread[1] / unit, rel=1e-4)
    assert row["noise_floor_of_shifts"].item() == pytest.approx(sum(spread) / unit, rel=1e-4)
    assert found.groupby("target")["seen"].sum().to_dict() == {"x": 6, "y": 3}


def test_the_summary_counts_wins_and_the_words_say_what_to_do(truth):
    found = table(truth, {"good": 1.0, "bad": -0.5})
    check = judged(found, n_possible=4, min_cells=20, split="test")
    pd.testing.assert_frame_equal(check.pairs, found)
    rows = check.summary.set_index(["model", "seen", "prediction"])
    for (model, seen), part in found.groupby(["model", "seen"]):
        assert rows.loc[(model, seen, "model"), "error"] == part["error"].mean()
        for name in BASELINES:
            told = rows.loc[(model, seen, name)]
            assert told["error"] == part[f"error_{name}"].mean()
            assert told["model_wins"] == (part["error"] < part[f"error_{name}"]).mean()
            assert told["uses_labels"] == name.startswith("two_way")
    assert "4 moves of 2 types between 2 batches, 20 cells or more" in check.words
    assert "In 1 of them training had no cell of the type in the target." in check.words
    good, bad = check.words.split("good, where the type was seen")[1], check.words.split("good,")[0]
    assert (
        "It beats no change in 100 % of moves, the additive shift by type and batch (labels" in good
    )
    assert "Prefer it to an additive shift." in good
    assert "worse than no change: do not use its projections." in bad


def test_pairs_all_seen_in_training_are_called_so_and_drawn_ones_counted(truth):
    found = table(truth, {"good": 1.0})
    seen = found[found["seen"]]
    words = judged(seen, n_possible=900, min_cells=20, split="test").words
    assert "3 moves of 2 types between 2 batches, drawn from 900, 20 cells" in words
    assert "All these types were in their target batch in training, by other cells" in words
    assert "where it was not" not in words

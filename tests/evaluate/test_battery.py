import time

import numpy as np
import pytest

from medl_scale.config import METRIC_GROUPS
from medl_scale.errors import DataError
from medl_scale.evaluate.battery import Cells, Options, score_latent
from medl_scale.evaluate.budget import Budget

EVERY = frozenset(name for group in METRIC_GROUPS.values() for name in group)


def cells(n=400, d=3, *, batches=3, labels=2, seed=0):
    rng = np.random.default_rng(seed)
    return Cells(
        rng.normal(size=(n, d)).astype(np.float32),
        rng.integers(batches, size=n) if batches else None,
        rng.integers(labels, size=n) if labels else None,
        np.ones(n, np.bool_),
    )


def figures(cells, metrics=EVERY, budget=None, **options):
    made = score_latent(cells, Options(metrics=metrics, **options), budget or Budget(None, 18))
    return {(figure.metric, figure.of): figure for figure in made}


def test_every_figure_is_made_once_and_in_one_order():
    assert list(figures(cells())) == [
        ("silhouette_label", "label"), ("nmi", "label"), ("ari", "label"),
        ("graph_connectivity", "label"), ("clisi_knn", "label"), ("ilisi_knn", "batch"),
        ("silhouette_batch", "batch"), ("bras", "batch"), ("kbet", "batch"),
        ("kbet_per_label", "batch"), ("ASW", "label"), ("CH", "label"), ("1/DB", "label"),
        ("cLISI", "label"), ("ASW", "batch"), ("CH", "batch"), ("1/DB", "batch"), ("iLISI", "batch"),
    ]  # fmt: skip


def test_figures_that_lack_a_column_are_left_out():
    assert {of for _, of in figures(cells(labels=0))} == {"batch"}
    assert {of for _, of in figures(cells(batches=0))} == {"label"}
    unlabelled = cells()
    unlabelled.is_labelled[:] = False
    assert {of for _, of in figures(unlabelled)} == {"batch"}


def test_one_batch_or_label_leaves_the_others_figures():
    found = figures(cells(labels=1))
    assert found["ASW", "label"].score is None
    assert found["ASW", "label"].reason.startswith("undefined: label must have between 2 and 399")
    assert found["ASW", "batch"].score is not None


def test_the_sample_of_the_papers_is_the_same_for_the_same_seed():
    many = cells(n=10_500, d=2, batches=5, labels=0)
    draws = [figures(many, frozenset(), with_paper=True, seed=seed) for seed in (0, 0, 1)]
    values = [draw["CH of 10000 cells", "batch"].score.value for draw in draws]
    assert values[0] == values[1] != values[2]


def test_neighbours_that_would_take_too_long_are_left_out_with_a_reason():
    many = cells(n=20_000, d=50, labels=0)
    found = figures(many, frozenset({"iLISI", "CH"}), Budget(1e-3, 18))
    assert found["CH", "batch"].score is not None
    assert found["iLISI", "batch"].score is None
    assert "left out: the neighbours of 20,000 cells take about" in found["iLISI", "batch"].reason


def test_a_latent_that_is_not_finite_is_an_error():
    broken = cells()
    broken.latent[5, 1] = np.inf
    with pytest.raises(DataError, match="infinite values in 1 of 400"):
        figures(broken, frozenset({"ASW"}))


def test_a_budget_is_shared_by_the_figures_to_come():
    assert Budget(None, 10).share() is None
    budget = Budget(100.0, 10)
    assert 39 < budget.share() <= 40
    for _ in range(8):
        budget.count_one()
    assert 99 < budget.share() <= 100
    short = Budget(1e-6, 10)
    time.sleep(1e-3)
    assert (short.left(), short.share()) == (0.0, 0.1)

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medl_scale.evaluate.summary import over_folds


def row(value, fold, *, error=0.0, kind="exact", space="X_a", split="test"):
    return {
        "space": space, "split": split, "metric": "ASW", "of": "donor", "fold": fold, "value": value,
        "error": error, "kind": kind, "n": 10,
    }  # fmt: skip


def test_several_folds_give_the_t_interval_of_their_mean():
    values = [0.1, 0.3, 0.2, 0.5, 0.4]
    table = pd.DataFrame([row(value, fold) for fold, value in enumerate(values)])
    (found,) = over_folds(table).to_dict("records")
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found["value"] == pytest.approx(0.3)
    assert found["value"] - found["half_width"] == pytest.approx(low)
    assert found["value"] + found["half_width"] == pytest.approx(high)
    assert (found["n_folds"], found["n"]) == (5, 50)


def test_one_fold_has_no_interval_and_keeps_its_error():
    (found,) = over_folds(pd.DataFrame([row(0.5, 0, error=1e-4)])).to_dict("records")
    assert np.isnan(found["half_width"])
    assert found["error"] == 1e-4


def test_the_weakest_promise_and_the_largest_error_are_told():
    table = pd.DataFrame(
        [
            row(0.5, 0, error=1e-6),
            row(0.5, 1, error=1e-3, kind="certified"),
            row(0.5, 2, error=1e-5, kind="confidence"),
        ]
    )
    (found,) = over_folds(table).to_dict("records")
    assert (found["kind"], found["error"]) == ("confidence", 1e-3)


def test_undefined_folds_are_left_out_and_splits_kept_apart():
    table = pd.DataFrame(
        [
            row(0.5, 0),
            row(np.nan, 1, kind=None),
            row(0.1, 0, split="test, unseen batches"),
            row(np.nan, 0, space="X_b", kind=None),
        ]
    )
    found = over_folds(table)
    assert found[["space", "split", "value", "n_folds"]].to_numpy().tolist() == [
        ["X_a", "test", 0.5, 1],
        ["X_a", "test, unseen batches", 0.1, 1],
    ]

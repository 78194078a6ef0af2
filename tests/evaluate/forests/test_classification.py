"""Both protocols and their controls on cells whose truth is known, and on real ones."""

import re

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from medl_scale.errors import ConfigError, DataError, ScoreUndefinedError
from medl_scale.evaluate.forests.classification import PROTOCOLS, classify
from medl_scale.evaluate.forests.forest import ForestSettings
from medl_scale.evaluate.forests.spaces import ONE_HOT
from medl_scale.evaluate.forests.unseen import split_by_batch
from medl_scale.evaluate.forests.verdicts import give_verdicts
from medl_scale.progress import SilentProgress

FEW = ForestSettings(n_trees=20)


def study(n=1200, n_donors=12, seed=0):
    """Cells of donors; cell type moves `fe`, the donor moves `re`, and a diagnosis goes with donors."""
    rng = np.random.default_rng(seed)
    donors = rng.integers(0, n_donors, n)
    types = rng.integers(0, 3, n)
    fe = (3.0 * np.eye(3)[types] + rng.normal(size=(n, 3))).astype(np.float32)
    re = (rng.normal(size=(n_donors, 2))[donors] * 4 + rng.normal(size=(n, 2)) * 0.2).astype(np.float32)  # fmt: skip
    pca = np.hstack([fe + rng.normal(size=(n, 3)), 0.5 * re]).astype(np.float32)
    return {
        "spaces": {"fe": fe, "re": re, "pca": pca},
        "targets": {
            "cell type": np.array(["B", "NK", "T"])[types],
            "diagnosis": np.array(["case", "control"])[donors % 2],
        },
        "batches": np.array([f"donor {donor:02d}" for donor in donors]),
        "train": np.arange(n) % 5 < 3,
        "test": np.arange(n) % 5 == 4,
    }


@pytest.fixture(scope="module")
def data():
    return study()


@pytest.fixture(scope="module")
def answers(data):
    blind = {"re": np.zeros_like(data["spaces"]["re"]), "pca": data["spaces"]["pca"]}
    return classify(**data, prior_mean_spaces=blind, settings=FEW)


def accuracy(answers, target, space, protocol):
    (found,) = [a for a in answers if (a.target, a.space, a.protocol) == (target, space, protocol)]
    return found.result.accuracy


def test_every_target_is_asked_of_every_space_and_control_under_both_protocols(answers):
    spaces = ["fe", "re", "pca", "fe + re", ONE_HOT, f"pca + {ONE_HOT}"]
    expected = {(t, s, p) for t in ("cell type", "diagnosis") for s in spaces for p in PROTOCOLS}
    assert {(a.target, a.space, a.protocol) for a in answers} == expected
    assert len(answers) == len(expected)
    assert {a.space for a in answers if a.is_control} == {ONE_HOT, f"pca + {ONE_HOT}"}
    assert {a.target for a in answers if a.is_constant_in_batches} == {"diagnosis"}
    assert not any(a.names_batch for a in answers)
    assert {a.result.n_test for a in answers} == {240}


def test_a_diagnosis_is_read_by_donor_look_up_and_not_on_unseen_donors(answers):
    for space in ("re", "fe + re", ONE_HOT, f"pca + {ONE_HOT}"):
        assert accuracy(answers, "diagnosis", space, "cells") > 0.98
        assert accuracy(answers, "diagnosis", space, "unseen batches") < 0.75
    assert accuracy(answers, "cell type", "fe", "cells") > 0.85
    assert accuracy(answers, "cell type", "fe", "unseen batches") > 0.85
    assert accuracy(answers, "cell type", ONE_HOT, "cells") < 0.5


def test_verdicts_say_so(answers):
    verdicts = {(v.target, v.space): v for v in give_verdicts(answers)}
    both = verdicts["diagnosis", "fe + re"]
    assert both.is_no_better_than_look_up
    assert (
        "from fe + re is no better than looking up the batch (1.000 from one-hot" in both.sentence
    )
    assert "no better than always naming the largest class" in both.sentence
    types = verdicts["cell type", "fe"]
    assert not types.is_no_better_than_look_up
    assert types.over_majority.is_gain
    assert "from fe is better than looking up the batch" in types.sentence
    assert "where always naming the largest class gives" in types.sentence


@pytest.mark.parametrize("space", ["pca", "fe + re", ONE_HOT, f"pca + {ONE_HOT}"])
def test_the_published_protocol_is_scikit_learns(data, answers, space):
    train, test = data["train"], data["test"]
    latents = {"pca": ["pca"], "fe + re": ["fe", "re"], f"pca + {ONE_HOT}": ["pca"]}.get(space, [])
    columns = [data["spaces"][name] for name in latents]
    if ONE_HOT in space:
        donors = data["batches"][:, None]
        encoder = OneHotEncoder(sparse_output=False, dtype=np.float32).fit(donors[train])
        columns.append(encoder.transform(donors))
    x = np.hstack(columns)
    # Its pipeline scales one-hot columns as well, which changes no prediction.
    x = StandardScaler().fit(x[train]).transform(x)
    for target, labels in data["targets"].items():
        forest = RandomForestClassifier(20, random_state=42).fit(x[train], labels[train])
        expected = np.mean(forest.predict(x[test]) == labels[test])
        assert accuracy(answers, target, space, "cells") == expected


def test_unseen_batches_are_those_of_no_train_cell(data, answers):
    labels = data["targets"]["cell type"]
    _, codes = np.unique(labels, return_inverse=True)
    _, donors = np.unique(data["batches"], return_inverse=True)
    rows = np.flatnonzero(data["train"]), np.flatnonzero(data["test"])
    right = []
    for train, test in split_by_batch(codes, donors, *rows, 5):
        scaler = StandardScaler().fit(data["spaces"]["fe"][train])
        x = scaler.transform(data["spaces"]["fe"])
        forest = RandomForestClassifier(20, random_state=42).fit(x[train], labels[train])
        right.append(forest.predict(x[test]) == labels[test])
    found = accuracy(answers, "cell type", "fe", "unseen batches")
    assert found == np.mean(np.concatenate(right))


def test_one_hot_of_unseen_batches_is_no_better_than_naming_one_class(answers):
    for answer in answers:
        if answer.space == ONE_HOT and answer.protocol == "unseen batches":
            assert answer.result.accuracy < answer.result.majority + 0.1


def test_latents_at_the_prior_mean_stand_on_both_sides(data, answers):
    # `re` is constant there: its forests can only name one class.
    (found,) = [a for a in answers if (a.target, a.space, a.protocol) ==
                ("cell type", "re", "unseen batches")]  # fmt: skip
    assert len(np.unique(found.result.predictions)) <= len(found.result.n_train)
    less = classify(**data, prior_mean_spaces={"re": None}, settings=FEW)
    unseen = {a.space for a in less if a.protocol == "unseen batches"}
    assert unseen == {"fe", "pca", ONE_HOT, f"pca + {ONE_HOT}"}


def test_a_target_that_names_the_batch_is_not_asked_of_unseen_batches(data):
    own = data | {"targets": {"donor": data["batches"]}, "spaces": {"fe": data["spaces"]["fe"]}}
    answers = classify(**own, settings=FEW)
    assert {a.protocol for a in answers} == {"cells"}
    assert all(a.names_batch for a in answers)
    (verdict,) = give_verdicts(answers)
    assert verdict.over_look_up is None
    assert "so that there is nothing to carry over to unseen ones" in verdict.sentence


def test_a_class_of_one_donor_counts_as_an_error_on_unseen_donors_and_is_told(data):
    rare = np.where(data["batches"] == "donor 03", "rare", "common")
    own = data | {"targets": {"group": rare}, "spaces": {"fe": data["spaces"]["fe"]}}
    answers = classify(**own, settings=FEW, protocols=["unseen batches"])
    n_rare = np.sum(rare[data["test"]] == "rare")
    for answer in answers:
        assert answer.result.absent == ("rare",)
        assert answer.result.n_absent == n_rare
        assert answer.note == (
            f"{n_rare} of 240 test cells are of classes that train lacked, and count as errors: rare"
        )


def test_few_batches_are_left_out_one_at_a_time(data):
    own = data | {"batches": np.where(data["batches"] < "donor 06", "x", "y")}
    answers = classify(**own, settings=FEW, protocols=["unseen batches"])
    assert {len(a.result.n_train) for a in answers} == {2}


def test_splits_may_be_positions_and_folds_are_numbered(data):
    own = data | {"train": np.flatnonzero(data["train"]), "test": np.flatnonzero(data["test"])}
    own |= {
        "spaces": {"fe": data["spaces"]["fe"]},
        "targets": {"type": data["targets"]["cell type"]},
    }
    answers = classify(**own, fold=3, protocols=["cells"], settings=FEW)
    assert {a.fold for a in answers} == {3}
    expected = classify(
        **(own | {"train": data["train"], "test": data["test"]}), protocols=["cells"], settings=FEW
    )
    for one, other in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(one.result.predictions, other.result.predictions)
        np.testing.assert_array_equal(one.cells, np.flatnonzero(data["test"]))


def test_progress_counts_every_forest(data):
    class Counting(SilentProgress):
        total, done = 0, 0

        def step(self, name, total, unit="cells"):
            self.total = total
            return super().step(name, total, unit)

    progress = Counting()
    classify(**(data | {"spaces": {"fe": data["spaces"]["fe"]}}), settings=FEW, progress=progress)
    # Two targets, the latent and the one-hot batch, one forest for cells and five for batches.
    assert progress.total == 2 * 2 * (1 + 5)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"spaces": {}}, ConfigError, "got 0 spaces and 2 targets"),
        ({"protocols": ["donors"]}, ConfigError,
         "protocols must be one of 'cells', 'unseen batches'; got 'donors'"),
        ({"n_parts": 1}, ConfigError, "n_parts must be at least 2; got 1"),
        ({"prior_mean_spaces": {"RE": None}}, ConfigError,
         "may name what spaces names: 'fe', 're', 'pca'; it names 'RE' too"),
        ({"combine": [("fe", "re"), ("fe", "re")]}, ConfigError,
         "'fe + re' would stand for two"),
        ({"prior_mean_spaces": {"re": np.zeros((3, 2))}}, DataError,
         "the first has 1,200 and 're' 3"),
        ({"batches": ["a"] * 5}, DataError, "batches must name every cell: 1,200 cells"),
        ({"targets": {"sex": ["f"] * 1200}}, ScoreUndefinedError, "targets['sex'] must have between"),
        ({"train": np.arange(1200) % 5 > 0}, DataError, "may not overlap; they share 240 cells"),
        ({"test": np.zeros(1200, bool)}, DataError, "with 0 cells chosen"),
        ({"test": np.ones(7, bool)}, DataError, "its shape is (7,), its dtype bool"),
        ({"test": [0.5, 2.0]}, DataError, "its dtype float64"),
        ({"test": [4, 1200]}, DataError, "positions from 0 to 1,199; they go from 4 to 1,200"),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_any_tree_grows(data, change, error, text):
    with pytest.raises(error, match=re.escape(text)):
        classify(**(data | change), settings=FEW)


def test_on_real_cells_the_diagnosis_is_look_up_and_the_cell_type_is_not(shared_data):
    import anndata

    atlas = anndata.read_h5ad(shared_data / "ra_synovium_pcs_24batches.h5ad")[::2]
    part = np.random.default_rng(0).integers(0, 5, atlas.n_obs)
    answers = classify(
        {"pca": atlas.obsm["X_pca"], "harmony": atlas.obsm["X_harmony"]},
        {"cell type": atlas.obs["cell_type"], "diagnosis": atlas.obs["condition"]},
        atlas.obs["batch"],
        train=part > 1,
        test=part == 0,
        n_parts=4,
        settings=FEW,
    )
    verdicts = {(v.target, v.space): v for v in give_verdicts(answers)}
    for space in ("pca", "harmony"):
        assert verdicts["diagnosis", space].is_no_better_than_look_up
        assert not verdicts["diagnosis", space].over_majority.is_gain
        assert not verdicts["cell type", space].is_no_better_than_look_up
        assert verdicts["cell type", space].over_majority.is_gain
        assert accuracy(answers, "cell type", space, "unseen batches") > 0.97

"""The rule of comparison against other ways to the same interval, and the words."""

import re

import numpy as np
import pytest
from scipy import stats

from medl_scale.errors import DataError
from medl_scale.evaluate.forests.classification import Answer
from medl_scale.evaluate.forests.spaces import ONE_HOT
from medl_scale.evaluate.forests.tally import tally
from medl_scale.evaluate.forests.verdicts import compare, compare_to_majority, give_verdicts


def answer(is_right, batches=None, *, space="fe", protocol="cells", fold=0, target="diagnosis",
           is_control=False, constant=False, names_batch=False, share=0.75):  # fmt: skip
    """An answer that is right for these cells; `share` of all cells are of the largest class."""
    is_right = np.asarray(is_right, bool)
    n = len(is_right)
    truth = (np.arange(n) >= share * n).astype(np.int32)
    result = tally(
        np.array(["case", "control"]),
        truth,
        np.where(is_right, truth, 1 - truth).astype(np.int32),
        [(np.array([0, 0, 1], np.int32), np.arange(n))],
        method="by hand",
        seed=0,
        started=0.0,
    )
    return Answer(
        target=target,
        space=space,
        protocol=protocol,
        fold=fold,
        is_control=is_control,
        is_constant_in_batches=constant,
        names_batch=names_batch,
        result=result,
        cells=np.arange(n) + 1000 * fold,
        batch_codes=np.zeros(n, np.int32) if batches is None else np.asarray(batches, np.int32),
    )


def first(n_right, n=100, **options):
    return answer(np.arange(n) < n_right, **options)


def test_cells_that_only_one_tells_decide():
    found = compare([first(90)], [first(80)])
    assert found.value == pytest.approx(0.10)
    # By hand: 10.5 and 0.5 of 102.
    expected = stats.norm.ppf(0.975) * np.sqrt(11 - 100 / 102) / 102
    assert found.half_width == pytest.approx(expected)
    assert found.is_gain
    back = compare([first(80)], [first(90)])
    assert (back.value, back.half_width) == pytest.approx((-0.10, expected))
    assert back.is_loss
    assert not back.is_gain


def test_equal_answers_differ_by_nothing_with_an_interval_that_stays_open():
    found = compare([first(7, n=10)], [first(7, n=10)])
    assert found.value == 0
    assert found.half_width > 0.1
    assert not found.is_gain
    assert not found.is_loss


def test_the_interval_over_cells_covers_the_truth():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        both = rng.random(60)
        ours, theirs = both < 0.75, (both < 0.6) | (both > 0.95)
        found = compare([answer(ours)], [answer(theirs)])
        hits += abs(found.value - 0.10) <= found.half_width
    assert hits >= 0.93 * 400


@pytest.mark.parametrize("options", [{"protocol": "unseen batches"}, {"constant": True}])
def test_where_batches_count_the_interval_is_that_of_their_means(options):
    rng = np.random.default_rng(1)
    batches = np.repeat(np.arange(8), 50)
    ours = rng.random(400) < np.repeat(rng.random(8), 50)
    theirs = rng.random(400) < np.repeat(rng.random(8), 50)
    found = compare([answer(ours, batches, **options)], [answer(theirs, batches, **options)])
    means = (ours.astype(int) - theirs).reshape(8, 50).mean(axis=1)
    low, high = stats.t.interval(0.95, 7, means.mean(), stats.sem(means))
    assert found.value == pytest.approx(means.mean())
    assert found.half_width == pytest.approx((high - low) / 2)
    plain = compare([answer(ours, batches)], [answer(theirs, batches)])
    assert plain.half_width < found.half_width / 2


def test_one_batch_cannot_tell():
    unseen = first(90, protocol="unseen batches")
    assert np.isinf(compare_to_majority([unseen]).half_width)
    (verdict,) = give_verdicts([unseen])
    assert "a single batch, which cannot tell" in verdict.sentence


def test_folds_that_disagree_widen_the_interval():
    shares = [60, 95, 70]
    ours = [first(n, fold=fold) for fold, n in enumerate(shares)]
    theirs = [first(60, fold=fold) for fold in range(3)]
    found = compare(ours, theirs)
    gains = (np.array(shares) - 60) / 100
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert found.value == pytest.approx(gains.mean())
    assert found.half_width == pytest.approx((high - low) / 2)
    assert not found.is_gain
    # Two folds have no spread worth the name: the cells decide.
    assert compare(ours[:2], theirs[:2]).is_gain


def test_only_answers_about_the_same_cells_and_folds_compare():
    with pytest.raises(
        DataError, match=re.escape("'fe' and 'fe' have 100 and 90 cells of 'diagnosis'")
    ):
        compare([first(5)], [first(5, n=90)])
    with pytest.raises(DataError, match=re.escape("got folds [0] and [0, 1]")):
        compare([first(5)], [first(5), first(5, fold=1)])


def one_hot(n_right, **options):
    return first(n_right, space=ONE_HOT, is_control=True, **options)


def pca_with_batch(n_right):
    return first(n_right, space=f"pca + {ONE_HOT}", is_control=True)


def test_donor_look_up_is_said():
    batches = np.arange(100) % 10
    unseen = first(75, batches=batches, protocol="unseen batches", space="fe + re")
    here = first(98, space="fe + re", batches=batches, constant=True)
    look_up = one_hot(100, batches=batches, constant=True)
    (verdict,) = give_verdicts([here, look_up, unseen, pca_with_batch(100)])
    assert verdict.is_no_better_than_look_up
    assert verdict.sentence == (
        "diagnosis: 0.980 from fe + re is no better than looking up the batch (1.000 from one-hot batch "
        "alone; difference -0.020 ± 0.033); on unseen batches 0.750 (balanced 0.500), no better than "
        "always naming the largest class, which gives 0.750 (balanced 0.500; difference +0.000 ± 0.019)."
    )


@pytest.mark.parametrize(
    ("n_rival", "words"),
    [
        (60, "more than pca + one-hot batch tells (0.600; difference +0.300"),
        (89, "no more than pca + one-hot batch tells (0.890; difference +0.010"),
        (99, "less than pca + one-hot batch tells (0.990; difference -0.090"),
    ],
)
def test_what_beats_look_up_is_held_against_a_plain_latent_that_is_told_the_batch(n_rival, words):
    (verdict,) = give_verdicts([first(90), one_hot(40), pca_with_batch(n_rival)])
    assert not verdict.is_no_better_than_look_up
    assert verdict.sentence.startswith(
        "diagnosis: 0.900 from fe is better than looking up the batch (0.400 from one-hot batch alone; "
    )
    assert f"; {words}" in verdict.sentence
    assert verdict.over_majority is None


def test_what_carries_over_is_said_even_where_nothing_else_was_asked():
    batches = np.arange(100) % 10
    (verdict,) = give_verdicts([first(95, batches=batches, protocol="unseen batches")])
    assert verdict.over_look_up is None
    assert verdict.over_majority.is_gain
    assert verdict.sentence.startswith(
        "diagnosis: on unseen batches 0.950 from fe (balanced 0.900), where always naming the largest "
        "class gives 0.750 (balanced 0.500; difference +0.200 ± "
    )


def test_a_target_that_is_the_batch_is_not_called_look_up():
    (verdict,) = give_verdicts([first(60, names_batch=True), one_hot(100, names_batch=True)])
    assert verdict.over_look_up is None
    assert verdict.sentence == (
        "diagnosis: 0.600 from fe, where always naming the largest gives 0.750; it names the batch, so "
        "that there is nothing to carry over to unseen ones."
    )


def test_a_space_without_its_controls_is_not_judged():
    (verdict,) = give_verdicts([first(60)])
    assert verdict.sentence == "diagnosis: fe has nothing to compare with."
    assert not verdict.is_no_better_than_look_up

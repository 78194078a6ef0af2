"""When a fit stops: by tables of losses, and by laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medl_scale.train.stopping import Stopping, StoppingRule, Verdict

BEST, CONTINUE, LOWER, STOP = Verdict.BEST, Verdict.CONTINUE, Verdict.LOWER_RATE, Verdict.STOP
OURS = StoppingRule(patience_steps=20, rate_drops=1, minimum_gain=0.01)
PUBLISHED = StoppingRule(patience_steps=30, rate_drops=0, minimum_checks=1)


def run(rule: StoppingRule, losses: list[float], steps: int = 10) -> tuple[Stopping, list[Verdict]]:
    """Check losses `steps` apart until told to stop."""
    state, verdicts = Stopping(), []
    for epoch, loss in enumerate(losses):
        state, verdict = state.check(rule, loss, epoch=epoch, step=steps * (epoch + 1))
        verdicts.append(verdict)
        if verdict is STOP:
            break
    return state, verdicts


@pytest.mark.parametrize(
    ("rule", "losses", "verdicts"),
    [
        (OURS, [5, 4, 3], [BEST, BEST, BEST]),
        (OURS, [5, 6, 7], [BEST, CONTINUE, LOWER]),
        (OURS, [5, 6, 7, 7, 7], [BEST, CONTINUE, LOWER, CONTINUE, STOP]),
        # A gain after the rate fell gives patience anew, but no second drop.
        (OURS, [5, 6, 7, 4, 6, 6], [BEST, CONTINUE, LOWER, BEST, CONTINUE, STOP]),
        # Gains below 1 % become the best and do not hold up the end.
        (OURS, [5, 4.99, 4.98, 4.97, 4.96], [BEST, BEST, LOWER, BEST, STOP]),
        # After the rate fell, gains count from the best.
        (OURS, [5, 4.99, 4.98, 4.94, 4.935], [BEST, BEST, LOWER, BEST, STOP]),
        # Together they are a gain.
        (OURS, [5, 4.97, 4.94, 4.0], [BEST, BEST, BEST, BEST]),
        (OURS, [5, math.inf, 4], [BEST, CONTINUE, BEST]),
        (PUBLISHED, [5, 6, 7, 8, 1], [BEST, CONTINUE, CONTINUE, STOP]),
        (PUBLISHED, [5, 6, 4.999, 6, 6, 6], [BEST, CONTINUE, BEST, CONTINUE, CONTINUE, STOP]),
        (PUBLISHED, [-1, -2, -1.5], [BEST, BEST, CONTINUE]),
    ],
)
def test_verdicts_by_table(rule, losses, verdicts):
    assert run(rule, losses)[1] == verdicts


def test_two_validations_must_pass_however_far_apart():
    _, verdicts = run(OURS, [5, 6, 6], steps=1000)
    assert verdicts == [BEST, CONTINUE, LOWER]


def test_a_negative_loss_gains_by_a_share_of_its_size():
    _, verdicts = run(OURS, [-100, -100.5, -100.9])
    assert verdicts == [BEST, BEST, LOWER]


losses = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(losses=losses, gain=st.sampled_from([0.0, 1e-3, 0.1]), drops=st.integers(0, 2))
def test_the_best_is_the_first_smallest_loss_seen(losses, gain, drops):
    rule = StoppingRule(30, rate_drops=drops, minimum_gain=gain)
    state, verdicts = run(rule, losses)
    seen = losses[: len(verdicts)]
    assert state.best == min(seen)
    assert state.best_epoch == seen.index(min(seen))
    assert verdicts.count(LOWER) == state.drops <= drops


@given(losses=losses)
def test_a_falling_loss_never_stops(losses):
    falling = sorted(set(losses), reverse=True)
    rule = StoppingRule(1, rate_drops=0, minimum_checks=1)
    assert STOP not in run(rule, falling)[1]


@given(drops=st.integers(0, 3), patience=st.integers(1, 90))
def test_a_flat_loss_stops_after_every_drop_had_its_patience(drops, patience):
    rule = StoppingRule(patience, rate_drops=drops)
    _, verdicts = run(rule, [1.0] * 100)
    each = max(2, math.ceil(patience / 10))
    assert verdicts[-1] is STOP
    assert len(verdicts) == 1 + each * (drops + 1)


def test_checking_leaves_the_state_before_as_it_was():
    state = Stopping()
    after, _ = state.check(OURS, 1.0, epoch=0, step=10)
    assert state == Stopping()
    assert after.best == 1.0

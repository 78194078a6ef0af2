"""The loop with an engine of three lines: resuming, roll-back, stopping, and what it reports."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, override

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medl_scale.errors import DivergedError
from medl_scale.store.atlas import describe, read_columns
from medl_scale.stream.contract import Source
from medl_scale.stream.densify import Transform
from medl_scale.stream.source import open_source
from medl_scale.train.checkpoint import read_checkpoint
from medl_scale.train.engine import Engine, Feeds
from medl_scale.train.loop import Training
from medl_scale.train.records import LoopConfig, TrainData
from medl_scale.train.stopping import StoppingRule
from tests.models import small

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from medl_scale.models.network import Network
    from medl_scale.stream.contract import CsrRows
    from medl_scale.train.records import TrainingResult

N_PER_EPOCH = 6
"""360 train cells in minibatches of 64."""
TIMINGS = {
    "train_s", "step_s", "loader_wait_s", "cells_per_s", "validation_s", "peak_memory_bytes",
}  # fmt: skip
# Rates that let the loss fall, and let it grow until it overflows; a tenth of the latter is steady.
STEADY, DIVERGING = 0.005, 0.8


class Killed(BaseException):
    """Stands for what leaves no time for anything."""


class Descent(Engine):
    """Least squares by gradient descent with momentum: batch codes from expression."""

    def __init__(self, network: Network, n_vars: int) -> None:
        self.network = network
        self.weights = np.zeros(n_vars, np.float32)
        self.momentum = np.zeros(n_vars, np.float32)
        self.n_steps = 0
        self.before_step: Callable[[int], Any] = lambda n_steps: None
        self.rates: list[float] = []
        self.ramps: list[float] = []
        self.drawn: list[float] = []
        """The first random number of each step."""
        self.trained: list[np.ndarray] = []
        """Weights before each step."""
        self.validated: list[np.ndarray] = []
        self.spoil: Callable[[Feeds], bool] = lambda feeds: False
        """Says whether the second term is to be NaN."""

    @override
    def step(self, feeds: Feeds, *, learning_rate: float) -> Any:
        self.before_step(self.n_steps)
        self.trained.append(self.weights.copy())
        self.n_steps += 1
        self.rates.append(learning_rate)
        self.ramps.append(feeds.ramp)
        x = feeds.x if feeds.keep_mask is None else feeds.x * feeds.keep_mask
        noise = 0.0 if feeds.latent_noise is None else feeds.latent_noise[:, 0]
        self.drawn.append(0.0 if feeds.latent_noise is None else float(feeds.latent_noise[0, 0]))
        with np.errstate(all="ignore"):
            residual = x @ self.weights - feeds.batch_codes + noise
            gradient = x.T @ residual / len(x)
            self.momentum = np.float32(0.5) * self.momentum + gradient
            self.weights = self.weights - np.float32(learning_rate) * self.momentum
        return self._terms(residual, feeds)

    @override
    def evaluate(self, feeds: Feeds) -> np.ndarray:
        self.validated.append(self.weights.copy())
        with np.errstate(all="ignore"):
            return self._terms(feeds.x @ self.weights - feeds.batch_codes, feeds)

    @override
    def encode(self, x: np.ndarray, batch_codes: np.ndarray, effects: Any = None) -> np.ndarray:
        return (x @ self.weights)[:, None]

    @override
    def decode(
        self, latent: np.ndarray, batch_codes: np.ndarray, effects: Any = None
    ) -> np.ndarray:
        return latent * self.weights

    @override
    def place_effects(self, tables: Any) -> Any:
        return tables

    @override
    def effect_tables(self) -> dict:
        return {}

    @override
    def state(self) -> dict[str, np.ndarray]:
        return {
            "weights": self.weights.copy(),
            "momentum": self.momentum.copy(),
            "n_steps": np.asarray(self.n_steps),
        }

    @override
    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.weights = state["weights"].copy()
        self.momentum = state["momentum"].copy()
        self.n_steps = int(state["n_steps"])

    def _terms(self, residual: np.ndarray, feeds: Feeds) -> np.ndarray:
        with np.errstate(all="ignore"):
            loss = np.mean(np.square(residual, dtype=np.float32), dtype=np.float32)
        second = np.float32(np.nan) if self.spoil(feeds) else loss
        return np.array([loss, second], np.float32)


@pytest.fixture(scope="module")
def data(atlas_path):
    """Fold 0 of the atlas, held open."""
    atlas = describe(atlas_path)
    with open_source(atlas_path, cache_memory=2**24) as source:
        yield TrainData(
            source=source,
            columns=read_columns(atlas_path),
            split=atlas.split(0),
            transform=Transform(atlas.input_units, atlas.target_sum, 0.2),
            batch_levels=atlas.batch_levels,
        )


def training(
    data: TrainData,
    checkpoint: Path | None = None,
    *,
    rate: float = STEADY,
    before_step: Callable[[int], Any] = lambda n_steps: None,
    spoil: Callable[[Feeds], bool] = lambda feeds: False,
    report: Callable[[Any], None] = lambda status: None,
    **changes: Any,
) -> Training:
    network = small.network(small.CASES["ae"])
    # So that a resumed fit must also continue the random numbers.
    network.uses_latent_noise, network.input_dropout = True, 0.25
    engine = Descent(network, data.source.n_vars)
    engine.before_step, engine.spoil = before_step, spoil
    defaults = {
        "seed": 3,
        "max_epochs": 4,
        "learning_rate": rate,
        "warm_up_steps": 8,
        "ramp_steps": 10,
        "stopping": StoppingRule(1000, rate_drops=1),
        "validate_every_steps": 10,
        "minibatch_size": 64,
        "run_size": 16,
        "window_size": 64,
        "prefetch": 0,
        "checkpoint_every_s": 0.0,
    }
    config = LoopConfig(**(defaults | changes))
    return Training(network, engine, data, config, checkpoint=checkpoint, report=report)


def outcome(made: Training, result: TrainingResult) -> tuple:
    """Return everything about a finished fit that must not depend on its interruptions."""
    history = [{k: v for k, v in row.items() if k not in TIMINGS} for row in result.history]
    state = {name: value.tobytes() for name, value in made.engine.state().items()}
    position = made.position
    return (
        history, result.best_epoch, result.best_value, result.n_steps, state,
        position.rate_factor, position.recoveries,
    )  # fmt: skip


def interrupted_at(
    data: TrainData,
    path: Path,
    places: list[int],
    how: Callable[[], None],
    error: type[BaseException],
    **changes: Any,
) -> Training:
    """Start fits one after another, each ended by `how` before a given step, until one finishes."""
    path.unlink(missing_ok=True)
    for place in [*places, None]:
        armed = [place is not None]

        def event(n_steps: int, place: int | None = place, armed: list[bool] = armed) -> None:
            if armed[0] and n_steps == place:
                armed[0] = False
                how()

        made = training(data, path, before_step=event, **changes)
        made.resume()
        try:
            made.result = made.run()
        except error:
            continue
        return made
    raise AssertionError("the last fit was not interrupted, and did not finish")


def die() -> None:
    raise Killed


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


WAYS = {"killed": (die, Killed), "Ctrl-C": (press_ctrl_c, KeyboardInterrupt)}
IN_A_FOLDER = settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rate", [STEADY, DIVERGING])
@given(places=st.lists(st.integers(0, 23), max_size=3), often=st.booleans())
@IN_A_FOLDER
def test_an_interrupted_fit_ends_as_one_that_was_not(data, tmp_path, way, rate, places, often):
    whole = training(data, rate=rate)
    expected = outcome(whole, whole.run())
    made = interrupted_at(
        data, tmp_path / "c.npz", sorted(places), *WAYS[way],
        rate=rate, checkpoint_every_s=0.0 if often else math.inf,
    )  # fmt: skip
    assert outcome(made, made.result) == expected


def test_roll_back_does_not_depend_on_when_checkpoints_were_written(data, tmp_path):
    outcomes = []
    for every_s in (0.0, math.inf):
        made = training(data, tmp_path / "c.npz", rate=DIVERGING, checkpoint_every_s=every_s)
        outcomes.append(outcome(made, made.run()))
    assert outcomes[0] == outcomes[1]


def test_ctrl_c_ends_a_fit_between_steps_with_a_checkpoint(data, tmp_path):
    path = tmp_path / "c.npz"
    made = training(
        data,
        path,
        before_step=lambda n: press_ctrl_c() if n == 8 else None,
        checkpoint_every_s=math.inf,
    )
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert made.position.step == 9
    assert path.exists()
    resumed = training(data, path)
    assert resumed.resume()
    assert resumed.position.step == 9
    np.testing.assert_array_equal(resumed.engine.weights, made.engine.weights)


def test_ctrl_c_while_an_epoch_is_reported_leaves_a_checkpoint_of_that_epoch(data, tmp_path):
    path = tmp_path / "c.npz"

    def report(status) -> None:
        if status.row is not None and status.row["epoch"] == 1:
            press_ctrl_c()

    made = training(data, path, report=report, checkpoint_every_s=math.inf)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    resumed = training(data, path)
    assert resumed.resume()
    assert resumed.position.epoch == 2


def test_a_second_ctrl_c_ends_at_once(data):
    def event(n_steps: int) -> None:
        if n_steps == 2:
            press_ctrl_c()
            press_ctrl_c()

    made = training(data, before_step=event)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert made.position.step == 2


def test_the_handler_of_ctrl_c_is_put_back(data):
    before = signal.getsignal(signal.SIGINT)
    training(data, max_epochs=1).run()
    assert signal.getsignal(signal.SIGINT) is before


def test_there_is_nothing_to_resume_without_a_checkpoint(data, tmp_path):
    assert not training(data).resume()
    assert not training(data, tmp_path / "c.npz").resume()


def test_a_finished_fit_that_is_resumed_ends_at_once_with_the_best_weights(data, tmp_path):
    made = training(data, tmp_path / "c.npz")
    expected = outcome(made, made.run())
    again = training(data, tmp_path / "c.npz", before_step=lambda n: die())
    assert again.resume()
    assert outcome(again, again.run()) == expected


def test_a_diverging_fit_goes_back_once_and_continues_at_a_tenth_of_the_rate(data):
    made = training(data, rate=DIVERGING, warm_up_steps=0)
    result = made.run()
    rates = made.engine.rates
    assert made.position.recoveries == 1
    assert rates == sorted(rates, reverse=True)
    assert sorted(set(rates)) == pytest.approx([DIVERGING / 10, DIVERGING])
    assert result.n_steps == 4 * N_PER_EPOCH
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3]
    assert all(math.isfinite(row["train_total"]) for row in result.history)


class OneAtATime(Source):
    """Rows of another source, slowly; notes when two threads ask at once, which is not allowed."""

    def __init__(self, inner: Source) -> None:
        self.inner, self.n_obs, self.n_vars = inner, inner.n_obs, inner.n_vars
        self.free = threading.Lock()
        self.was_shared = False

    @override
    def _read(self, runs: list[slice]) -> CsrRows:
        if not self.free.acquire(blocking=False):
            self.was_shared = True
            return self.inner.fetch(runs)
        try:
            time.sleep(0.005)
            return self.inner.fetch(runs)
        finally:
            self.free.release()

    @override
    def close(self) -> None:
        pass


def test_going_back_ends_the_reading_ahead_of_what_is_not_wanted_any_more(data):
    source = OneAtATime(data.source)
    made = training(dataclasses.replace(data, source=source), prefetch=2)
    made.engine.spoil = lambda feeds: made.position.recoveries == 0 and made.engine.n_steps == 8
    n_threads = []
    made.engine.before_step = lambda n_steps: n_threads.append(threading.active_count())
    made.run()
    assert made.position.recoveries == 1
    assert not source.was_shared
    assert max(n_threads) == max(n_threads[:N_PER_EPOCH])


def test_a_fit_that_diverges_twice_names_the_term_the_batch_and_the_place(data, tmp_path):
    made = training(data, tmp_path / "c.npz", max_epochs=9)
    made.engine.spoil = lambda feeds: made.engine.n_steps > 14
    with pytest.raises(DivergedError) as caught:
        made.run()
    message = str(caught.value)
    assert "The loss term 'reconstruction' of model 'ae' became non-finite in epoch 2" in message
    assert "epoch 2, step 14, most likely by cells of batch 'batch_" in message
    assert "lowering the learning rate once did not help" in message
    assert "--learning-rate" in message
    # What remains is the last good state.
    assert made.position.step == made.engine.n_steps == 12


class Keeping(Descent):
    """Asks for rows as they are stored, and keeps them if there is room, as an engine on a GPU does."""

    budget = 0

    @override
    def takes_rows(self, transform: Transform, n_vars: int, cache_memory: int | None) -> int:
        self.transform = transform
        self.kept: list[tuple[np.ndarray, np.ndarray, np.float32]] = []
        self.n_sent = self.n_kept = 0
        return self.budget if cache_memory is None else cache_memory

    @override
    def send_rows(self, chunks: Any) -> Any:
        self.n_sent += 1
        return list(self.rows_of(chunks))

    @override
    def keep_rows(self, blocks: Any, budget_bytes: int) -> bool:
        for block in blocks:
            self.kept += self.rows_of(block)
        return True

    @override
    def kept_rows(self, places: np.ndarray) -> Any:
        self.n_kept += 1
        return [self.kept[place] for place in places]

    @override
    def step(self, feeds: Feeds, *, learning_rate: float) -> Any:
        assert len(feeds.x) == 0
        return super().step(self.dense(feeds), learning_rate=learning_rate)

    @override
    def evaluate(self, feeds: Feeds) -> np.ndarray:
        return super().evaluate(feeds if feeds.cells is None else self.dense(feeds))

    def rows_of(self, chunks: Any) -> Any:
        ends = np.cumsum(chunks.counts)
        for start, end, factor in zip(ends - chunks.counts, ends, chunks.factors, strict=True):
            yield chunks.indices[start:end], chunks.data[start:end], factor

    def dense(self, feeds: Feeds) -> Feeds:
        x = np.zeros((len(feeds.cells), self.weights.size), np.float32)
        for row, (indices, data, factor) in zip(x, feeds.cells, strict=True):
            values = np.log1p(data.astype(np.float32) * factor) * np.float32(self.transform.scale)
            np.add.at(row, indices.ravel(), values.ravel())
        return dataclasses.replace(feeds, x=x, cells=None)


@pytest.mark.parametrize("budget", [0, 10**9])
def test_rows_that_an_engine_densifies_itself_train_it_alike(data, budget):
    dense = training(data, max_epochs=3)
    expected = dense.run()
    keeping = training(data, max_epochs=3, device_cache_memory=budget or None)
    engine = Keeping(keeping.network, data.source.n_vars)
    keeping = Training(keeping.network, engine, data, keeping.config)
    found = keeping.run()
    for row, other in zip(found.history, expected.history, strict=True):
        same = {k: v for k, v in row.items() if k not in TIMINGS}
        assert same == pytest.approx({k: other[k] for k in same}, rel=1e-4)
    n_steps, n_validated = 3 * N_PER_EPOCH, 2
    assert (engine.n_kept, engine.n_sent) == (
        (n_steps, n_validated) if budget else (0, n_steps + n_validated)
    )


def test_a_bad_batch_is_named_whatever_form_its_rows_came_in(data):
    made = training(data)
    engine = Keeping(made.network, data.source.n_vars)
    # Read again for the blame, they are dense.
    engine.spoil = lambda feeds: set(feeds.batch_codes) == {1} or feeds.latent_noise is not None
    made = Training(made.network, engine, data, made.config)
    with pytest.raises(DivergedError, match=f"by cells of batch '{data.batch_levels[1]}'"):
        made.run()


@pytest.mark.parametrize("ahead", [1, 4, 100])
@pytest.mark.parametrize("rate", [STEADY, DIVERGING])
def test_a_fit_does_not_depend_on_how_late_its_losses_are_read(
    data, tmp_path, monkeypatch, ahead, rate
):
    at_once = training(data, rate=rate)
    expected = outcome(at_once, at_once.run())
    monkeypatch.setattr(Descent, "steps_ahead", ahead)
    for every_s in (0.0, math.inf):
        late = training(data, tmp_path / "c.npz", rate=rate, checkpoint_every_s=every_s)
        assert outcome(late, late.run()) == expected
    resumed = interrupted_at(
        data, tmp_path / "c.npz", [3, 13], *WAYS["Ctrl-C"], rate=rate, checkpoint_every_s=math.inf
    )  # fmt: skip
    assert outcome(resumed, resumed.result) == expected


def test_losses_are_read_so_many_steps_late_and_all_before_the_epoch_ends(data, monkeypatch):
    monkeypatch.setattr(Descent, "steps_ahead", 3)
    read, lags = [], []

    class OnDevice:
        """Loss terms that tell when they are read."""

        def __init__(self, terms: np.ndarray, n_steps: int) -> None:
            self.terms, self.n_steps = terms, n_steps

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            read.append(self.n_steps)
            lags.append(made.engine.n_steps - self.n_steps)
            return self.terms.astype(dtype)

    made = training(data, max_epochs=2, checkpoint_every_s=math.inf)
    step = made.engine.step
    made.engine.step = lambda feeds, **more: OnDevice(step(feeds, **more), made.engine.n_steps)
    made.run()
    assert read == list(range(1, 2 * N_PER_EPOCH + 1))
    assert lags == [3, 3, 3, 2, 1, 0] * 2


def test_a_step_found_bad_late_is_named_by_its_own_place(data, monkeypatch):
    monkeypatch.setattr(Descent, "steps_ahead", 2)
    made = training(data, max_epochs=9)
    made.engine.spoil = lambda feeds: made.engine.n_steps == 14
    with pytest.raises(DivergedError, match="epoch 2, step 13, most likely by cells of batch"):
        made.run()


def test_the_batch_with_the_largest_loss_is_suspected(data):
    def spoil(feeds: Feeds) -> bool:
        return set(feeds.batch_codes) == {1} or feeds.latent_noise is not None

    made = training(data, spoil=spoil)
    with pytest.raises(DivergedError, match=f"by cells of batch '{data.batch_levels[1]}'"):
        made.run()
    # Without any loss that is not a number, the batch whose code is hardest to tell from 0.
    made = training(data, spoil=lambda feeds: feeds.latent_noise is not None)
    with pytest.raises(DivergedError, match=f"by cells of batch '{data.batch_levels[-1]}'"):
        made.run()


def test_losses_that_are_not_finite_in_validation_name_a_batch_too(data):
    def spoil(feeds: Feeds) -> bool:
        return feeds.latent_noise is None and bool((feeds.batch_codes == 3).any())

    made = training(data, spoil=spoil)
    with pytest.raises(DivergedError) as caught:
        made.run()
    message = str(caught.value)
    assert "'reconstruction' of model 'ae' became non-finite in epoch 1, step 12" in message
    assert f"in validation, most likely by cells of batch '{data.batch_levels[3]}'" in message


def test_the_best_weights_are_left_in_the_engine(data):
    kept = {}

    def report(status) -> None:
        if status.row is not None and "val_total" in status.row:
            kept[status.row["epoch"]] = (status.row["val_total"], made.engine.weights.copy())

    made = training(data, report=report, validate_every_steps=0, rate=0.3, max_epochs=6)
    result = made.run()
    best = min(kept, key=lambda epoch: kept[epoch][0])
    assert result.best_epoch == best
    assert result.best_value == kept[best][0]
    np.testing.assert_array_equal(made.engine.weights, kept[best][1])


def test_after_patience_the_rate_falls_from_the_best_weights_and_then_the_fit_ends(data):
    rule = StoppingRule(1, rate_drops=1, minimum_gain=0.9, minimum_checks=2)
    made = training(
        data, stopping=rule, validate_every_steps=0, warm_up_steps=0, max_epochs=50, rate=1e-6
    )
    result = made.run()
    # One best, two without a gain of 90 %, and two more at a fifth of the rate.
    assert len(result.history) == 5
    assert made.engine.rates[0] == 1e-6
    assert made.engine.rates[-1] == pytest.approx(2e-7)
    # The third was the best all the same: training goes on from there, not from an older one.
    assert result.history[2]["val_total"] < result.history[1]["val_total"]
    np.testing.assert_array_equal(made.engine.trained[3 * N_PER_EPOCH], made.engine.validated[2])
    assert result.history[2]["learning_rate"] == 1e-6
    assert result.history[3]["learning_rate"] == pytest.approx(2e-7)


def test_the_rate_warms_up_and_annealed_terms_ramp_up(data):
    made = training(data, max_epochs=3, warm_up_steps=8, ramp_steps=10)
    made.run()
    steps = np.arange(3 * N_PER_EPOCH)
    np.testing.assert_allclose(made.engine.rates, STEADY * np.minimum(1, (steps + 1) / 8))
    np.testing.assert_allclose(made.engine.ramps, np.minimum(1, steps / 10))


def test_every_step_of_every_epoch_draws_its_own_noise(data):
    made, other = training(data), training(data, seed=4)
    made.run()
    other.run()
    drawn = made.engine.drawn
    assert len(set(drawn)) == len(drawn) == 4 * N_PER_EPOCH
    assert not set(drawn) & set(other.engine.drawn)


def test_short_epochs_are_validated_together_and_the_last_one_always(data):
    result = training(data, max_epochs=5, validate_every_steps=10).run()
    validated = [row["epoch"] for row in result.history if "val_total" in row]
    assert validated == [1, 3, 4]


def test_losses_are_means_over_the_cells(data):
    made = training(data, max_epochs=1, rate=1e-30)
    (row,) = made.run().history
    made.network.uses_latent_noise = False
    val = data.split.val
    codes = data.columns.batch_codes[val].astype(float)
    # With weights of zero the loss of a cell is its code squared.
    assert row["val_total"] == pytest.approx(np.mean(codes**2), rel=1e-6)
    train = np.concatenate([data.columns.batch_codes[rows] for rows in data.split.train])
    # Training adds noise of variance one to what is asked for.
    assert row["train_total"] == pytest.approx(np.mean(train.astype(float) ** 2) + 1, rel=0.25)


def test_reports_tell_how_far_an_epoch_is_and_end_with_its_row(data):
    found = []
    training(data, max_epochs=2, report=found.append).run()
    rows = [status.row for status in found if status.row is not None]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all(status.max_epochs == 2 for status in found)
    assert all(status.n_minibatches == N_PER_EPOCH for status in found if status.row is None)


def test_the_checkpoint_can_always_be_read(data, tmp_path):
    path = tmp_path / "c.npz"
    epochs = []

    def event(n_steps: int) -> None:
        if path.exists():
            epochs.append(read_checkpoint(path)[0]["now"]["n_steps"].item())

    training(data, path, before_step=event).run()
    # Written after every step but the last of an epoch that is not validated.
    assert epochs == sorted(epochs)
    assert epochs[-1] == 4 * N_PER_EPOCH - 1

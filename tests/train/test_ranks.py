"""One fit on several real processes: the numbers of one process, and ends that are noticed."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from medl_scale.errors import ConfigError, RankLostError, StoreError
from medl_scale.ranks import Ranks
from medl_scale.store.latents import read_latent_array
from medl_scale.train.fit import fit_one
from medl_scale.train.fit_files import latent_path, read_epochs, read_status
from tests.models import small
from tests.train import rank_process
from tests.train.left import differing, left_by
from tests.train.rank_process import Gang

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medl_scale.train.fit_files import FitTask

NEVER_STOPS = {"early_stopping_patience": 10**6, "checkpoint_every_s": 1.0}
TWO = ("127.0.0.1:1", "127.0.0.1:2")


def losses(task: FitTask) -> np.ndarray:
    """Return the total training loss of each epoch."""
    return np.array([row["train_total"] for row in read_epochs(Path(task.folder))[0]])


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest relative difference."""
    return float(np.max(np.abs(one - other) / np.abs(one)))


def assert_same_fit(shared: FitTask, alone: FitTask) -> None:
    """Compare the losses and latents of a fit by several ranks with those of one process."""
    assert largest_difference(losses(alone), losses(shared)) < 1e-5
    key = f"X_medl_{alone.model}"
    one, other = (
        np.asarray(read_latent_array(latent_path(task.latents, key, 0))) for task in (alone, shared)
    )
    assert np.abs(one - other).max() < 1e-2 * np.abs(one).max()


def test_two_ranks_fit_as_one_process_does(task, tmp_path):
    shared, alone = (task("re", name, max_epochs=1) for name in ("shared", "alone"))
    first, second = Gang(tmp_path / "gang", [("fit", shared)], 2).results()
    (summary, heard), (same_summary, nothing) = first[0], second[0]
    fit_one(alone)
    assert summary == same_summary
    assert summary.n_steps == 6
    assert heard[-1].state == "done"
    assert nothing == []  # the first rank alone reports
    assert_same_fit(shared, alone)


@pytest.mark.slow  # a dozen networks are traced in two processes: a minute on two cores
def test_parts_of_a_minibatch_are_worth_the_whole_in_every_model(tmp_path):
    jobs = [("steps", name) for name in small.CASES]
    ranks = Gang(tmp_path / "gang", jobs, 2).results(timeout_s=280)
    for place, name in enumerate(small.CASES):
        first, second = (found[place] for found in ranks)
        for key, value in first.items():
            # Weights, moments, moving statistics and losses, bit for bit.
            assert np.array_equal(value, second[key]), (name, key)
        alone = rank_process.steps(None, name)
        asked = first["losses"][:, -1]
        assert asked.tolist() == [float(step == 3) for step in range(rank_process.N_STEPS)]
        assert largest_difference(alone["losses"], first["losses"][:, :-1]) < 1e-5, name
        for key, value in alone.items():
            # Not the means: a bias before a batch norm has no gradient but rounding's, which Adam
            # takes for one.
            if (key.startswith("effects/") and not key.endswith("moments")) or "/variance" in key:
                assert np.allclose(value, first[key], rtol=1e-3, atol=1e-3), (name, key)


@pytest.mark.slow  # five fits on three processes: a minute on two cores
def test_three_ranks_with_unequal_parts_fit_as_one_process_does(task, tmp_path):
    # 16 lanes in parts of 5, 5 and 6, and 360 cells in minibatches of 64 with a last one of 40.
    models = ("me", "fe", "fec")
    tasks = [[task(m, f"{m}-{k}", max_epochs=6) for m in models] for k in ("shared", "alone")]
    Gang(tmp_path / "gang", [("fit", each) for each in tasks[0]], 3).results(timeout_s=280)
    for shared, alone in zip(*tasks, strict=True):
        fit_one(alone)
        assert len(losses(alone)) == 6
        assert_same_fit(shared, alone)


@pytest.fixture
def running(task, tmp_path) -> Iterator[tuple[FitTask, Gang]]:
    """A fit without end on two ranks, some epochs old."""
    long = task("me", "lost", max_epochs=100_000, **NEVER_STOPS)
    gang = Gang(tmp_path / "lost-gang", [("fit", long)], 2)
    try:
        wait_for_epoch(long, gang, 2)
        yield long, gang
    finally:
        gang.end()


def wait_for_epoch(task: FitTask, gang: Gang, epoch: int) -> None:
    """Wait until a fit is in some epoch."""
    end = time.monotonic() + 120
    while True:
        status = read_status(Path(task.folder))
        if status is not None and status.epoch >= epoch:
            return
        assert time.monotonic() < end
        codes = [process.poll() for process in gang.processes]
        assert codes == [None] * len(codes), codes
        time.sleep(0.05)


@pytest.mark.slow  # starts two processes for each kind of loss
@pytest.mark.parametrize(("lost", "how"), [(1, "SIGKILL"), (0, "SIGKILL"), (1, "SIGSTOP")])
def test_a_lost_rank_is_noticed_within_ten_seconds(running, lost, how):
    _, gang = running
    at = time.time()
    gang.processes[lost].send_signal(getattr(signal, how))
    gang.processes[1 - lost].wait(30)
    ((error, when),) = gang.left_by(1 - lost)
    assert when - at < 10
    assert isinstance(error, RankLostError)
    assert isinstance(error, ConnectionError)
    assert f"Rank {1 - lost} of 2 lost another" in str(error)
    assert "continues from its last checkpoint" in str(error)


@pytest.mark.slow  # three gangs, one after another
@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (2, 2)])
def test_a_lost_fit_continues_with_as_many_ranks_or_not(task, tmp_path, counts):
    whole = task("me", "whole", max_epochs=8, **NEVER_STOPS)
    fit_one(whole)
    cut = task("me", "cut", max_epochs=8, resume=True, **NEVER_STOPS)
    before, after = counts
    gang = Gang(tmp_path / "before", [("fit", cut)], before)
    wait_for_epoch(cut, gang, 3)
    gang.end()
    assert not (Path(cut.folder) / "done.json").exists()
    done = len(losses(cut))
    Gang(tmp_path / "after", [("fit", cut)], after).results()
    assert done >= 2
    assert len(losses(cut)) == 8
    assert largest_difference(losses(whole), losses(cut)) < 1e-4


@pytest.mark.slow  # three gangs, one after another
@pytest.mark.parametrize(("model", "n_ranks"), [("me", 2), ("fe", 3)])
def test_as_many_ranks_as_before_continue_a_lost_fit_to_the_last_bit(
    task, tmp_path, model, n_ranks
):
    whole = task(model, "whole", max_epochs=8, **NEVER_STOPS)
    Gang(tmp_path / "whole", [("fit", whole)], n_ranks).results(timeout_s=120)
    cut = task(model, "cut", max_epochs=8, resume=True, **NEVER_STOPS)
    gang = Gang(tmp_path / "before", [("fit", cut)], n_ranks)
    wait_for_epoch(cut, gang, 3)
    gang.processes[-1].kill()
    gang.end()
    assert (Path(cut.folder) / "checkpoint.npz").exists()
    assert not (Path(cut.folder) / "done.json").exists()
    Gang(tmp_path / "after", [("fit", cut)], n_ranks).results(timeout_s=120)
    assert differing(left_by(whole), left_by(cut)) == []


@pytest.mark.slow  # starts two processes
def test_an_error_on_one_rank_ends_the_others_wait(task, tmp_path):
    good = task("me", "fit", max_epochs=100_000, **NEVER_STOPS)
    # The second rank is given an atlas whose rows cannot be read.
    gang = Gang(tmp_path / "gang", [("fit_damaged", good)], 2)
    first, second = gang.results(timeout_s=120)
    assert isinstance(second[0][0], StoreError)
    assert isinstance(first[0][0], RankLostError)
    assert first[0][1] - second[0][1] < 10


@pytest.mark.slow  # starts two processes
def test_ctrl_c_at_any_rank_ends_all_after_a_checkpoint(running):
    task, gang = running
    gang.processes[1].send_signal(signal.SIGINT)
    for rank, process in enumerate(gang.processes):
        process.wait(30)
        assert gang.left_by(rank) == ["interrupted"]
    assert (Path(task.folder) / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    ("model", "changes", "n_ranks", "told"),
    [
        ("pca", {}, 2, "Model 'pca' has no steps that ranks could share; got 2 ranks."),
        ("me", {"compile": "on"}, 2, "compile 'on' lets XLA compile the step"),
        ("me", {}, 17, "shared by 1 to 16 ranks; got 17"),
        ("me", {"minibatch_size": 16, "run_size": 4, "window_size": 64}, 16, "has 7 cells"),
    ],
)
def test_fits_that_cannot_be_shared_are_refused_before_anyone_waits(
    task, model, changes, n_ranks, told
):
    ranks = Ranks(0, tuple(f"127.0.0.1:{port}" for port in range(1, n_ranks + 1)))
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        fit_one(task(model, **changes), None, ranks)


def test_one_rank_is_one_process(task):
    summary = fit_one(task("ae", max_epochs=1), None, Ranks(0, TWO[:1]))
    assert summary.n_steps == 6


def test_a_summary_travels_as_it_is_kept(task):
    one = task("ae", max_epochs=1)
    summary = fit_one(one)
    kept = json.loads((Path(one.folder) / "done.json").read_text())
    assert json.loads(json.dumps(dataclasses.asdict(summary))) == kept

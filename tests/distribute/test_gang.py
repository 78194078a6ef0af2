"""Gangs of processes on real workers, with real signals."""

import os
import re
import signal
import time

import psutil
import pytest

from medl_scale.distribute.limits import Limits
from medl_scale.distribute.local import local_client
from medl_scale.distribute.schedule import run_on_client
from medl_scale.distribute.tasks import Task
from tests.distribute.sums import add_up

# The sum of the numbers below 12, six times.
TOTAL = 6 * 66


@pytest.fixture(scope="module")
def client():
    with local_client(2, 1) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_stays(client):
    """No process of a gang outlives its test."""
    yield
    deadline = time.monotonic() + 5
    while members():
        assert time.monotonic() < deadline, members()
        time.sleep(0.05)


def members():
    """Return the processes that are members of gangs, of this test's workers."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "medl_scale.distribute.member" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def task(folder, name="sum", n_ranks=2, **payload):
    return Task(name, {"folder": str(folder), "n_steps": 6, **payload}, n_ranks=n_ranks)


def run(client, *tasks, limits=None, **options):
    """Return the outcomes by name, and the losses as they were told."""
    told = []
    outcomes = run_on_client(
        client,
        add_up,
        tasks,
        n_workers=options.pop("n_workers", 2),
        on_update=options.pop("on_update", None),
        every_s=0.25,
        on_loss=lambda name, loss: told.append((name, loss)),
        limits=limits,
    )
    return {outcome.name: outcome for outcome in outcomes}, told


def numbers(folder):
    """Return the process numbers of both ranks."""
    return [int((folder / f"rank{rank}.pid").read_text().split()[0]) for rank in (0, 1)]


def test_one_task_runs_over_two_processes_and_the_next_starts_in_them_at_once(client, tmp_path):
    states = []
    ended, told = run(
        client, task(tmp_path / "a", "a"), task(tmp_path / "b", "b"), on_update=states.append
    )
    first, second = ended["a"], ended["b"]
    assert first.value[:3] == second.value[:3] == (TOTAL, 2, 0)
    assert (first.losses, first.n_restarts, told) == ((), 0, [])
    assert states[-1] == {"a": "done", "b": "done"}
    # Both ranks were processes of their own, neither this one nor a worker, and the same both times.
    pids = numbers(tmp_path / "a")
    assert pids == numbers(tmp_path / "b")
    assert len({*pids, os.getpid(), *client.run(os.getpid).values()}) == 5
    assert second.value[4] - (tmp_path / "a" / "checkpoint").stat().st_mtime < 1.0


@pytest.mark.parametrize(
    ("rank", "act", "said"),
    [
        (0, "die once", "its process was killed by SIGKILL"),
        (1, "die once", "its process was killed by SIGKILL"),
        (1, "stop once", "its process was stopped by a signal"),
    ],
)
def test_a_lost_member_ends_all_and_new_ones_go_on_from_the_checkpoint(
    client, tmp_path, rank, act, said
):
    ended, told = run(client, task(tmp_path, act=act, rank=rank))
    outcome = ended["sum"]
    # Steps 0 to 2 were not done again.
    assert outcome.value[:3] == (TOTAL, 2, 3)
    assert outcome.n_restarts == 1
    assert told == [("sum", loss) for loss in outcome.losses]
    (loss,) = outcome.losses
    assert loss.what.startswith(f"rank {rank} of 2 on tcp://127.0.0.1:")
    assert loss.what.endswith(said)
    assert loss.after_s < 10


def test_a_task_that_always_loses_a_member_is_given_up_and_what_it_printed_is_kept(
    client, tmp_path
):
    ended, told = run(client, task(tmp_path, act="exit"), task(tmp_path / "b", "after"))
    outcome = ended["sum"]
    assert re.fullmatch(
        r"It lost a process 3 times: (after \d+ s, rank 1 of 2 on tcp\S+: its process "
        r"ended with exit status 7(; |\. )){3}Run fewer workers at a time \(--workers\), or give each more memory \(--memory-limit\)\.",
        outcome.error,
    )
    assert outcome.traceback == "half a line to standard output"
    assert (len(outcome.losses), outcome.n_restarts, len(told)) == (3, 2, 2)
    assert ended["after"].value[:3] == (TOTAL, 2, 0)


def test_a_mistake_of_the_task_itself_is_told_and_not_tried_again(client, tmp_path):
    ended, told = run(client, task(tmp_path, act="raise"), task(tmp_path / "b", "after"))
    assert ended["sum"].error == "ValueError: a real mistake"
    assert "in act\n" in ended["sum"].traceback
    assert told == []
    assert ended["after"].value[:3] == (TOTAL, 2, 0)


def test_what_the_first_rank_returned_holds_when_another_does_not_end(client, tmp_path):
    asked = task(tmp_path / "a", n_steps=2, after="sleep")
    ended, told = run(client, asked, task(tmp_path / "b", "b"), limits=Limits(start_s=1.0))
    assert ended["sum"].value[:2] == (2 * 66, 2)
    assert told == []
    # The other rank is not waited for any more, nor asked to do the next task.
    assert ended["b"].value[:2] == (TOTAL, 2)
    assert numbers(tmp_path / "a")[0] not in numbers(tmp_path / "b")


def test_a_gang_that_gets_nowhere_is_ended(client, tmp_path):
    limits = Limits(idle_s=1.5)
    ended, _ = run(client, task(tmp_path, act="sleep once"), limits=limits)
    (loss,) = ended["sum"].losses
    assert re.match(r"rank 0 of 2 on tcp\S+: it made no progress for 2 s", loss.what)
    assert ended["sum"].value[:3] == (TOTAL, 2, 3)


def test_with_fewer_workers_than_ranks_there_are_fewer_ranks(client, tmp_path):
    three, one = task(tmp_path / "3", "3", n_ranks=3), task(tmp_path / "1", "1", n_ranks=1)
    ended, told = run(client, three, one, n_workers=3, limits=Limits(refill_s=0.5))
    assert ended["3"].value[:2] == (TOTAL, 2)
    assert ended["1"].value[:2] == (TOTAL, 1)
    assert told == []


def test_members_end_with_their_worker_however_it_dies(client, tmp_path):
    def kill(states):
        pid_files = list(tmp_path.glob("rank*.pid"))
        if len(pid_files) == 2 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

    # The nanny's next worker is waited for.
    limits = Limits(refill_s=60.0)
    ended, told = run(client, task(tmp_path, step_s=0.3), on_update=kill, limits=limits)
    assert ended["sum"].value[:2] == (TOTAL, 2)
    ((_, loss),) = told
    assert "its worker process died: killed, or out of memory, or it left the cluster" in loss.what


@pytest.mark.slow  # a cluster of its own, and 800 MiB of memory
def test_a_member_that_outgrows_the_memory_of_its_worker_is_ended(tmp_path):
    with local_client(2, 1, memory_limit=500 << 20) as client:
        ended, _ = run(client, task(tmp_path, act="grow once"))
    (loss,) = ended["sum"].losses
    assert re.search(
        r"its process used 0\.\d\d GiB of memory, above the limit of its worker, 0\.46 GiB",
        loss.what,
    )
    assert ended["sum"].value[:2] == (TOTAL, 2)

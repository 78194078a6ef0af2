"""One task a worker, on a cluster whose settings are Dask's own, with real signals."""

import ctypes
import os
import signal
import time
from pathlib import Path

import pytest

from medl_scale.distribute.limits import Limits
from medl_scale.distribute.schedule import run_on_client
from medl_scale.distribute.tasks import Task


@pytest.fixture(scope="module")
def cluster():
    """A cluster that nobody has told to report every death."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=50,
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        yield client


def work(payload):
    """Do an act in a folder, where every start leaves a line."""
    act, folder = payload
    with (folder / "starts").open("a") as file:
        file.write(f"{act} {os.getpid()} {time.time()}\n")
    is_first = (folder / "starts").read_text().count(act) == 1
    if act == "freeze" and is_first:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "hold on":
        # No other thread of the process runs Python code meanwhile, so no heartbeat is sent.
        ctypes.PyDLL(None).sleep(10)
    elif act == "tick":
        while True:
            (folder / "tick").touch()
            time.sleep(0.05)
    elif act == "meet":
        # Three processes must be here at the same time.
        deadline = time.monotonic() + 60
        while len(starts(folder, act)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    return act, os.getpid()


def run(client, tasks, *, n_workers=2, on_update=None, limits=None):
    outcomes = run_on_client(
        client,
        work,
        tasks,
        n_workers=n_workers,
        on_update=on_update,
        every_s=0.25,
        limits=limits,
    )
    return {outcome.name: outcome for outcome in outcomes}


def starts(folder, act):
    lines = (folder / "starts").read_text().splitlines()
    return [line.rsplit(" ", 2) for line in lines if line.startswith(act)]


def test_a_frozen_worker_is_noticed_in_ten_seconds_and_a_busy_one_is_left_alone(client, tmp_path):
    tasks = [Task(act, (act, tmp_path)) for act in ("freeze", "hold on")]
    ended = run(client, tasks)
    frozen, busy = ended["freeze"], ended["hold on"]
    (loss,) = frozen.losses
    assert loss.what.startswith("its worker process was stopped by a signal, silent for ")
    assert loss.after_s < 10
    assert frozen.value[0] == "freeze"
    assert frozen.n_restarts == 1
    (_, first_pid, _), (_, second_pid, _) = starts(tmp_path, "freeze")
    assert first_pid != second_pid
    assert not Path(f"/proc/{first_pid}").exists()
    assert (busy.value[0], busy.losses) == ("hold on", ())


def test_deaths_are_counted_right_whatever_the_scheduler_allows(client, tmp_path):
    outcome = run(client, [Task("die", ("die", tmp_path))])["die"]
    assert outcome.error.startswith("Its worker process died 3 times: killed, or out of memory.")
    assert len(starts(tmp_path, "die")) == 3
    assert (len(outcome.losses), outcome.n_restarts) == (3, 2)


def test_a_worker_that_comes_during_the_run_takes_waiting_tasks(cluster, client, tmp_path):
    def add_a_worker(states):
        if "running" in states.values() and len(cluster.workers) == 2:
            cluster.scale(3)

    tasks = [Task(f"meet {i}", ("meet", tmp_path)) for i in range(3)]
    ended = run(client, tasks, n_workers=3, on_update=add_a_worker)
    assert len({outcome.value[1] for outcome in ended.values()}) == 3


def test_runs_with_tasks_of_the_same_name_do_not_get_each_others_results(client, tmp_path):
    assert run(client, [Task("a", ("one", tmp_path))])["a"].value[0] == "one"
    assert run(client, [Task("a", ("two", tmp_path))])["a"].value[0] == "two"


def test_a_function_ends_when_nobody_waits_for_it_any_more(client, tmp_path):
    class Enough(Exception):
        pass

    def give_up(states):
        if (tmp_path / "tick").exists():
            raise Enough

    with pytest.raises(Enough):
        run(client, [Task("tick", ("tick", tmp_path))], on_update=give_up)
    time.sleep(1.5)
    assert time.time() - (tmp_path / "tick").stat().st_mtime > 0.5
    # The worker is as good as before.
    assert run(client, [Task("a", ("one", tmp_path))])["a"].value[0] == "one"


def test_without_a_worker_tasks_fail_after_a_while(tmp_path):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=0,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        ended = run(client, [Task("a", ("one", tmp_path))], limits=Limits(no_worker_s=0.6))
    assert ended["a"].error == (
        "No worker could take it for 1 s: none is left in the cluster. See why they ended, and start "
        "some again."
    )


def test_workers_that_dask_has_paused_are_told_of_with_the_remedy(tmp_path):
    import dask
    from distributed import Client, LocalCluster

    # The nanny would end so large a worker, again and again.
    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="50MB",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        (address,) = client.scheduler_info()["workers"]
        deadline = time.monotonic() + 20
        while client.scheduler_info()["workers"][address]["status"] != "paused":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ended = run(client, [Task("a", ("one", tmp_path))], limits=Limits(no_worker_s=0.6))
    assert ended["a"].error == (
        "No worker could take it for 1 s: Dask has paused 1, out of memory. Run fewer workers at a "
        "time (--workers), or give each more memory (--memory-limit)."
    )

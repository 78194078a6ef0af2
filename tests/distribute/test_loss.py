"""The scheduler and the driver themselves are killed, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medl_scale.distribute.schedule import run_on_client
from medl_scale.distribute.tasks import Task
from medl_scale.errors import SchedulerLostError
from tests.distribute.sums import add_up

# A scheduler, workers and a driver in processes of their own take long to start.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

DRIVER = """
import sys
from distributed import Client
from tests.distribute.test_loss import run, tasks
if __name__ == "__main__":
    with Client(scheduler_file=sys.argv[1]) as client:
        run(client, tasks(sys.argv[2], n_steps=10_000))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The file of a scheduler with three workers, and the processes of both."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    processes = [
        start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", file),
        start(
            "worker", "--nworkers", "3", "--nthreads", "1", "--no-dashboard",
            "--scheduler-file", file, "--local-directory", folder,
        ),
    ]  # fmt: skip
    yield file, processes
    for process in processes:
        if process.poll() is not None:
            continue
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def start(kind, *options):
    """Start a scheduler or workers, as a user would."""
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, options)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(scheduler_file=str(cluster[0]), set_as_default=False) as client:
        # One of three is let go in a test.
        client.wait_for_workers(2, timeout=60)
        yield client


def tasks(folder, **payload):
    """Return one task for two workers, and one for another."""
    payload = {"step_s": 0.05, **payload}
    return [
        Task("two", {"folder": f"{folder}/two", **payload}, n_ranks=2),
        Task("one", {"folder": f"{folder}/one", **payload}),
    ]


def run(client, wanted, on_update=None):
    outcomes = run_on_client(client, add_up, wanted, n_workers=3, on_update=on_update, every_s=0.25)
    return {outcome.name: outcome for outcome in outcomes}


def step(folder):
    """Return the step that a task has reached."""
    checkpoint = folder / "checkpoint"
    return int(checkpoint.read_text().split()[0]) if checkpoint.exists() else 0


def members_of(process):
    """Return the processes of gangs beside the workers of `dask worker`."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "medl_scale.distribute.member" in child.cmdline()
    ]


def wait_until(fact, seconds):
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_killed_driver_had_started_ends_and_can_be_resumed(cluster, client, tmp_path):
    file, (_, workers) = cluster
    client.wait_for_workers(3, timeout=60)
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(file), str(tmp_path)], env=environment()
    )
    both = tmp_path / "one", tmp_path / "two"
    wait_until(lambda: all(step(folder) > 2 for folder in both), 60)
    members = members_of(workers)
    assert len(members) == 2
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(members, timeout=10)
    assert alive == []
    time.sleep(1)
    reached = {folder.name: step(folder) for folder in both}
    time.sleep(1)
    assert {folder.name: step(folder) for folder in both} == reached

    ended = run(client, tasks(tmp_path, n_steps=max(reached.values()) + 2))
    assert {name: outcome.value[1:3] for name, outcome in ended.items()} == {
        "two": (2, reached["two"]),
        "one": (1, reached["one"]),
    }


def test_a_worker_whose_host_does_not_answer_is_let_go_in_ten_seconds(cluster, client, tmp_path):
    _, (_, nannies) = cluster
    stopped = []
    times_s = []

    def freeze(states):
        if not stopped and step(tmp_path / "one") > 2:
            pid = int((tmp_path / "one" / "rank0.pid").read_text().split()[0])
            stopped.extend([psutil.Process(nannies.pid), psutil.Process(pid)])
            times_s.append(time.monotonic())
            for process in stopped:
                process.suspend()

    try:
        (outcome,) = run_on_client(
            client,
            add_up,
            tasks(tmp_path, n_steps=60)[1:],
            n_workers=3,
            on_update=freeze,
            every_s=0.25,
            on_loss=lambda *_: times_s.append(time.monotonic()),
        )
    finally:
        for process in stopped:
            process.resume()
    (loss,) = outcome.losses
    assert "its worker's host has been out of reach for" in loss.what
    assert times_s[1] - times_s[0] < 10
    assert outcome.value[:2] == (60 * 66, 1)
    assert outcome.value[2] > 2


@pytest.mark.parametrize(("sent", "most_s"), [(signal.SIGSTOP, 40), (signal.SIGKILL, 10)])
def test_a_scheduler_that_is_gone_ends_the_run_with_what_to_do_and_the_workers_end(
    cluster, client, tmp_path, sent, most_s
):
    _, (scheduler, workers) = cluster
    sent_s = []
    members = []

    def kill(states):
        if not sent_s and step(tmp_path / "two") > 2:
            members.extend(members_of(workers))
            scheduler.send_signal(sent)
            sent_s.append(time.monotonic())

    with pytest.raises(
        SchedulerLostError,
        match=r"The Dask scheduler at tcp://\S+ does not answer any more: .* go on with --resume\.",
    ):
        run(client, tasks(tmp_path, n_steps=10_000), on_update=kill)
    assert time.monotonic() - sent_s[0] < most_s
    scheduler.send_signal(signal.SIGCONT)
    client.close()
    assert len(members) == 2
    _, alive = psutil.wait_procs(members, timeout=10)
    assert alive == []
    if sent == signal.SIGSTOP:
        return
    processes = psutil.Process(workers.pid).children(recursive=True)
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []

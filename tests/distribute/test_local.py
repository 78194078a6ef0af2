import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from medl_scale.distribute import Task, run_tasks
from medl_scale.errors import ConfigError

ROOT = Path(__file__).parents[2]


def work(payload):
    """What the workers do: payload is the name of an act and its argument."""
    act, argument = payload
    started = time.time()
    if act == "sleep":
        time.sleep(argument)
    elif act == "raise":
        raise ValueError(argument)
    elif act == "leave":
        sys.exit(argument)
    elif act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "die once" and not Path(argument).exists():
        Path(argument).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "environment":
        return {name: os.environ.get(name) for name in argument}
    elif act == "hold":
        held = b"1" * argument
        time.sleep(2)
        return len(held)
    return os.getpid(), started, time.time()


def test_tasks_come_back_in_the_order_given_whatever_happens_to_some(tmp_path):
    tasks = [
        Task("short", ("sleep", 0.1), cost=1),
        Task("wrong", ("raise", "boo"), cost=5),
        Task("long", ("sleep", 1.0), cost=9),
        Task("deadly", ("die", None), cost=8),
        Task("unlucky", ("die once", tmp_path / "died"), cost=7),
        Task("leaving", ("leave", 3), cost=6),
        *(Task(f"more {i}", ("sleep", 0.1), cost=2) for i in range(4)),
    ]
    environment = dict(os.environ)
    outcomes = run_tasks(work, tasks, n_workers=2)
    assert [outcome.name for outcome in outcomes] == [task.name for task in tasks]
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert {name for name, outcome in by_name.items() if outcome.error} == {
        "wrong",
        "deadly",
        "leaving",
    }
    assert by_name["wrong"].error == "ValueError: boo"
    assert "in work\n" in by_name["wrong"].traceback
    assert by_name["leaving"].error == "SystemExit: 3"
    assert by_name["deadly"].error.startswith("Its worker process died 3 times: killed, or out of")
    assert (tmp_path / "died").exists()

    # Each process ran one task at a time, and not this one.
    runs = sorted(outcome.value for outcome in outcomes if not outcome.error)
    for (pid, _, end), (next_pid, start, _) in pairwise(runs):
        assert pid != next_pid or end <= start
    assert os.getpid() not in {pid for pid, _, _ in runs}
    started = {name: outcome.value[1] for name, outcome in by_name.items() if outcome.value}
    assert min(started, key=started.get) == "long"
    # Two are given out together: either may come to its worker first.
    assert "short" in sorted(started, key=started.get)[-2:]
    assert dict(os.environ) == environment
    assert not any("spawn_main" in str(child.cmdline()) for child in psutil.Process().children())


def test_threads_are_set_before_libraries_are_loaded():
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    tasks = [Task(str(i), ("environment", names)) for i in range(2)]
    for outcome in run_tasks(work, tasks, n_workers=2, threads_per_worker=3):
        assert outcome.value == dict.fromkeys(names, "3")


def test_one_worker_is_this_process():
    tasks = [
        Task("a", ("sleep", 0), cost=1),
        Task("b", ("raise", "boo")),
        Task("c", ("sleep", 0), 2),
    ]
    first, second, third = run_tasks(work, tasks, n_workers=1)
    assert first.value[0] == third.value[0] == os.getpid()
    assert third.value[2] <= first.value[1]
    assert second.error == "ValueError: boo"
    assert "in work\n" in second.traceback


def test_one_task_needs_no_other_process():
    assert run_tasks(work, [Task("a", ("sleep", 0))], n_workers=4)[0].value[0] == os.getpid()
    assert run_tasks(work, [], n_workers=4) == []


@pytest.mark.parametrize("n_workers", [1, 2])
def test_states_are_told_while_tasks_run(n_workers):
    seen = []
    tasks = [Task(name, ("sleep", 0.7)) for name in "ab"] + [Task("c", ("raise", "boo"), cost=0.1)]
    run_tasks(work, tasks, n_workers=n_workers, on_update=seen.append)
    n_running = {list(states.values()).count("running") for states in seen}
    assert max(n_running) == n_workers
    assert seen[-1] == {"a": "done", "b": "done", "c": "failed"}
    assert len(seen) >= 2


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_error_of_the_display_is_not_swallowed(n_workers):
    def on_update(states):
        raise ZeroDivisionError("display")

    tasks = [Task(name, ("sleep", 0.8)) for name in "ab"]
    with pytest.raises(ZeroDivisionError, match="display"):
        run_tasks(work, tasks, n_workers=n_workers, on_update=on_update)


def test_a_worker_that_outgrows_its_memory_is_ended():
    tasks = [Task("big", ("hold", 900 << 20)), Task("small", ("hold", 1 << 20))]
    big, small = run_tasks(work, tasks, n_workers=2, memory_limit=600 << 20)
    assert "died 3 times" in big.error
    assert small.value == 1 << 20


def test_names_must_differ_and_workers_be_positive():
    twice = [Task("a", None), Task("b", None), Task("a", None)]
    with pytest.raises(ConfigError, match=r"Tasks need names of their own; repeated: a\."):
        run_tasks(work, twice, n_workers=2)
    with pytest.raises(ConfigError, match=r"n_workers must be at least 1; got 0\."):
        run_tasks(work, twice, n_workers=0)


SLEEPER = """
import sys, time
from medl_scale.distribute import Task, run_tasks
from tests.distribute.test_local import work
if __name__ == "__main__":
    print("starting", flush=True)
    try:
        run_tasks(
            work,
            [Task(str(i), ("sleep", 60)) for i in range(4)],
            n_workers=2,
            on_update=lambda states: print(*states.values(), flush=True),
        )
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
"""


@pytest.mark.parametrize("moment", ["while workers start", "while tasks run"])
@pytest.mark.parametrize("way", ["terminal", "kill"])
def test_no_process_outlives_an_interrupted_parent(tmp_path, moment, way):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    if moment == "while tasks run":
        while "running running" not in parent.stdout.readline():
            assert parent.poll() is None
    else:
        parent.stdout.readline()
        while not psutil.Process(parent.pid).children():
            time.sleep(0.01)
        time.sleep(0.2)
    children = psutil.Process(parent.pid).children(recursive=True)
    sent = time.monotonic()
    if way == "terminal":
        # A terminal sends Ctrl-C to all processes, workers included.
        os.killpg(parent.pid, signal.SIGINT)
    else:
        parent.kill()
    output, _ = parent.communicate(timeout=30)
    while any(child.is_running() and child.status() != "zombie" for child in children):
        assert time.monotonic() - sent < 30
        time.sleep(0.02)
    if way == "terminal":
        assert parent.returncode == 130
        assert output.endswith("interrupted\n")
        assert "Traceback" not in output


def test_a_script_that_starts_workers_when_imported_is_told_so(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from medl_scale.distribute import Task, run_tasks\n"
        "run_tasks(str, [Task('a', 1), Task('b', 2)], n_workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert "Put its calls under `if __name__ == '__main__':`" in done.stderr
    assert "ClusterError: 2 worker processes could not be started" in done.stderr

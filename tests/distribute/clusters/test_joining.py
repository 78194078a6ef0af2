"""Clusters that run already, of real schedulers and workers as Dask's own commands start them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version

import pytest
from distributed import Client, LocalCluster

from medl_scale.distribute import Task, run_tasks
from medl_scale.distribute.clusters import (
    ClusterConfig,
    WorkerOptions,
    check_readable,
    check_shared_folder,
    open_workers,
)
from medl_scale.errors import ClusterError, ConfigError
from medl_scale.progress import SilentProgress
from tests.distribute.clusters.running import cluster, wait_until, worker
from tests.distribute.test_local import work

QUIET = SilentProgress()
JOIN = """
import sys
from medl_scale.distribute.clusters import ClusterConfig, open_workers
from medl_scale.errors import ClusterError
from medl_scale.progress import SilentProgress
config = ClusterConfig(scheduler_address=sys.argv[1], timeout_s=1)
try:
    with open_workers(config, progress=SilentProgress()):
        pass
except ClusterError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as file:
        yield file


@pytest.fixture
def address(scheduler_file):
    return json.loads(scheduler_file.read_text())["address"]


@pytest.fixture(params=["address", "file", "the current client", "a client"])
def joined(request, scheduler_file, address):
    """Workers of the running cluster, in each way to name it."""
    if request.param == "address":
        with open_workers(ClusterConfig(scheduler_address=address), progress=QUIET) as workers:
            yield workers
    elif request.param == "file":
        config = ClusterConfig(scheduler_file=str(scheduler_file))
        with open_workers(config, progress=QUIET) as workers:
            yield workers
    else:
        is_current = request.param == "the current client"
        with Client(address, set_as_default=is_current) as client:
            given = None if is_current else client
            with open_workers(ClusterConfig(), client=given, progress=QUIET) as workers:
                assert workers.client is client
                yield workers
            assert client.status == "running"


def test_a_running_cluster_is_joined_and_left_running(joined, scheduler_file):
    assert joined.is_elsewhere
    assert (joined.n_workers, joined.n_per_machine) == (1, 1)
    tasks = [Task(name, ("sleep", 0)) for name in ("fit re fold 3", "fit me fold 0")]
    outcomes = run_tasks(work, tasks, client=joined.client, n_workers=1)
    pids = {outcome.value[0] for outcome in outcomes}
    assert len(pids) == 1
    assert os.getpid() not in pids
    # As the dashboard calls them.
    seen = joined.client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    assert {"fit re fold 3", "fit me fold 0"} <= seen


def test_deaths_are_counted_right_whatever_the_scheduler_does_about_them(address, tmp_path):
    with open_workers(ClusterConfig(scheduler_address=address), progress=QUIET) as workers:
        allowed = workers.client.run_on_scheduler(
            lambda dask_scheduler: dask_scheduler.allowed_failures
        )
        assert allowed == 3
        outcomes = run_tasks(
            count_and_die,
            [Task("deadly", str(tmp_path / "starts"))],
            client=workers.client,
            n_workers=1,
        )
    assert "died 3 times" in outcomes[0].error
    assert len((tmp_path / "starts").read_text()) == len(outcomes[0].losses) == 3


def count_and_die(path):
    with open(path, "a") as file:  # noqa: PTH123
        file.write("x")
    os.kill(os.getpid(), 9)


def test_more_workers_than_there_are_may_join_later(address):
    config = ClusterConfig(scheduler_address=address)
    with open_workers(config, most=4, progress=QUIET) as workers:
        assert workers.n_workers == 4
    with open_workers(config, most=4, n_workers=2, n_threads=3, progress=QUIET) as workers:
        assert (workers.n_workers, workers.n_threads) == (2, 3)


def test_a_worker_with_another_package_is_refused_by_name(address, scheduler_file, tmp_path):
    for package in ("keras", "zarr"):
        info = tmp_path / f"{package}-0.0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\n")
    with (
        Client(address, set_as_default=False) as client,
        worker(
            scheduler_file, "--no-nanny", env={"PYTHONPATH": str(tmp_path), "KERAS_BACKEND": "jax"}
        ),
    ):
        before = set(client.scheduler_info()["workers"])
        client.wait_for_workers(2, timeout=30)
        (other,) = set(client.scheduler_info()["workers"]) - before
        with (
            pytest.raises(ClusterError) as raised,
            open_workers(ClusterConfig(scheduler_address=address), progress=QUIET),
        ):
            pass
    text = str(raised.value)
    assert f"  keras is 0.0.1 on worker {other}, {version('keras')} here\n" in text
    assert f"  zarr is 0.0.1 on worker {other}, " in text
    assert f"  KERAS_BACKEND is jax on worker {other}, tensorflow here\n" in text
    assert "numpy" not in text
    assert "Give all machines the same environment" in text
    with Client(address, set_as_default=False) as client:
        wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)


def test_a_worker_that_does_not_see_a_store_is_named(address, tmp_path):
    with open_workers(ClusterConfig(scheduler_address=address), progress=QUIET) as workers:
        check_readable(workers.client, str(tmp_path))
        check_readable(workers.client, f"file://{tmp_path}")
        (name,) = workers.client.scheduler_info()["workers"]
        for path, why in (
            (tmp_path / "none.zarr", "No such file or directory"),
            (f"file://{tmp_path}/none.zarr", "nothing is there"),
            ("nothing://a/b", "ValueError: Protocol not known: nothing"),
        ):
            with pytest.raises(ClusterError) as raised:
                check_readable(workers.client, str(path))
            assert str(raised.value).startswith(f"Worker {name} cannot see {path}: {why}")


def may_have_own_mounts():
    """Say whether a process here may see other files than this one."""
    command = ["unshare", "--mount", "true"]
    return shutil.which("unshare") and subprocess.run(command, check=False).returncode == 0


@pytest.mark.skipif(not may_have_own_mounts(), reason="mount namespaces are not allowed here")
def test_a_worker_on_a_machine_with_other_files_is_named_and_leaves_no_trace(tmp_path):
    for name in ("same", "hidden", "fixed"):
        (tmp_path / name).mkdir()
    (tmp_path / "hidden" / "atlas.zarr").mkdir()
    # A worker that sees this disk as another machine would.
    mounts = f"mount -t tmpfs none {tmp_path}/hidden && mount --bind -o ro {tmp_path}/fixed {tmp_path}/fixed"
    elsewhere = ("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh")
    with (
        cluster(tmp_path, prefix=elsewhere) as file,
        open_workers(ClusterConfig(scheduler_file=str(file)), progress=QUIET) as workers,
    ):
        (name,) = workers.client.scheduler_info()["workers"]
        check_shared_folder(workers.client, tmp_path / "same" / "run", prefix="mark-")
        assert list((tmp_path / "same").rglob("*")) == [tmp_path / "same" / "run"]

        atlas = str(tmp_path / "hidden" / "atlas.zarr")
        with pytest.raises(ClusterError) as raised:
            check_readable(workers.client, atlas)
        assert str(raised.value).startswith(
            f"Worker {name} cannot see {atlas}: No such file or directory. Put it where all workers"
        )
        for place, why in (("hidden", "No such folder"), ("fixed", "Read-only file system")):
            run = tmp_path / place / "deep" / "run"
            with pytest.raises(ClusterError) as raised:
                check_shared_folder(workers.client, run, prefix="mark-")
            text = str(raised.value)
            assert text.startswith(
                f"Worker {name} cannot write the run's folder {run}: {why}. Choose"
            )
            assert "--output on a file system that all workers share" in text
            assert not run.parent.exists()


def test_a_scheduler_that_does_not_answer_is_named_in_time():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(
                ClusterError, match=f"No scheduler answers at {address} within 0.5 s. See"
            ),
            open_workers(ClusterConfig(scheduler_address=address, timeout_s=0.5), progress=QUIET),
        ):
            pass


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8786", "tcp://127.0.0.1"])
def test_what_is_no_address_is_told_at_once(address):
    with (
        pytest.raises(
            ConfigError, match=f"'{address}' is no address of a scheduler: .* such as tcp:"
        ),
        open_workers(ClusterConfig(scheduler_address=address, timeout_s=20), progress=QUIET),
    ):
        pass


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"])
def test_a_server_that_is_no_scheduler_is_not_waited_for_for_ever(greeting):
    def greet():
        connection, _ = server.accept()
        connection.sendall(greeting)
        connection.recv(1 << 20)
        time.sleep(2)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-c", JOIN, address],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert ended.stdout.startswith(f"No scheduler answers at {address} within 1 s. See")
    assert ended.stderr == ""
    # A client's own end would take twenty seconds more.
    assert time.monotonic() - started < 12


def test_a_scheduler_without_workers_is_not_waited_for_for_ever(tmp_path):
    with (
        LocalCluster(
            n_workers=0,
            processes=False,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},
        ) as empty,
        Client(empty, set_as_default=False) as client,
        pytest.raises(
            ClusterError,
            match=r"None of 1 workers came within 0.3 s to the scheduler at .*Start workers",
        ),
        open_workers(ClusterConfig(timeout_s=0.3), client=client, progress=QUIET),
    ):
        pass


def test_a_scheduler_file_must_be_one(tmp_path):
    missing = tmp_path / "none.json"
    cases = (
        (missing, ClusterError, f"The scheduler file {missing} did not appear within 0.2 s. Start"),
        (
            tmp_path / "a.json",
            ConfigError,
            "is not a file that `dask scheduler --scheduler-file` wrote",
        ),
    )
    (tmp_path / "a.json").write_text('{"adress": 1}')
    for path, kind, text in cases:
        config = ClusterConfig(scheduler_file=str(path), timeout_s=0.2)
        with pytest.raises(kind) as raised, open_workers(config, progress=QUIET):
            pass
        assert text in str(raised.value)


def test_a_client_and_options_of_a_cluster_contradict_each_other(address):
    with Client(address, set_as_default=False) as client:
        config = ClusterConfig(worker=WorkerOptions(memory_limit="4GB"))
        with (
            pytest.raises(ConfigError, match="Give a client or the options"),
            open_workers(config, client=client, progress=QUIET),
        ):
            pass

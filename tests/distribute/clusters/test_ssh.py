"""The SSH file of `cluster/` against a real sshd on this machine, with keys of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from medl_scale.distribute import Task, run_tasks
from medl_scale.distribute.clusters import ClusterConfig, open_workers
from medl_scale.distribute.clusters.ssh import SshOptions, connect_options, worker_options
from medl_scale.errors import ClusterError
from medl_scale.progress import SilentProgress
from tests.distribute.clusters.running import wait_until

FILE = Path(__file__).parents[3] / "cluster" / "ssh.yaml"
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A daemon on a free port that lets in one key; yields what a cluster file says of it."""
    if SSHD is None or not shutil.which("ssh-keygen"):
        pytest.skip("sshd and ssh-keygen are not installed")
    pytest.importorskip("asyncssh", reason="asyncssh is not installed")
    folder = tmp_path_factory.mktemp("sshd")
    folder.chmod(0o700)
    for name in ("host", "user", "stranger"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    host_key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    if os.getuid() == 0:
        # Where it gives up its rights.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (folder / "log").open("w")
    daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        wait_until(lambda: answers(port), within_s=10)
        yield {
            "hosts": ["127.0.0.1"],
            "username": getpass.getuser(),
            "port": port,
            "client_keys": [str(folder / "user")],
            "known_hosts": str(folder / "known_hosts"),
        }
    finally:
        daemon.terminate()
        daemon.wait(10)
        log.close()


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def adapted(folder, **changes):
    """The file as a site adapts it."""
    values = yaml.safe_load(FILE.read_text()) | {"worker": {"nthreads": 1}} | changes
    file = folder / "ssh.yaml"
    file.write_text(yaml.safe_dump(values))
    return ClusterConfig(file=str(file), dashboard_address="none")


def started_by_dask():
    """Processes of Dask that somebody may have left behind."""
    return {
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if "distributed.cli.dask_spec" in (one.info["cmdline"] or ())
    }


@pytest.mark.slow  # starts a scheduler and two workers, each by a login of its own
def test_tasks_run_over_ssh_and_nothing_stays_behind(sshd, tmp_path):
    before = started_by_dask()
    names = ("OMP_NUM_THREADS", "KERAS_BACKEND")

    def environment(seconds):
        # Sent by value: the other machine has no tests.
        time.sleep(seconds)
        return os.getpid(), {name: os.environ.get(name) for name in names}

    with open_workers(adapted(tmp_path, **sshd), n_workers=2, progress=SilentProgress()) as workers:
        assert (workers.n_workers, workers.n_threads, workers.n_per_machine) == (2, 1, 2)
        assert workers.is_elsewhere
        allowed = workers.client.run_on_scheduler(
            lambda dask_scheduler: dask_scheduler.allowed_failures
        )
        assert allowed == 0
        tasks = [Task(name, 1) for name in "ab"]
        outcomes = run_tasks(environment, tasks, client=workers.client, n_workers=2)
        assert len(started_by_dask() - before) == 3
    pids = {outcome.value[0] for outcome in outcomes}
    assert len(pids) == 2
    for outcome in outcomes:
        assert outcome.value[1] == {"OMP_NUM_THREADS": "1", "KERAS_BACKEND": "tensorflow"}
    wait_until(lambda: started_by_dask() <= before and not any(map(psutil.pid_exists, pids)))


DRIVER = """
import sys, time
from medl_scale.distribute.clusters import ClusterConfig, open_workers
from medl_scale.progress import SilentProgress
config = ClusterConfig(file=sys.argv[1], dashboard_address="none")
with open_workers(config, n_workers=1, progress=SilentProgress()):
    print("open", flush=True)
    time.sleep(100)
"""


@pytest.mark.slow  # starts a cluster only to lose it
def test_nothing_outlives_a_driver_that_is_killed(sshd, tmp_path):
    before = started_by_dask()
    file = adapted(tmp_path, **sshd).file
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, file], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout.readline() == "open\n"
    assert len(started_by_dask() - before) == 2
    driver.kill()
    driver.communicate()
    wait_until(lambda: started_by_dask() <= before)


def test_a_host_that_refuses_is_named(sshd, tmp_path):
    before = started_by_dask()
    stranger = str(Path(sshd["client_keys"][0]).with_name("stranger"))
    for changes, why in (
        ({"client_keys": [stranger]}, "Permission denied for user"),
        ({"port": 1}, "Connect call failed"),
        ({"python": "/no/such/python"}, "Worker failed to start"),
    ):
        with (
            pytest.raises(ClusterError) as raised,
            open_workers(adapted(tmp_path, **sshd | changes), progress=SilentProgress()),
        ):
            pass
        assert str(raised.value).startswith("No cluster over SSH on 127.0.0.1: ")
        assert why in str(raised.value)
        assert "Log in by hand" in str(raised.value)
    assert started_by_dask() <= before


def test_workers_of_a_host_share_its_memory_and_run_one_task_each():
    options = SshOptions(hosts=("a", "b"), client_keys=("~/key",))
    assert worker_options(options, 2) == {"nthreads": 1, "memory_limit": 1.0}
    assert worker_options(options, 3) == {"nthreads": 1, "memory_limit": 0.5}
    assert connect_options(options)["client_keys"] == [str(Path("~/key").expanduser())]
    assert "known_hosts" not in connect_options(options)
    assert worker_options(SshOptions(hosts=("a",), gpus=True), 1)["memory_limit"] == "auto"

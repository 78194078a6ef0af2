"""A Slurm of one node on this machine: munged, slurmctld and slurmd, with everything in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.distribute.clusters.running import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
N_CPUS = 2


def missing() -> list[str]:
    """Name the programs that are not installed."""
    return [name for name in (*DAEMONS, "sbatch", "squeue") if _found(name) is None]


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """Run the three daemons as root; yield their settings file."""
    socket_path = folder / "munge.socket"
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(_settings(folder, socket_path))
    env = {**os.environ, "SLURM_CONF": str(conf)}
    with ExitStack() as stack:
        munge = ["--foreground", "--force", f"--socket={socket_path}", f"--key-file={key}"]
        munge += [f"--{name}-file={folder / f'munge.{name}'}" for name in ("pid", "log", "seed")]
        stack.enter_context(_daemon("munged", munge, folder, env))
        wait_until(socket_path.exists, within_s=20)
        stack.enter_context(_daemon("slurmctld", ["-D", "-f", str(conf)], folder, env))
        stack.enter_context(_daemon("slurmd", ["-D", "-f", str(conf)], folder, env))
        wait_until(lambda: _node_state(env) == "idle", within_s=40)
        try:
            yield conf
        finally:
            subprocess.run(["scancel", "--user=root"], env=env, check=False)
            wait_until(lambda: not jobs(env), within_s=40)


def jobs(env: dict[str, str]) -> list[str]:
    """Return the states of all jobs that are not over."""
    listed = subprocess.run(
        ["squeue", "--noheader", "--format=%T"], env=env, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def _settings(folder: Path, munge_socket: Path) -> str:
    """Return slurm.conf of a node without control groups."""
    name = socket.gethostname().split(".")[0]
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{name}(127.0.0.1)",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={munge_socket}",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldPort": _free_port(),
        "SlurmdPort": _free_port(),
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "ReturnToService": 2,
        "KillWait": 2,
    }
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    return (
        f"{text}NodeName={name} NodeAddr=127.0.0.1 CPUs={N_CPUS} RealMemory=6000 State=UNKNOWN\n"
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
    )


@contextmanager
def _daemon(name: str, options: list[str], folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a daemon in the foreground, and end it with the block."""
    with (folder / f"{name}.out").open("w") as log:
        started = subprocess.Popen([_found(name), *options], env=env, stdout=log, stderr=log)
        try:
            yield
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def _node_state(env: dict[str, str]) -> str:
    """Return the state of the node, empty as long as the controller does not answer."""
    told = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=env, capture_output=True, text=True, check=False
    )
    return told.stdout.strip()


def _found(name: str) -> str | None:
    """Return where a program is."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

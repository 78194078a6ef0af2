"""What a run with workers leaves behind, however it goes: its results, and nothing else."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from medl_scale.pipeline.run import Run, fit_folder
from tests import tiny

# Each starts workers and two processes that load TensorFlow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MARK = "MEDL_TEST_MARK"
DASK_FOLDER = "dask-scratch-space"


class Command:
    """A command in a folder of its own, and all that it was seen to use."""

    def __init__(self, folder, *arguments):
        self.folder = folder / "here"
        self.temporary = folder / "tmp"
        self.folder.mkdir()
        self.temporary.mkdir()
        self.mark = uuid.uuid4().hex
        self.ports = set()
        self.shared = set()
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("medl-scale"), *map(str, arguments)],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, MARK: self.mark, "TMPDIR": str(self.temporary)},
                start_new_session=True,
            )

    def processes(self):
        """Return the living processes of the command, orphans as well: they inherit its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def members(self):
        return [one for one in self.processes() if "medl_scale.distribute.member" in one.cmdline()]

    def look(self):
        """Remember the ports and shared memory in use."""
        for process in self.processes():
            try:
                connections = process.net_connections("tcp")
                files = {one.path for one in (*process.memory_maps(), *process.open_files())}
            except psutil.Error:
                continue
            self.ports |= {one.laddr for one in connections if one.status == psutil.CONN_LISTEN}
            self.shared |= {path for path in files if path.startswith("/dev/shm/")}

    def wait_until(self, holds, seconds=240):
        ends = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.1)

    def nothing_remains(self):
        """Check that all is gone that was seen."""
        ends = time.monotonic() + 10
        while self.processes():
            assert time.monotonic() < ends, [one.cmdline() for one in self.processes()]
            time.sleep(0.1)
        assert self.ports
        for host, port in self.ports:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                assert probe.connect_ex((host, port)) != 0, port
        assert [
            path for path in self.shared if Path(path.removesuffix(" (deleted)")).exists()
        ] == []
        assert [one.name for one in self.folder.iterdir()] == ["run"]
        # Dask keeps empty files to lock, and at its next start takes away those of workers that were killed.
        left = [one for one in self.temporary.rglob("*") if one.is_file()]
        assert [one for one in left if not one.name.endswith("lock") or one.stat().st_size] == []
        assert {one.name for one in self.temporary.rglob("*") if one.is_dir()} <= {DASK_FOLDER}
        assert list(self.folder.rglob("*.medl-tmp-*")) == []


@pytest.mark.parametrize("event", ["nothing", "a member is killed", "Ctrl-C"])
def test_after_a_fit_over_two_workers_there_is_its_run_and_nothing_else(
    tmp_path, tmp_path_factory, event
):
    atlas = tiny.made(tmp_path_factory).atlas
    command = Command(
        tmp_path, "fit", atlas, "-o", "run", "--models", "re", "--workers", "2",
        "--workers-per-fit", "2", "--max-epochs", "12", "--minibatch-size", "64",
        "--no-evaluate", "--no-report", "--no-latents",
    )  # fmt: skip
    epochs = fit_folder(command.folder / "run", "re", 0) / "epochs.jsonl"
    command.wait_until(lambda: epochs.exists() and epochs.read_text().count("\n") >= 2)
    command.look()
    members = command.members()
    assert len(members) == 2
    if event == "a member is killed":
        members[-1].kill()
        # The processes that go on have other ports.
        command.wait_until(lambda: len({*command.members()} - {*members}) == 2)
        command.look()
    elif event == "Ctrl-C":
        # As a terminal does: to the command and to what it has started in its group.
        os.killpg(command.process.pid, signal.SIGINT)
    code = command.process.wait(240)
    assert code == (130 if event == "Ctrl-C" else 0), command.log.read_text()
    if event != "Ctrl-C":
        (summary,) = Run(command.folder / "run").finished().values()
        assert len(summary.lost) == (event == "a member is killed")
        assert summary.n_epochs == 12
    command.nothing_remains()


def test_workers_without_enough_memory_are_told_of_with_the_remedy(tmp_path, tmp_path_factory):
    atlas = tiny.made(tmp_path_factory).atlas
    # Enough for a worker; TensorFlow takes more.
    command = Command(
        tmp_path, "fit", atlas, "-o", "run", "--models", "re,me", "--workers", "2",
        "--memory-limit", "420MB", "--max-epochs", "2", "--no-evaluate",
    )  # fmt: skip
    command.wait_until(lambda: command.look() or command.ports)
    assert command.process.wait(300) == 2
    said = " ".join(command.log.read_text().split())
    assert "2 of 2 fits failed; the others are kept in run." in said
    remedy = "Run fewer workers at a time (--workers), or give each more memory (--memory-limit)."
    assert said.count(remedy) == 2
    for model in ("re", "me"):
        # At the third death, or when Dask does not start a worker again after the second.
        assert re.search(
            f"fit {model} fold 0: (Its worker process died 3 times|No worker could)", said
        )
    assert "goes on from its last checkpoint" in said
    command.nothing_remains()

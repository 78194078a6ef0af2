"""Workers on this machine: which are chosen, what they see, and that nothing of them stays."""

import io
import json
import os
import socket
import urllib.error
import urllib.request

import psutil
import pytest

from medl_scale.distribute import Task, run_tasks
from medl_scale.distribute.clusters import ClusterConfig, WorkerOptions, open_workers
from medl_scale.distribute.clusters.dashboard import listening_at
from medl_scale.errors import ClusterError
from medl_scale.progress import JsonProgress, SilentProgress
from tests.distribute.test_local import work


def test_workers_get_a_gpu_each_where_there_are_gpus_and_tell_where_to_look(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\nfor i in 0 1 2; do echo "GPU $i: a card (UUID: GPU-$i)"; done\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-0")
    said = io.StringIO()
    config = ClusterConfig(worker=WorkerOptions(local_directory=str(tmp_path / "scratch")))
    with open_workers(config, n_workers=5, n_threads=1, progress=JsonProgress(said)) as workers:
        assert (workers.n_workers, workers.n_per_machine, workers.is_elsewhere) == (2, 2, False)
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "KERAS_BACKEND")
        tasks = [Task(str(i), ("environment", names)) for i in range(4)]
        found = [one.value for one in run_tasks(work, tasks, client=workers.client, n_workers=2)]
        assert {one["CUDA_VISIBLE_DEVICES"] for one in found} == {"2", "GPU-0"}
        assert {(one["OMP_NUM_THREADS"], one["KERAS_BACKEND"]) for one in found} == {
            ("1", "tensorflow")
        }
        assert (tmp_path / "scratch").is_dir()
        (note,) = map(json.loads, said.getvalue().splitlines())
        assert note["message"].startswith(
            "2 workers on this machine, 1 thread each, one for each of the GPUs 2, GPU-0 (without dask-"
        )
        assert note["gpus"] == ["2", "GPU-0"]
        link = note["message"].rsplit(" ", 1)[1]
        with urllib.request.urlopen(link, timeout=20) as page:
            assert b"Dask" in page.read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(link, timeout=5)
    left = psutil.Process().children(recursive=True)
    assert not any("spawn_main" in str(child.cmdline()) for child in left)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,GPU-0"


def test_an_interface_that_is_not_there_is_told_in_one_line():
    config = ClusterConfig(worker=WorkerOptions(interface="ib7"), dashboard_address="none")
    with (
        pytest.raises(ClusterError, match=r"1 worker process could not be started: .*ib7"),
        open_workers(config, n_workers=1, n_threads=1, progress=SilentProgress()),
    ):
        pass


def test_the_dashboard_takes_another_port_where_its_own_is_taken():
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if taken.connect_ex(("127.0.0.1", 8787)) != 0:
            taken.close()
            taken = socket.create_server(("127.0.0.1", 8787))
        with taken:
            assert listening_at("auto") == "127.0.0.1:0"
    assert listening_at(":9000") == ":9000"
    assert listening_at("none") is None
    assert listening_at(None) is None

"""What a user may choose, and what is refused before anything starts."""

import os
import re
from pathlib import Path

import pytest

from medl_scale.distribute.clusters import ClusterConfig, WorkerOptions, check_cluster, open_workers
from medl_scale.distribute.clusters.dask_cuda import cuda_keywords
from medl_scale.distribute.clusters.extras import need_extra
from medl_scale.distribute.clusters.file import read_cluster_file
from medl_scale.distribute.clusters.kinds import KINDS, count_workers, threads_of
from medl_scale.distribute.clusters.versions import compare
from medl_scale.distribute.machine import visible_gpus
from medl_scale.errors import ConfigError, MedlError, MissingExtraError
from medl_scale.progress import SilentProgress

CLUSTER = Path(__file__).parents[3] / "cluster"
QUIET = SilentProgress()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"scheduler_address": "tcp://a:1", "file": "b.yaml"},
            "A run has one cluster; --scheduler-address and --cluster each name one.",
        ),
        (
            {"scheduler_address": "tcp://a:1", "scheduler_file": "b"},
            "--scheduler-address and --scheduler-file each name one. Give one of them.",
        ),
        (
            {"scheduler_file": "b", "worker": WorkerOptions(memory_limit="4GB", interface="ib0")},
            "--scheduler-file joins workers that run already; --interface, --memory-limit cannot",
        ),
        (
            {"scheduler_address": "tcp://a:1", "dashboard_address": ":8787"},
            "joins workers that run already; --dashboard-address cannot change them.",
        ),
    ],
)
def test_choices_that_contradict_each_other_are_refused(settings, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        ClusterConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"nthreads": 0}, "nthreads must be at least 1; got 0."),
        (
            {"memory_limit": "much"},
            "memory_limit must be a size such as '8GB' or '500MiB'; got 'much'",
        ),
        ({"rmm_pool_size": "4 apples"}, "rmm_pool_size must be a size such as"),
    ],
)
def test_options_of_workers_are_checked(settings, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        WorkerOptions(**settings)


def test_options_for_gpus_are_refused_where_there_are_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = ClusterConfig(worker=WorkerOptions(rmm_pool_size="1GB"))
    with (
        pytest.raises(
            ConfigError, match="--rmm-pool-size is for workers on GPUs, and this process s"
        ),
        open_workers(config, n_workers=2, progress=QUIET),
    ):
        pass


def test_no_worker_at_all_is_refused():
    with (
        pytest.raises(ConfigError, match=r"workers must be at least 1; got 0\."),
        open_workers(ClusterConfig(), n_workers=0, progress=QUIET),
    ):
        pass


def test_one_worker_without_a_cluster_is_this_process():
    with open_workers(ClusterConfig(), n_workers=1, n_threads=3, progress=QUIET) as workers:
        assert workers.client is None
        assert (workers.n_workers, workers.n_threads) == (1, 3)
    with open_workers(ClusterConfig(), n_workers=8, most=1, progress=QUIET) as workers:
        assert workers.client is None


# Cluster files.


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_file_for_each_kind_and_it_can_be_used(kind):
    options = read_cluster_file(str(CLUSTER / f"{kind}.yaml"))
    assert type(options) is KINDS[kind]
    if kind != "dask-cuda":
        assert count_workers(options, None) == {"ssh": 2}.get(kind, 4)
        assert count_workers(options, 7) == 7
        assert threads_of(options) == {"local": None}.get(kind, 8)


def test_every_option_shown_in_a_comment_of_a_file_exists():
    for file in CLUSTER.glob("*.yaml"):
        text = file.read_text()
        kind = re.search(r"^kind: (\S+)", text, re.MULTILINE)[1]
        known = {*KINDS[kind].__dataclass_fields__, *WorkerOptions.__dataclass_fields__}
        assert set(re.findall(r"^ *# (\w+): ", text, re.MULTILINE)) <= known, file.name


def test_options_of_the_command_line_win_over_the_files(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("kind: local\nworker: {nthreads: 2, memory_limit: 1GB, local_directory: /a}\n")
    options = read_cluster_file(str(file), WorkerOptions(memory_limit="2GB"))
    assert options.worker == WorkerOptions(nthreads=2, memory_limit="2GB", local_directory="/a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind: slrum\n",
            "has the kind 'slrum'. Did you mean 'slurm'? Kinds: local, dask-cuda, ssh, s",
        ),
        ("workers: 4\n", "c.yaml names no kind. Kinds: local, dask-cuda, ssh, slurm, kubernetes."),
        ("kind: [a]\n", "has the kind ['a']. Kinds: local"),
        (
            "kind: slurm\ncores: 4\nmemory: 1GB\nqueu: gpu\n",
            "'queu' is not a setting of [slurm]. Did you mean 'queue'? Settings: cores, memory, wallt",
        ),
        (
            "kind: local\nworker: {memory-limit: 1GB}\n",
            "'memory-limit' is not a setting of [worker]. Did you mean 'memory_limit'? Settings: nthre",
        ),
        ("kind: local\nworkers: many\n", "local.workers must be of type int; got 'many'."),
        ("kind: local\nworkers: 0\n", "c.yaml cannot be used: workers must be at least 1; got 0."),
        ("kind: slurm\n", "c.yaml cannot be used: [slurm] lacks a setting"),
        ("kind: ssh\nhosts: []\n", "hosts must name at least one machine for workers."),
        ("- local\n", "must hold options by name, such as `kind: local`; got ['local']."),
        ("kind: {\n", "c.yaml is not valid YAML: "),
        (None, "c.yaml does not exist. Copy one from the folder cluster/."),
    ],
)
def test_a_cluster_file_that_cannot_be_used_says_why(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        check_cluster(ClusterConfig(file=str(file)))
    assert message in str(raised.value)


def test_dask_cuda_needs_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        ConfigError, match="'dask-cuda' needs NVIDIA GPUs, and this process sees none"
    ):
        check_cluster(ClusterConfig(file=str(CLUSTER / "dask-cuda.yaml")))


def test_a_missing_package_names_the_line_that_installs_it():
    with pytest.raises(MissingExtraError, match=r"pip install 'medl-scale\[slurm\]'"):
        need_extra("dask_jobqueue_of_nobody", "slurm")


# GPUs.


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        (None, ("0", "1", "2")),
        ("", ()),
        ("-1", ()),
        ("2,0", ("2", "0")),
        ("1,7,0", ("1",)),
        ("GPU-8932f937,MIG-1", ("GPU-8932f937", "MIG-1")),
    ],
)
def test_gpus_are_those_that_cuda_would_take(monkeypatch, tmp_path, names, seen):
    smi = tmp_path / "nvidia-smi"
    rows = "".join(f"GPU {i}: NVIDIA H200 (UUID: GPU-{i})\\n" for i in range(3))
    smi.write_text(f"#!/bin/sh\nprintf '{rows}  MIG 1g.18gb Device 0: (UUID: MIG-1)\\n'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if names is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert visible_gpus() == seen


def test_a_driver_that_does_not_answer_has_no_gpus(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho failed because it could not talk to the driver; exit 9\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert visible_gpus() == ()


def test_dask_cuda_gets_its_options_by_their_own_names():
    options = WorkerOptions(rmm_pool_size="4GB", device_memory_limit="8GB", memory_limit="60GB",
                            interface="ib0", enable_tcp_over_ucx=True)  # fmt: skip
    keywords = cuda_keywords(("1", "3"), options, None)
    assert keywords["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert (keywords["n_workers"], keywords["threads_per_worker"]) == (2, 1)
    assert keywords["memory_limit"] == "60GB"
    for name in ("rmm_pool_size", "device_memory_limit", "interface", "enable_tcp_over_ucx"):
        assert keywords[name] == getattr(options, name)
    assert "device_memory_limit" not in cuda_keywords(("0",), WorkerOptions(), None)


def test_differences_name_package_versions_and_worker():
    mine = {"numpy": "2.1", "keras": "3.15", "jax": None}
    workers = {"tcp://a:1": dict(mine), "tcp://b:2": {"numpy": "2.2", "keras": None, "jax": None}}
    assert compare(mine, workers) == [
        "numpy is 2.2 on worker tcp://b:2, 2.1 here",
        "keras is not installed on worker tcp://b:2, 3.15 here",
    ]


def test_the_container_has_what_its_recipe_names():
    recipe = (CLUSTER / "Containerfile").read_text()
    root = CLUSTER.parent
    copied = [
        name
        for line in re.findall(r"^COPY (.*)$", recipe, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert "medl_scale" in copied
    assert [name for name in copied if not (root / name).exists()] == []
    project = (root / "pyproject.toml").read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", recipe, re.MULTILINE)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert "python:3.12" in recipe
    assert (root / ".python-version").read_text().strip() == "3.12"


def test_every_error_is_one_that_users_can_catch():
    for error in (ConfigError, MissingExtraError):
        assert issubclass(error, MedlError)

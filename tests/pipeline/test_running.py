"""Fits on workers that run already, and may be on other machines."""

import json
import os

import numpy as np
import pytest
from distributed import Client

from medl_scale.config import RunConfig
from medl_scale.distribute.clusters import Workers
from medl_scale.errors import ClusterError, ConfigError
from medl_scale.pipeline import Run, fit
from medl_scale.pipeline.running import check_workers, fit_tasks
from tests.distribute.clusters.running import cluster
from tests.tiny import FIT, medl


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as file:
        yield file


def test_a_fit_on_a_running_cluster_has_the_bits_of_one_in_this_process(
    made, atlas, tmp_path, scheduler_file, monkeypatch
):
    # The workers have another working directory, and know no relative paths.
    monkeypatch.chdir(tmp_path)
    ended = medl(
        "fit", "atlas.zarr", "-o", "run", "--models", "pca", *FIT, "--log-json",
        "--scheduler-file", scheduler_file,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    told = [json.loads(line) for line in ended.err.splitlines()]
    address = json.loads(scheduler_file.read_text())["address"]
    assert told[0]["message"].startswith(f"Joined the cluster of {address}.")
    np.testing.assert_array_equal(Run.load("run").latent("pca"), Run.load(made.run).latent("pca"))
    assert not list((tmp_path / "run").glob("*medl-tmp*"))


def test_an_atlas_that_no_worker_sees_is_told_with_its_whole_path(made, scheduler_file):
    address = json.loads(scheduler_file.read_text())["address"]
    with (
        Client(address, set_as_default=False) as client,
        pytest.raises(ClusterError, match=r"cannot see .*/none\.zarr"),
    ):
        check_workers(Workers(client, 1, 1, is_elsewhere=True), "none.zarr", made.run)


def test_an_anndata_in_memory_is_not_sent_to_a_cluster(made, scheduler_file, tmp_path):
    import anndata

    adata = anndata.read_zarr(made.atlas)
    address = json.loads(scheduler_file.read_text())["address"]
    with (
        Client(address, set_as_default=False) as client,
        pytest.raises(
            ConfigError,
            match="An AnnData in memory is fitted in this process: set workers to 1 and name no",
        ),
    ):
        fit(adata, output=tmp_path / "run", client=client, progress=False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--workers", 0), "workers must be at least 1; got 0."),
        (
            ("--scheduler-address", "tcp://a:1", "--cluster", "b.yaml"),
            "A run has one cluster; --schedu",
        ),
        (
            ("--scheduler-address", "tcp://a:1", "--memory-limit", "1GB"),
            "--memory-limit cannot change",
        ),
        (("--cluster", "none.yaml"), "The cluster file none.yaml does not exist."),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_made(made, tmp_path, options, text):
    for command in (("fit", made.atlas, "-o", tmp_path / "run"), ("evaluate", made.run)):
        ended = medl(*command, *options)
        assert ended.code == 2
        assert text in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


def test_all_fits_have_the_same_threads_and_share_the_cache_of_a_machine(tmp_path):
    config = RunConfig(models=("me", "pca"), folds=(0, 1))
    workers = Workers(None, 4, 3, n_per_machine=2)
    tasks = fit_tasks("a.zarr", tmp_path, config, workers)
    assert [task.name for task in tasks] == [
        "fit me fold 0", "fit me fold 1", "fit pca fold 0", "fit pca fold 1",
    ]  # fmt: skip
    assert {task.payload.n_threads for task in tasks} == {3}
    # One that is started again goes on from its checkpoint.
    assert all(task.payload.resume for task in tasks)
    assert {task.payload.stream_config.cache_memory for task in tasks} == {2**30}
    assert tasks[0].cost > tasks[2].cost
    assert os.fspath(tasks[0].payload.ref) == "a.zarr"

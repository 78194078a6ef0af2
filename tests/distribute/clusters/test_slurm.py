"""The Slurm file of `cluster/`: the jobs it makes, and a fit on a real Slurm of one node."""

import os
from pathlib import Path

import pytest
import yaml

from medl_scale.distribute.clusters import ClusterConfig, WorkerOptions, open_workers
from medl_scale.distribute.clusters.file import read_cluster_file
from medl_scale.distribute.clusters.slurm import slurm_keywords
from medl_scale.errors import ClusterError
from medl_scale.pipeline import Run
from medl_scale.progress import SilentProgress
from tests import tiny
from tests.distribute.clusters import slurm_node

FILE = Path(__file__).parents[3] / "cluster" / "slurm.yaml"

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")


def script_of(options):
    """What is given to sbatch."""
    from dask_jobqueue.slurm import SLURMJob

    keywords = slurm_keywords(options, None)
    keywords.pop("scheduler_options")
    return SLURMJob("tcp://login:8786", name="w", **keywords).job_script()


def test_the_file_makes_one_job_a_worker_with_what_it_asks_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = script_of(read_cluster_file(str(FILE)))
    for line in (
        "#SBATCH -J medl-scale",
        "#SBATCH -p gpu",
        "#SBATCH -A my-account",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=60G",
        "#SBATCH -t 12:00:00",
        "#SBATCH --gpus-per-task=1",
        "export OMP_NUM_THREADS=8",
        "export KERAS_BACKEND=tensorflow",
        "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False",
    ):
        assert line in script.splitlines()
    command = script.splitlines()[-1]
    assert (
        " -m dask cuda worker tcp://login:8786 --name w --nthreads 1 --memory-limit 59.60GiB"
        in command
    )
    assert "--local-directory /tmp --rmm-pool-size 4GB" in command


def test_several_gpus_of_a_job_share_its_memory_and_cores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(FILE.read_text()) | {"gpus": 4}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    script = script_of(read_cluster_file(str(tmp_path / "a.yaml")))
    assert "--memory-limit 16000000000" in script
    assert "export OMP_NUM_THREADS=2" in script
    script = script_of(
        read_cluster_file(str(tmp_path / "a.yaml"), WorkerOptions(memory_limit="9GB"))
    )
    assert script.rstrip().index("--memory-limit 9GB") > script.index("--memory-limit 59.60GiB")


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ClusterError, match=r"There is no sbatch on this machine\. Start from a"),
        open_workers(ClusterConfig(file=str(FILE)), progress=SilentProgress()),
    ):
        pass


@pytest.fixture(scope="module")
def slurm_conf(tmp_path_factory):
    if missing := slurm_node.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("slurmd wants to be root")
    with slurm_node.slurm(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


def adapted(folder, **changes):
    """The file as this site adapts it."""
    values = yaml.safe_load(FILE.read_text())
    del values["account"]
    values |= {"queue": "main", "cores": 1, "memory": "1400MB", "gpus": 0, "worker": {}} | changes
    (folder / "slurm.yaml").write_text(yaml.safe_dump(values))
    return folder / "slurm.yaml"


@pytest.mark.slow  # starts the daemons of Slurm, and waits for its scheduling
@pytest.mark.timeout(900)
def test_fits_run_as_jobs_of_slurm_with_the_same_bits_as_here(
    slurm_conf, tmp_path, tmp_path_factory, monkeypatch
):
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    made = tiny.made(tmp_path_factory)
    monkeypatch.chdir(tmp_path)
    ended = tiny.medl_process(
        "fit", made.atlas, "-o", "run", "--models", "pca,me", "--no-latents", *tiny.FIT,
        "--cluster", adapted(tmp_path), "--workers", 2, "--dashboard-address", "none", "--log-json",
        cwd=tmp_path,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "Started the cluster of" in ended.err
    for model in ("pca", "me"):
        here, there = Run.load(made.run), Run.load(tmp_path / "run")
        assert (there.latent(model) == here.latent(model)).all()
    printed = "".join(file.read_text() for file in (tmp_path / "slurm-logs").iterdir())
    assert printed.count("Start worker at") == 2
    assert slurm_node.jobs(dict(os.environ)) == []


@pytest.mark.slow  # needs the daemons of Slurm
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"queue": "none"}, "Slurm refuses the workers' jobs: .*invalid partition"),
        ({"cores": 64}, "Slurm refuses the workers' jobs: .*node configuration is not available"),
        (
            {"python": "/no/python", "wait_s": 3},
            "None of 1 workers came within 3 s to the scheduler",
        ),
    ],
)
def test_jobs_that_cannot_run_are_told_of(slurm_conf, tmp_path, monkeypatch, changes, text):
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    monkeypatch.chdir(tmp_path)
    config = ClusterConfig(file=str(adapted(tmp_path, **changes)), dashboard_address="none")
    with (
        pytest.raises(ClusterError, match=text),
        open_workers(config, n_workers=1, progress=SilentProgress()),
    ):
        pass
    assert slurm_node.jobs(dict(os.environ)) == []

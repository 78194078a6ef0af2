"""Real fits over two hosts, and the cable between them is pulled."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from medl_scale.cli.tables import print_run
from medl_scale.pipeline.run import Run, fit_folder
from tests import tiny
from tests.distribute.hosts import two_hosts, why_not

# Three times, two or three processes load TensorFlow, and Dask on the other side waits for its own time-out.
pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(900)]

DASK = (sys.executable, "-m", "dask")
N_EPOCHS = 30
SETTINGS = """
[fit.train]
checkpoint_every_s = 0.0
early_stopping_patience = 100000
"""
FAR_ENDS_WITHIN_S = 90


@pytest.fixture
def hosts():
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts


@contextmanager
def started(host, *command, log):
    """Run a command on a host; end it with the block, unless it has ended."""
    with log.open("w") as file:
        process = subprocess.Popen(host.command(*command), stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def cluster(near, far, folder):
    """Run a scheduler and a worker on one host and a worker on the other; yield its address."""
    logs = {host: folder / f"worker-{host.name}.log" for host in (near, far)}
    address = f"tcp://{near.address}:8786"
    with ExitStack() as stack:
        scheduler = (*DASK, "scheduler", "--host", near.address, "--no-dashboard")
        stack.enter_context(started(near, *scheduler, log=folder / "scheduler.log"))
        for host, log in logs.items():
            worker = (
                *DASK, "worker", address, "--nthreads", "1", "--no-dashboard",
                "--local-directory", folder / host.name,
            )  # fmt: skip
            stack.enter_context(started(host, *worker, log=log))
        wait_until(lambda: all("Registered to" in log.read_text() for log in logs.values()), 120)
        yield address


def fit_command(atlas, run, *options):
    """Return a fit of many short epochs, each with a checkpoint."""
    settings = run.with_name("settings.toml")
    settings.write_text(SETTINGS)
    return (
        Path(sys.executable).with_name("medl-scale"), "fit", atlas, "-o", run, "--models", "re",
        "--config", settings, "--max-epochs", N_EPOCHS, "--minibatch-size", "64", "--workers", "2",
        "--threads", "1", "--no-evaluate", "--no-report", "--no-latents", "--log-json", *options,
    )  # fmt: skip


def wait_until(holds, seconds):
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"still not after {seconds} s"
        time.sleep(0.1)


def events(log):
    """Return what a command with --log-json has told so far."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]


def some_epochs(fit, log):
    """Wait until a fit has done a part of its epochs, and return what it has told of them."""

    def epochs():
        assert fit.poll() is None, log.read_text()
        return [event for event in events(log) if event["event"] == "epoch"]

    wait_until(lambda: len(epochs()) >= 3, 240)
    found = epochs()
    assert found[-1]["epoch"] < N_EPOCHS - 1
    return found


@pytest.mark.parametrize(
    ("far_first", "per_fit", "lost"),
    [
        (False, 2, "rank 1 of 2 on {far}"),
        # The rank that writes, to a disk that both hosts still see.
        (True, 2, "rank 0 of 2 on {far}"),
        (True, 1, "its worker's host has been out of reach"),
    ],
)
def test_a_fit_ends_on_the_host_that_is_left_when_the_cable_is_pulled(
    hosts, tmp_path, tmp_path_factory, capsys, far_first, per_fit, lost
):
    # Workers are taken in the order of their addresses.
    near, far = reversed(hosts) if far_first else hosts
    atlas = tiny.made(tmp_path_factory).atlas
    log, run = tmp_path / "fit.log", tmp_path / "run"
    with cluster(near, far, tmp_path) as address:
        processes, ports = set(near.processes()), near.listening_ports()
        command = fit_command(
            atlas, run, "--scheduler-address", address, "--workers-per-fit", per_fit
        )
        with started(near, *command, log=log) as fit:
            before = some_epochs(fit, log)
            n_members = (len(near.members()), len(far.members()))
            assert n_members == ((1, 1) if per_fit == 2 else (0, 0))
            cut_s = time.time()
            far.cut()
            assert fit.wait(300) == 0, log.read_text()
        # Nothing is left here, and over there all ends by itself.
        assert set(near.processes()) == processes
        assert near.listening_ports() == ports
        wait_until(lambda: not far.processes(), FAR_ENDS_WITHIN_S - (time.time() - cut_s))

    (noticed,) = [event for event in events(log) if "lost" in event]
    assert noticed["time"] - cut_s < 10
    assert lost.format(far=f"tcp://{far.address}:") in noticed["lost"]
    assert "host has been out of reach for" in noticed["lost"]
    finished = Run(run)
    (summary,) = finished.finished().values()
    assert (summary.n_epochs, len(summary.lost)) == (N_EPOCHS, 1)
    print_run(finished)
    assert capsys.readouterr().out.count("fit re fold 0 was started again: after") == 1
    # What was done before was not done again, and nothing twice.
    rows = finished.history
    assert list(rows["epoch"]) == list(range(N_EPOCHS))
    assert list(rows["train_s"][:2]) == [event["train_s"] for event in before[:2]]
    written = (fit_folder(run, "re", 0) / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in written] == list(range(N_EPOCHS))
    latent = finished.latent("re")
    assert latent.shape[0] == tiny.N_CELLS
    assert np.isfinite(latent).all()
    assert not list(Path(run).rglob("*.medl-tmp-*"))


def test_a_run_notices_that_the_scheduler_s_host_is_gone_and_is_resumed_on_what_is_left(
    hosts, tmp_path, tmp_path_factory
):
    near, far = hosts
    atlas = tiny.made(tmp_path_factory).atlas
    log, run = tmp_path / "fit.log", tmp_path / "run"
    with cluster(far, near, tmp_path) as address:
        command = fit_command(atlas, run, "--scheduler-address", address)
        with started(near, *command, log=log) as fit:
            before = some_epochs(fit, log)
            far.cut()
            cut_s = time.monotonic()
            assert fit.wait(60) == 2, log.read_text()
        assert time.monotonic() - cut_s < 20
        said = " ".join(log.read_text().split())
        assert f"The Dask scheduler at {address} does not answer any more" in said
        assert "go on with --resume." in said
        again = fit_command(atlas, run, "--resume")
        subprocess.run(near.command(*again), check=True, timeout=240, capture_output=True)
    rows = Run(run).history
    assert list(rows["epoch"]) == list(range(N_EPOCHS))
    assert list(rows["train_s"][:2]) == [event["train_s"] for event in before[:2]]

"""Commands that are ended from outside: Ctrl-C in a terminal, and kill -9."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from medl_scale import Run
from medl_scale.train.fit_files import read_status
from tests.tiny import medl

MEDL = Path(sys.executable).with_name("medl-scale")
EPOCHS = 50
SETTINGS = f"""
[fit.train]
max_epochs = {EPOCHS}
early_stopping_patience = 100000
checkpoint_every_s = 0.2
threads = 1
[fit.stream]
minibatch_size = 128
"""


def start(*args):
    """Start a command as a terminal does, in a process group of its own."""
    return subprocess.Popen(
        [MEDL, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(is_so, process):
    """Wait for something to happen while a process runs."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_training(run, model):
    """Say whether a fit has passed some epochs and written a checkpoint."""
    folder = run / "models" / model / "fold_0"
    status = read_status(folder)
    return status is not None and status.epoch >= 5 and (folder / "checkpoint.npz").exists()


def epochs(run, model):
    """Return what a fit has written of its epochs, times included."""
    file = run / "models" / model / "fold_0" / "epochs.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [line for line in lines if line.endswith("\n")]


def wait_for_end(children):
    """Wait for processes to end, and fail if one does not."""
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("way", "models"),
    [
        ("Ctrl-C", ["ae"]),
        # Three times two workers that load TensorFlow.
        pytest.param("Ctrl-C", ["ae", "re"], marks=pytest.mark.slow),
        ("kill -9", ["ae"]),
    ],
)
def test_an_interrupted_fit_goes_on_where_it_stood(atlas, tmp_path, way, models):
    (tmp_path / "settings.toml").write_text(SETTINGS)
    run = tmp_path / "run"
    process = start("fit", atlas, "-o", run, "--models", ",".join(models), "--workers", len(models), "--no-evaluate",
                    "--config", tmp_path / "settings.toml")  # fmt: skip
    wait_until(lambda: any(is_training(run, model) for model in models), process)
    children = psutil.Process(process.pid).children(recursive=True)
    if way == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    out, err = process.communicate(timeout=60)
    wait_for_end(children)
    assert out == ""
    assert "Traceback" not in err
    if way == "Ctrl-C":
        assert process.returncode == 130
        assert err.endswith("Interrupted. Continue the run with --resume.\n")
    assert "unfinished (training)" in medl("info", run).out
    done = {model: epochs(run, model) for model in models}
    assert max(map(len, done.values())) >= 4

    ended = medl("fit", atlas, "-o", run, "--resume", "--workers", 1, "--verbose", "--no-evaluate")
    assert ended.code == 0, ended.err
    assert set(Run(run).finished()) == {(model, 0) for model in models}
    history = Run(run).history
    for model in models:
        assert history[history["model"] == model]["epoch"].tolist() == list(range(EPOCHS))
        # What was done before was not done again, but for what came after the last checkpoint.
        kept = [old == new for old, new in zip(done[model], epochs(run, model), strict=False)]
        assert sum(kept) >= (len(models) == 1)
        assert all(kept) or way == "kill -9" or len(models) == 2
        assert kept == sorted(kept, reverse=True)
        assert np.isfinite(Run(run).latent(model)).all()
        told = [
            line for line in ended.err.splitlines() if line.startswith(f"fit {model} fold 0 epoch")
        ]
        assert [int(line.split()[5]) for line in told] == list(range(EPOCHS))
    assert list(tmp_path.rglob("*.medl-tmp-*")) == []


def test_an_interrupted_simulation_leaves_nothing(tmp_path):
    process = start("simulate", tmp_path / "big.zarr", "--cells", 3_000_000)
    wait_until(lambda: any(tmp_path.glob("*/X/data/c/*")), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted.\n" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []

"""What a user is told of processes that died under a fit."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medl_scale.cli.tables import print_run
from medl_scale.pipeline.run import Run, fit_folder
from medl_scale.train.fit_files import read_summary, record_lost
from tests import tiny


def test_the_summary_of_a_run_says_what_its_fits_lost(made, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    folder = fit_folder(run, "me", 0)
    record_lost(folder, ["after 3 s, rank 1 of 2 on tcp://a:1: its process was killed by SIGKILL"])
    record_lost(folder, ["after 9 s, its worker process died"])
    print_run(Run(run))
    printed = capsys.readouterr().out
    assert "fit me fold 0 was started again: after 3 s, rank 1 of 2 on tcp://a:1: its" in printed
    assert "fit me fold 0 was started again: after 9 s, its worker process died" in printed
    assert printed.count("was started again") == 2


def test_a_run_of_before_losses_were_noted_is_read(made, tmp_path):
    shutil.copytree(fit_folder(made.run, "re", 0), tmp_path / "re")
    done = tmp_path / "re" / "done.json"
    values = json.loads(done.read_text())
    del values["lost"]
    done.write_text(json.dumps(values))
    assert read_summary(tmp_path / "re").lost == ()


@pytest.mark.slow  # loads TensorFlow three or four times
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("models", "per_fit", "said"),
    [
        ("me,re", 1, "its worker process died: killed, or out of memory"),
        ("re,pca", 2, "of 2 on tcp://127.0.0.1"),
    ],
)
def test_a_process_killed_under_a_fit_is_told_at_once_and_at_the_end(
    made, tmp_path, models, per_fit, said
):
    command = [
        Path(sys.executable).with_name("medl-scale"), "fit", made.atlas, "-o", tmp_path / "run",
        "--models", models, "--workers", "2", "--workers-per-fit", per_fit, "--max-epochs", "30",
        "--minibatch-size", "64", "--no-evaluate", "--no-report", "--no-latents",
    ]  # fmt: skip
    fit = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    epochs = fit_folder(tmp_path / "run", "re", 0) / "epochs.jsonl"
    while not epochs.exists() or epochs.read_text().count("\n") < 2:
        assert fit.poll() is None
        time.sleep(0.05)
    what = "spawn_main" if per_fit == 1 else "medl_scale.distribute.member"
    found = [
        child
        for child in psutil.Process(fit.pid).children(recursive=True)
        if what in " ".join(child.cmdline())
    ]
    assert len(found) == 2
    found[0].kill()
    out, err = fit.communicate()
    assert fit.returncode == 0, err
    assert said in " ".join(err.split())
    assert out.count("was started again: after") == 1
    run = Run(tmp_path / "run")
    finished = run.finished()
    assert sorted(len(fit.lost) for fit in finished.values()) == [0, 1]
    for model, fold in finished:
        assert run.latent(model, fold).shape[0] == tiny.N_CELLS
    assert {finished[key].n_epochs for key in finished if key[0] != "pca"} == {30}

"""Real fits over two processes that lose one of them."""

import signal
import time

import numpy as np
import psutil
import pytest

from medl_scale.config import ModelConfig, StreamConfig, TrainConfig
from medl_scale.distribute.clusters.local import local_client
from medl_scale.distribute.limits import Limits
from medl_scale.distribute.schedule import run_on_client
from medl_scale.distribute.tasks import Task
from medl_scale.store.latents import read_latent_array
from medl_scale.train.fit import fit_one
from medl_scale.train.fit_files import FitTask, latent_path, read_epochs
from tests import tiny

# Five times, a process loads TensorFlow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

N_EPOCHS = 12


def fit_task(atlas, folder, model):
    return FitTask(
        ref=str(atlas),
        model=model,
        fold=0,
        folder=str(folder / model),
        latents=str(folder / "latents.zarr"),
        model_config=ModelConfig(),
        train_config=TrainConfig(
            max_epochs=N_EPOCHS, early_stopping_patience=N_EPOCHS, checkpoint_every_s=0.0
        ),
        stream_config=StreamConfig(minibatch_size=64),
        n_threads=1,
        fe_rep=None,
        resume=True,
    )


def members():
    """Return the processes of gangs below this one."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "medl_scale.distribute.member" in child.cmdline()
    ]


def test_fits_go_on_when_a_rank_is_killed_and_with_one_rank_when_a_worker_is(
    tmp_path, tmp_path_factory
):
    atlas = tiny.made(tmp_path_factory).atlas
    sent_s, noticed_s, shared = [], [], []

    def hurt(states):
        running = next((name for name, state in states.items() if state == "running"), None)
        if running is None or (tmp_path / running / "hurt").exists():
            return
        rows, _ = read_epochs(tmp_path / running, start=0)
        if len(rows) < 3:
            return
        (tmp_path / running / "hurt").touch()
        found = members()
        assert len(found) == 2
        for member in found:
            shared.extend(m.path for m in member.memory_maps() if m.path.startswith("/dev/shm"))
        sent_s.append(time.monotonic())
        if running == "re":
            found[-1].kill()
        else:
            found[0].parent().send_signal(signal.SIGSTOP)

    with local_client(2, 1) as client:
        outcomes = run_on_client(
            client,
            fit_one,
            [Task(model, fit_task(atlas, tmp_path, model), n_ranks=2) for model in ("re", "me")],
            n_workers=2,
            on_update=hurt,
            every_s=0.1,
            on_loss=lambda name, loss: noticed_s.append(time.monotonic()),
            # A worker that died is not waited for.
            limits=Limits(refill_s=0.0),
        )
        assert members() == []
    re, me = outcomes
    assert (re.name, re.error, re.n_restarts) == ("re", None, 1)
    assert (me.name, me.error, me.n_restarts) == ("me", None, 1)
    assert re.losses[0].what.endswith("its process was killed by SIGKILL")
    assert "its worker process was stopped by a signal" in me.losses[0].what
    assert all(noticed - sent < 10 for sent, noticed in zip(sent_s, noticed_s, strict=True))
    assert shared == []
    for outcome in outcomes:
        rows, _ = read_epochs(tmp_path / outcome.name, start=0)
        assert [row["epoch"] for row in rows] == list(range(N_EPOCHS))
        assert outcome.value.n_epochs == N_EPOCHS
        for key in outcome.value.keys:
            latent = read_latent_array(latent_path(str(tmp_path / "latents.zarr"), key, 0))
            assert latent.shape[0] == tiny.N_CELLS
            assert np.isfinite(latent[:]).all()

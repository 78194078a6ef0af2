"""Products in bfloat16: losses stay near those of float32, and a state does not know of it."""

from pathlib import Path

import numpy as np
import pytest

from medl_scale.config import TrainConfig
from medl_scale.errors import ConfigError
from medl_scale.train.checkpoint import read_checkpoint
from medl_scale.train.fit import fit_one
from medl_scale.train.loop import Training
from tests.models import small

N_STEPS = 30


def losses(engine, case):
    net = small.network(case)
    return np.array(
        [
            np.asarray(engine.step(small.feeds(net, seed=5 + i), learning_rate=case.learning_rate))
            for i in range(N_STEPS)
        ]
    )


@pytest.mark.parametrize(
    # Two more graphs are traced for the second: ten seconds.
    "name",
    ["fe", pytest.param("re", marks=pytest.mark.slow)],
)
def test_thirty_steps_with_bf16_products_follow_those_of_float32(name):
    case = small.CASES[name]
    exact, rounded = (small.engine(case, precision=precision) for precision in ("float32", "bf16"))
    expected, found = losses(exact, case), losses(rounded, case)
    assert np.isfinite(found).all()
    # A product keeps 8 bits of mantissa: 0.4 % each, and a network has six of them one after another.
    np.testing.assert_allclose(found, expected, rtol=3e-2)
    assert np.abs(found - expected).max() > 1e-5
    state = rounded.state()
    assert {value.dtype for key, value in state.items() if key != "n_steps"} == {np.dtype("f4")}
    # Blocks are evaluated in float32 whatever the steps were trained in.
    block = small.feeds(small.network(case))
    exact.load_state(state)
    np.testing.assert_array_equal(exact.evaluate(block), rounded.evaluate(block))


def test_a_fit_begun_with_bf16_is_continued_with_float32(task, monkeypatch):
    begun = task("ae", precision="bf16", max_epochs=5, checkpoint_every_s=0.0)
    original = Training._end_epoch

    def interrupted(self, timings):
        original(self, timings)
        if self.position.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_end_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit_one(begun)
    states, record = read_checkpoint(Path(begun.folder) / "checkpoint.npz")
    assert record["position"]["epoch"] == 2
    assert all(
        value.dtype == np.float32 for key, value in states["now"].items() if key != "n_steps"
    )
    summary = fit_one(task("ae", max_epochs=5, checkpoint_every_s=0.0, resume=True))
    assert summary.n_epochs == 5
    assert np.isfinite(list(summary.losses.values())).all()


def test_an_unknown_precision_is_refused_with_the_list():
    with pytest.raises(ConfigError, match=r"precision must be one of .*float32.*bf16.*auto"):
        TrainConfig(precision="fp8")


def test_rows_are_kept_on_a_device_by_jax_alone(task):
    with pytest.raises(ConfigError, match=r"device_cache_memory keeps train rows on a GPU.*jax"):
        fit_one(task("ae", device_cache_memory=2**30))

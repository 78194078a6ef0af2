"""A trained network in NumPy predicts what its engine does, and without a framework being loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from medl_scale.train.fitted import FittedNetwork, load_model
from medl_scale.train.lanes import in_lanes
from tests.models import small
from tests.train.test_fitted import VOCABULARY


def saved(name, folder):
    """Return a model that was saved, with the case's jittered values."""
    case = small.CASES[name]
    summary = small.summary(np.random.default_rng(0))
    model = FittedNetwork(case.model, small.engine(case), case.config, summary, VOCABULARY)
    model.save(folder, {})
    return model


@pytest.mark.parametrize("name", sorted(small.CASES))
def test_every_kind_of_network_predicts_as_by_its_engine(tmp_path, name):
    model = saved(name, tmp_path)
    loaded, _ = load_model(tmp_path, in_numpy=True)
    x = small.feeds(model.network).x
    codes = np.append(np.arange(len(x) - 1) % small.N_BATCHES, -1).astype(np.int32)
    by_engine, in_numpy = (one.engine.encode(x, codes) for one in (model, loaded))
    assert in_numpy.dtype == np.float32
    np.testing.assert_allclose(in_numpy, by_engine, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        loaded.decode(by_engine, codes), model.decode(by_engine, codes), rtol=1e-5, atol=1e-5
    )
    for layer, table in model.effects().items():
        np.testing.assert_array_equal(loaded.effects()[layer].loc, table.loc)
    assert loaded.engine.state().keys() == {
        key for key in model.engine.state() if not key.startswith("adam") and "moments" not in key
    } - {"n_steps"}


def test_effects_that_were_placed_stand_in_for_the_posterior_means(tmp_path):
    model = saved("re", tmp_path)
    loaded, _ = load_model(tmp_path, in_numpy=True)
    x = small.feeds(model.network).x
    tables = {name: table.loc[:, [2, 0]] * 1.5 for name, table in model.effects().items()}
    rows = (np.arange(len(x)) % 2).astype(np.int32)
    for call, given in (("encode", x), ("decode", model.engine.encode(x, rows))):
        found, expected = (
            getattr(one.engine, call)(given, rows, one.engine.place_effects(tables))
            for one in (loaded, model)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_is_read_and_predicts_without_keras(tmp_path):
    saved("me", tmp_path)
    program = (
        "import sys, numpy as np; from pathlib import Path; "
        "from medl_scale.train.fitted import load_model; "
        f"model, _ = load_model(Path({str(tmp_path)!r}), in_numpy=True); "
        f"codes = np.zeros(300, np.int32); x = np.ones((300, {small.N_VARS}), np.float32); "
        "assert np.isfinite(model.decode(model.engine.encode(x, codes), codes)).all(); "
        "print(sorted({'keras', 'tensorflow', 'jax'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("n_lanes", [1, 2, 5, 40])
def test_lanes_give_results_in_order_and_stop_at_the_first_error(n_lanes):
    assert list(in_lanes(lambda i: i * i, range(23), n_lanes)) == [i * i for i in range(23)]
    assert list(in_lanes(str, [], n_lanes)) == []
    made = []

    def some(i):
        made.append(i)
        if i == 3:
            raise ValueError("three")
        return i

    found = []
    with pytest.raises(ValueError, match="three"):
        found.extend(in_lanes(some, range(1000), n_lanes))
    assert len(made) < 3 + 3 * n_lanes + 1

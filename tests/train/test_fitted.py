"""Models on disk: what is saved encodes as what was trained, without the atlas."""

from __future__ import annotations

import numpy as np
import pytest

from medl_scale.errors import RunError, StoreError
from medl_scale.stream.densify import Transform
from medl_scale.train.fitted import FittedNetwork, FittedPca, Vocabulary, load_model
from tests.models import small

VOCABULARY = Vocabulary(
    var_names=tuple(f"gène{i}" for i in range(small.N_VARS)),
    batch_key="donor",
    batch_levels=("a", "b", "c", "d"),
    label_levels=("B", "NK", "T"),
    transform=Transform("counts", 1e4, 0.125),
)
KINDS = ["fec", "re", "re-scmedal", "me"]


def trained(name: str) -> FittedNetwork:
    """Return a model after two steps."""
    case = small.CASES[name]
    engine = small.engine(case)
    for seed in (1, 2):
        engine.step(small.feeds(engine.network, seed), learning_rate=1e-2)
    summary = small.summary(np.random.default_rng(0))
    return FittedNetwork(case.model, engine, case.config, summary, VOCABULARY)


@pytest.mark.parametrize("name", KINDS)
def test_a_loaded_network_encodes_and_evaluates_bitwise_as_the_saved_one(tmp_path, name):
    model = trained(name)
    model.save(tmp_path, {"fold": 3, "backend": "tensorflow"})
    with np.load(tmp_path / "model.npz") as file:
        # The optimiser's state is not shipped.
        assert not [entry for entry in file.files if "adam" in entry or "moments" in entry]
    loaded, record = load_model(tmp_path)
    feeds = small.feeds(model.network)
    codes = np.append(feeds.batch_codes[:-1], -1).astype(np.int32)
    (key,) = model.latent_sizes()
    assert key == f"X_medl_{model.name}"
    assert np.array_equal(loaded.encode(feeds.x, codes)[key], model.encode(feeds.x, codes)[key])
    np.testing.assert_array_equal(loaded.engine.evaluate(feeds), model.engine.evaluate(feeds))
    assert loaded.vocabulary == VOCABULARY
    assert loaded.latent_sizes() == {key: small.N_LATENT}
    assert record["fold"] == 3
    for layer, table in model.effects().items():
        np.testing.assert_array_equal(loaded.effects()[layer].loc, table.loc)
        np.testing.assert_array_equal(loaded.effects()[layer].untransformed, table.untransformed)


def test_an_unknown_batch_has_no_effects(tmp_path):
    model = trained("re")
    state = model.engine.state()
    for name in state:
        if name.startswith("effects/") and name.endswith("/loc"):
            state[name] = np.zeros_like(state[name])
    x = small.feeds(model.network).x
    unknown = model.encode(x, np.full(len(x), -1, np.int32))["X_medl_re"]
    known = model.encode(x, np.zeros(len(x), np.int32))["X_medl_re"]
    model.engine.load_state(state)
    without = model.encode(x, np.zeros(len(x), np.int32))["X_medl_re"]
    np.testing.assert_array_equal(unknown, without)
    assert not np.allclose(known, without)


def test_a_batch_blind_model_does_not_read_the_batch(tmp_path):
    for name in ("me", "fec"):
        model = trained(name)
        x = small.feeds(model.network).x
        (one,) = model.encode(x, np.zeros(len(x), np.int32)).values()
        (other,) = model.encode(x, np.full(len(x), -1, np.int32)).values()
        np.testing.assert_array_equal(one, other)


def test_pca_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    model = FittedPca(
        rng.random(small.N_VARS).astype(np.float32),
        rng.normal(size=(small.N_VARS, 2)).astype(np.float32),
        rng.normal(size=(4, 2)).astype(np.float32),
        VOCABULARY,
    )
    model.save(tmp_path, {"fold": 0})
    loaded, record = load_model(tmp_path)
    assert record["model"] == "pca"
    assert loaded.vocabulary == VOCABULARY
    x, codes = rng.random((6, small.N_VARS)).astype(np.float32), np.array([0, 3, 1, -1, 2, 0])
    for key, latent in model.encode(x, codes).items():
        np.testing.assert_array_equal(loaded.encode(x, codes)[key], latent)


def test_a_folder_without_a_model_and_a_damaged_one_are_told(tmp_path):
    with pytest.raises(RunError, match=r"holds no finished model. Finish the fit with --resume"):
        load_model(tmp_path)
    trained("fec").save(tmp_path, {})
    path = tmp_path / "model.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"model\.npz is damaged"):
        load_model(tmp_path)

"""One step of every network on both backends against float64 NumPy; twenty steps against each other."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from medl_scale.errors import ConfigError
from tests.models import formulas, small
from tests.train.recording import N_STEPS, record, record_all

if TYPE_CHECKING:
    from medl_scale.train.engine import Engine, Feeds

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("tensorflow", "jax")
FIXED = [name for name in small.CASES if name.startswith(("ae", "fe"))]
ADVERSARIAL = [name for name in small.CASES if name.startswith("fe")]
WITH_EFFECTS = [name for name in small.CASES if name.startswith(("re", "me"))]


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """What either backend did, by backend: TensorFlow here, JAX beside it in a process of its own."""
    pytest.importorskip("jax", reason="JAX is not installed; the other backend cannot be compared")
    path = tmp_path_factory.mktemp("jax") / "record.npz"
    # Compiling quickly matters more here than running quickly.
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    command = [sys.executable, "-W", "error", "-m", "tests.train.recording", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        here = record_all()
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    return {"tensorflow": here, "jax": dict(np.load(path))}


@pytest.fixture(params=BACKENDS)
def recorded(request, records):
    """Return a function that gives one case's record on this backend."""

    def of(name: str) -> dict[str, np.ndarray]:
        lead = f"{name}:"
        found = records[request.param]
        return {k.removeprefix(lead): v for k, v in found.items() if k.startswith(lead)}

    return of


class Step:
    """One recorded step, with what went into it, in float64."""

    def __init__(self, name: str, found: dict[str, np.ndarray]) -> None:
        self.case = small.CASES[name]
        self.network = small.network(self.case)
        self.feeds = small.feeds(self.network)
        self.x = self.feeds.x.astype(np.float64)
        self.batch, self.label = self.feeds.batch_codes, self.feeds.label_codes
        self.found = found
        self.terms = dict(zip(self.network.reported, found["losses"][0], strict=True))
        self.summary = small.summary(np.random.default_rng(0))
        self.variance = np.mean(self.summary.sd.astype(np.float64) ** 2)

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays under a prefix, as float64."""
        return {
            name.removeprefix(prefix): value.astype(np.float64)
            for name, value in self.found.items()
            if name.startswith(prefix)
        }

    def gradients(self) -> dict[str, np.ndarray]:
        """Return the gradients that Adam's first moments tell of."""
        moments = self.group("after/adam/")
        return {name[:-2]: m / 0.1 for name, m in moments.items() if name.endswith("/m")}

    def check_gradients(self, expected: dict[str, np.ndarray]) -> None:
        """Compare the engine's gradients with these."""
        found = self.gradients()
        largest = max(np.abs(g).max() for g in expected.values())
        for name, gradient in expected.items():
            np.testing.assert_allclose(
                found[name], gradient, rtol=1e-3, atol=2e-5 * largest, err_msg=name
            )

    def check_values(self, names: set[str]) -> None:
        """Compare the new weights with one Adam update by the engine's own gradients."""
        before, after, gradients = (
            self.group("before/model/"),
            self.group("after/model/"),
            self.gradients(),
        )
        assert set(after) == names
        for name, value in before.items():
            expected, _, v = formulas.adam(value, gradients[name], self.case.learning_rate)
            np.testing.assert_allclose(
                after[name], expected, rtol=2e-7, atol=1e-4 * self.case.learning_rate, err_msg=name
            )
            np.testing.assert_allclose(
                self.found[f"after/adam/{name}/v"], v, rtol=1e-3, atol=1e-30, err_msg=name
            )

    def check_statistics(self, moments: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Compare the moving statistics with old ones and a minibatch's moments."""
        before, after = self.group("before/statistics/"), self.group("after/statistics/")
        # The plain mean of the minibatches so far, of which this was the first; or Keras' momentum.
        keep = 0.99 if self.case.config.preset != "auto" else 0.0
        norms = {name.rpartition("/")[0] for name in after if name.endswith("/variance")}
        assert set(moments) == norms
        for name, now in moments.items():
            for quantity, value in zip(("mean", "variance"), now, strict=True):
                key = f"{name}/{quantity}"
                expected = keep * before[key] + (1 - keep) * value
                np.testing.assert_allclose(after[key], expected, rtol=1e-5, atol=1e-6, err_msg=key)


def fixed_effects(step: Step) -> formulas.FixedEffects:
    """Return the formulas of an AE, AEC, FE or FEC with the weights of our rule."""
    config, model = step.case.config, step.case.model
    log_batches, log_labels = np.log(small.N_BATCHES), np.log(small.N_LABELS)
    recon = {
        "ae": 1.0,
        "aec": 0.5 * 0.1 * log_labels,
        "fe": 1.5 * log_batches,
        "fec": 0.5 * (log_batches + log_labels),
    }[model]
    return formulas.FixedEffects(
        recon_weight=recon / step.variance,
        adversary=config.adversary if model in {"fe", "fec"} else "none",
        adversary_weight=1.0,
        classifier=model in {"aec", "fec"},
        class_weight=0.1 if model == "aec" else 1.0,
        eta=config.eta,
    )


def adversary_after(step: Step, formula: formulas.FixedEffects) -> tuple[dict, dict]:
    """Return the adversary after its updates of one step, and its first moments."""
    values = step.group("before/adversary/")
    strong = formula.adversary == "strong"
    seen = formula.seen(step.group("before/model/"), step.x)
    m, v = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    for update in range(1, 6 if strong else 2):
        gradient = formulas.adversary_gradient(values, seen, step.batch, strong=strong)
        for name in values:
            values[name], m[name], v[name] = formulas.adam(
                values[name],
                gradient[name],
                step.case.learning_rate,
                m=m[name],
                v=v[name],
                update=update,
            )
    return values, m


@pytest.mark.parametrize("name", FIXED)
def test_a_step_of_a_fixed_effects_network_equals_float64_numpy(recorded, name):
    step = Step(name, recorded(name))
    formula = fixed_effects(step)
    values = step.group("before/model/")
    adversary = step.group("before/adversary/")
    if formula.adversary != "none":
        adversary, _ = adversary_after(step, formula)
    moments = {}
    terms = formula.terms(values, adversary, step.x, step.batch, step.label, moments)
    assert terms.keys() == step.terms.keys()
    for term, value in terms.items():
        np.testing.assert_allclose(step.terms[term], value, rtol=2e-5, err_msg=term)
    expected = formulas.gradient(
        lambda v: formula.terms(v, adversary, step.x, step.batch, step.label)["total"], values
    )
    step.check_gradients(expected)
    step.check_values(set(values))
    step.check_statistics(moments)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_adversary_moves_on_the_old_encoder(recorded, name):
    step = Step(name, recorded(name))
    expected, first_moments = adversary_after(step, fixed_effects(step))
    after, gradients = step.group("after/adversary/"), step.gradients()
    rate = step.case.learning_rate
    for key, value in expected.items():
        scale = np.abs(first_moments[key]).max()
        np.testing.assert_allclose(
            0.1 * gradients[key], first_moments[key], rtol=1e-3, atol=2e-4 * scale, err_msg=key
        )
        # A weight whose gradient is near zero may move by the rate for rounding alone.
        off = np.abs(after[key] - value)
        assert np.quantile(off, 0.99) < 1e-2 * rate, key


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_autoencoder_is_moved_against_the_updated_adversary(recorded, name):
    step = Step(name, recorded(name))
    formula, values = fixed_effects(step), step.group("before/model/")
    adversaries = {
        "stale": step.group("before/adversary/"),
        "updated": step.group("after/adversary/"),
    }
    found = step.gradients()["latent/kernel"]
    off = {}
    for age, adversary in adversaries.items():
        expected = formulas.gradient(
            lambda v, a=adversary: formula.terms(values | v, a, step.x, step.batch, step.label)[
                "total"
            ],
            {"latent/kernel": values["latent/kernel"]},
        )
        off[age] = np.abs(found - expected["latent/kernel"]).max()
    assert off["updated"] < 0.05 * off["stale"]


def noise_of(step: Step, layers: list[str]) -> dict[str, np.ndarray]:
    """Return the (2, n_batches, width) noise of the first step, read from the shared table."""
    noise = {}
    for index, layer in enumerate(sorted(layers)):
        width = step.network.effect_widths[layer]
        starts = small.NOISE.offsets(1, index, np.arange(small.N_BATCHES), 2 * width)
        rows = [small.NOISE.values[at : at + 2 * width].reshape(2, width) for at in starts]
        noise[layer] = np.stack(rows, axis=1).astype(np.float64)
    return noise


def kl_weights(step: Step) -> dict[str, float]:
    """Return the weight of each layer's KL by the rule of the papers, or of the ELBO."""
    layers = list(step.network.effect_widths)
    if step.case.published_effects:
        # The mean over 4 encoder tables, and that over 6 decoder tables.
        return {layer: 1e-5 / (4 if layer.startswith("encoder") else 6) for layer in layers}
    relative = {"re": 6.0, "me": 1.0}[step.case.model]
    if step.case.config.recon_weight is not None:
        relative = step.case.config.recon_weight * step.variance
    per_nat = 2 * 0.7 / (step.summary.n_obs * step.summary.n_vars)
    return dict.fromkeys(layers, relative * per_nat)


def effects_objective(step: Step):
    """Return (loss terms, total with KL) as functions of the weights and the effects' values."""
    layers = list(step.network.effect_widths)
    noise, weights = noise_of(step, layers), kl_weights(step)
    config, published = step.case.config, step.case.published_effects
    if step.case.model == "re":
        re_formula = formulas.RandomEffects(
            recon_weight=110.0 if published else 6.0 / step.variance,
            latent_batch_weight=0.1,
            ours=not published,
        )
    else:
        me_formula = formulas.MixedEffects(
            recon_weight=config.recon_weight or 1.0 / step.variance,
            latent_kl_weight=1e-3,
            input_dropout=0.2,
            mean=step.summary.mean.astype(np.float64),
            sd=np.maximum(step.summary.sd, np.quantile(step.summary.sd, 0.1)).astype(np.float64),
        )

    def terms(values, tables, moments=None):
        cells = {}
        for layer in layers:
            drawn = formulas.draw(
                tables[f"{layer}/loc"], tables[f"{layer}/untransformed"], noise[layer]
            )
            cells[layer] = (drawn[0][step.batch], drawn[1][step.batch])
        if step.case.model == "re":
            return re_formula.terms(values, cells, step.x, step.batch, moments)
        feeds = step.feeds
        return me_formula.terms(
            values,
            step.found["before/statistics/output/sd"].astype(np.float64),
            cells,
            step.x,
            feeds.latent_noise.astype(np.float64),
            feeds.keep_mask,
            feeds.ramp,
            moments,
        )

    def total(values, tables):
        kl = 0.0
        present = np.unique(step.batch)
        for layer in layers:
            loc, untransformed = tables[f"{layer}/loc"], tables[f"{layer}/untransformed"]
            if published:
                kl += weights[layer] * formulas.one_draw_kl(loc, untransformed, noise[layer]).sum()
            else:
                per_row = formulas.closed_kl(loc, untransformed).sum(axis=(0, 2))
                kl += weights[layer] * (per_row[present] / small.PRESENCE[present]).sum()
        return terms(values, tables)["total"] + kl

    return terms, total


@pytest.mark.parametrize("name", WITH_EFFECTS)
def test_a_step_of_a_network_with_random_effects_equals_float64_numpy(recorded, name):
    step = Step(name, recorded(name))
    terms, total = effects_objective(step)
    values = step.group("before/model/")
    tables = {k: v for k, v in step.group("before/effects/").items() if not k.endswith("moments")}
    moments = {}
    for term, value in terms(values, tables, moments).items():
        np.testing.assert_allclose(step.terms[term], value, rtol=2e-5, err_msg=term)
    expected = formulas.gradient(lambda v: total(v, tables), values)
    if step.case.model == "me":
        norm = np.sqrt(sum(np.sum(g**2) for g in expected.values()))
        assert (norm > 5.0) == (name == "me")
        expected = {k: g * min(1.0, 5.0 / norm) for k, g in expected.items()}
    step.check_gradients(expected)
    step.check_values(set(values))
    step.check_statistics(moments)


@pytest.mark.parametrize("name", WITH_EFFECTS)
def test_random_effects_move_by_the_gradient_of_reconstruction_and_kl(recorded, name):
    step = Step(name, recorded(name))
    _, total = effects_objective(step)
    values = step.group("before/model/")
    tables = {k: v for k, v in step.group("before/effects/").items() if not k.endswith("moments")}
    expected = formulas.gradient(lambda t: total(values, t), tables)
    after = step.group("after/effects/")
    for layer in step.network.effect_widths:
        for i, quantity in enumerate(("loc", "untransformed")):
            key = f"{layer}/{quantity}"
            m, v = after[f"{layer}/moments"][2 * i : 2 * i + 2]
            scale = np.abs(expected[key]).max()
            np.testing.assert_allclose(
                m / 0.1, expected[key], rtol=1e-3, atol=2e-5 * scale, err_msg=key
            )
            value, _, expected_v = formulas.adam(tables[key], m / 0.1, step.case.learning_rate)
            np.testing.assert_allclose(v, expected_v, rtol=1e-3, atol=1e-30, err_msg=key)
            np.testing.assert_allclose(
                after[key], value, rtol=2e-7, atol=1e-4 * step.case.learning_rate, err_msg=key
            )


@pytest.mark.parametrize("name", WITH_EFFECTS)
def test_rows_of_an_absent_batch_stay_bit_for_bit_unless_published(recorded, name):
    step = Step(name, recorded(name))
    for layer in step.network.effect_widths:
        for quantity in ("loc", "untransformed"):
            key = f"effects/{layer}/{quantity}"
            before = step.found[f"before/{key}"][:, small.ABSENT_BATCH]
            after = step.found[f"after/{key}"][:, small.ABSENT_BATCH]
            # The papers sample and penalise every row in every step.
            assert np.array_equal(before, after) != step.case.published_effects


@pytest.mark.parametrize("name", small.CASES)
def test_tensorflow_and_jax_agree_over_twenty_steps(records, name):
    tensorflow, jax = (records[backend][f"{name}:losses"] for backend in BACKENDS)
    assert tensorflow.shape[0] == N_STEPS
    assert np.abs(tensorflow[-1] - tensorflow[0]).max() > 0
    np.testing.assert_allclose(jax, tensorflow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", small.CASES)
def test_tensorflow_and_jax_evaluate_and_encode_alike(records, name):
    for quantity in ("evaluation", "latent", "decoded"):
        tensorflow, jax = (records[backend][f"{name}:{quantity}"] for backend in BACKENDS)
        np.testing.assert_allclose(jax, tensorflow, rtol=1e-5, atol=1e-5)


def test_an_unknown_batch_is_encoded_without_effects(recorded):
    found = recorded("re")
    step = Step("re", found)
    values = step.group("before/model/")
    values |= step.group("before/statistics/")
    u = step.x[-1:]
    for i in (0, 1):
        u = u @ values[f"encoder{i}/kernel"] + values[f"encoder{i}/bias"]
        norm = f"encoder{i}_norm"
        u = (u - values[f"{norm}/mean"]) / np.sqrt(values[f"{norm}/variance"] + 1e-3)
        u = formulas.selu(u * values[f"{norm}/gain"] + values[f"{norm}/offset"])
    latent = formulas.selu(u @ values["latent/kernel"] + values["latent/bias"])
    np.testing.assert_allclose(found["latent"][-1:], latent, rtol=1e-4, atol=1e-5)


def test_evaluation_takes_posterior_means_and_moving_statistics():
    engine = small.engine(small.CASES["re"])
    feeds = small.feeds(engine.network)
    once, again = engine.evaluate(feeds), engine.evaluate(feeds)
    assert np.array_equal(once, again)
    state = engine.state()
    for name in state:
        if name.endswith("untransformed"):
            state[name] = state[name] + np.float32(3.0)
    engine.load_state(state)
    assert np.array_equal(engine.evaluate(feeds), once)
    for name in state:
        if name.endswith("/variance"):
            state[name] = state[name] * np.float32(2.0)
    engine.load_state(state)
    assert not np.array_equal(engine.evaluate(feeds), once)


@pytest.mark.parametrize("name", ["fec", "re"])
def test_a_state_that_was_put_back_gives_the_same_steps_bitwise(name):
    case = small.CASES[name]
    engine = small.engine(case)
    net = engine.network
    engine.step(small.feeds(net, 1), learning_rate=1e-2)
    state = engine.state()
    kept = {key: value.copy() for key, value in state.items()}
    first = [np.asarray(engine.step(small.feeds(net, s), learning_rate=1e-2)) for s in (2, 3)]
    # What `state` returned is a copy that later steps leave alone.
    assert all(np.array_equal(state[key], kept[key]) for key in kept)
    other = small.engine(case)
    for target in (engine, other):
        target.load_state(state)
        again = [np.asarray(target.step(small.feeds(net, s), learning_rate=1e-2)) for s in (2, 3)]
        assert np.array_equal(first, again)


def part_of(feeds: Feeds, size: int) -> Feeds:
    """Return the first cells of a minibatch."""
    arrays = {
        field.name: getattr(feeds, field.name)
        for field in dataclasses.fields(feeds)
        if isinstance(getattr(feeds, field.name), np.ndarray)
    }
    return dataclasses.replace(feeds, **{name: value[:size] for name, value in arrays.items()})


@pytest.mark.parametrize("name", ["fec", "me"])
def test_what_an_engine_did_before_does_not_change_a_bit(name):
    """A resumed fit meets minibatches of other sizes first, for which TensorFlow may build other graphs."""
    case = small.CASES[name]
    net = small.network(case)
    minibatches = [part_of(small.feeds(net, seed), size) for seed, size in enumerate([12, 7, 12])]

    def results(engine: Engine, feeds: Feeds) -> dict[str, np.ndarray]:
        terms = np.asarray(engine.step(feeds, learning_rate=1e-2))
        latent = engine.encode(feeds.x, feeds.batch_codes)
        evaluation = engine.evaluate(feeds)
        return engine.state() | {"terms": terms, "latent": latent, "evaluation": evaluation}

    whole, resumed = small.engine(case), small.engine(case)
    results(whole, minibatches[0])
    resumed.load_state(whole.state())
    for feeds in minibatches[1:]:
        expected, found = results(whole, feeds), results(resumed, feeds)
        assert [key for key in expected if not np.array_equal(found[key], expected[key])] == []


def test_a_compiled_step_equals_a_plain_one():
    case = small.CASES["fe"]
    plain, compiled = record(case), record(case, compiled=True)
    np.testing.assert_allclose(compiled["losses"], plain["losses"], rtol=1e-5)


def test_unlabelled_cells_have_no_say_in_the_classifier():
    engine = small.engine(small.CASES["aec"])
    net = engine.network
    feeds = small.feeds(net)
    labelled = feeds.label_codes >= 0
    assert 0 < labelled.sum() < len(labelled)
    terms = dict(zip(net.reported, engine.evaluate(feeds), strict=True))
    part = type(feeds)(
        x=feeds.x[labelled],
        batch_codes=feeds.batch_codes[labelled],
        label_codes=feeds.label_codes[labelled],
    )
    alone = dict(zip(net.reported, engine.evaluate(part), strict=True))
    np.testing.assert_allclose(terms["classification"], alone["classification"], rtol=1e-6)
    assert not np.isclose(terms["reconstruction"], alone["reconstruction"])


def test_a_minibatch_without_any_label_has_no_classification_loss():
    engine = small.engine(small.CASES["fec"])
    feeds = small.feeds(engine.network)
    bare = type(feeds)(feeds.x, feeds.batch_codes, np.full(small.N_CELLS, -1, np.int32))
    before = engine.state()
    terms = dict(
        zip(engine.network.reported, np.asarray(engine.step(bare, learning_rate=1e-3)), strict=True)
    )
    assert terms["classification"] == 0.0
    assert np.isfinite(list(terms.values())).all()
    after = engine.state()
    for name in ("classifier0/kernel", "classifier1/kernel", "classifier1/bias"):
        assert np.array_equal(before[f"model/{name}"], after[f"model/{name}"])


def test_a_backend_that_is_neither_tensorflow_nor_jax_is_refused(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(
        ConfigError, match="KERAS_BACKEND must be 'tensorflow' or 'jax'; got 'torch'"
    ):
        small.engine(small.CASES["ae"])

"""Networks from configurations: sizes as published, weights by rule, and where effects start."""

import dataclasses

import numpy as np
import pytest

from medl_scale.config import MODELS, ModelConfig
from medl_scale.models.build import build_network, initial_effects, latent_size
from medl_scale.models.network import DataSummary
from tests.models import small


def aml(n_batches: int = 19) -> DataSummary:
    """A data set of the papers' size."""
    n_vars = 2916
    return DataSummary(
        n_obs=23_049,
        n_batches=n_batches,
        n_labels=21,
        mean=np.full(n_vars, 0.05, np.float32),
        sd=np.full(n_vars, 0.04, np.float32),
        batch_n=np.full(n_batches, 1000),
        batch_mean=np.full((n_batches, n_vars), 0.05, np.float32),
    )


def n_trained(network, tables) -> int:
    """Return the number of trained numbers."""
    first = network.initial_values(np.random.default_rng(0))
    weights = sum(v.size for v in (first.model | first.adversary).values())
    return weights + sum(t.loc.size + t.untransformed.size for t in tables.values())


@pytest.mark.parametrize(
    ("model", "n_batches", "expected"),
    [
        ("ae", 19, 1_572_718),
        ("fe", 19, 1_998_801),
        ("fe", 147, 2_015_825),
        ("re", 19, 3_466_887),
        ("re", 147, 5_620_103),
    ],
)
def test_published_networks_have_the_papers_number_of_parameters(model, n_batches, expected):
    summary, config = aml(n_batches), ModelConfig(preset="scmedal")
    network = build_network(model, config, summary)
    tables = initial_effects(network, config, summary, np.random.default_rng(0))
    assert n_trained(network, tables) == expected


@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [
        ("me", {}, 30),
        ("fe", {}, 50),
        ("re", {}, 50),
        ("pca", {}, 50),
        ("me", {"preset": "scmedal"}, 50),
        ("me", {"preset": "medl"}, 2),
        ("fe", {"preset": "medl"}, 2),
        ("fe", {"preset": "medl", "n_latent": 7}, 7),
    ],
)
def test_latent_dimensions_follow_the_preset(model, config, expected):
    assert latent_size(model, ModelConfig(**config)) == expected


@pytest.mark.parametrize("model", [name for name in MODELS if name != "pca"])
@pytest.mark.parametrize("preset", ["auto", "medl", "scmedal"])
def test_every_network_encodes_and_decodes_the_right_shapes(model, preset):
    config = small.settings(preset=preset)
    network = build_network(model, config, small.summary(np.random.default_rng(0)))
    first = network.initial_values(np.random.default_rng(1))
    values = first.model | first.statistics
    effects = {
        layer: (np.zeros((5, width), np.float32), np.zeros((5, width), np.float32))
        for layer, width in network.effect_widths.items()
    }
    x = np.random.default_rng(2).random((5, small.N_VARS)).astype(np.float32)
    latent = network.encode(values, x, effects)
    assert tuple(latent.shape) == (5, small.N_LATENT)
    assert tuple(network.decode(values, latent, effects).shape) == (5, small.N_VARS)
    assert set(network.encoder_effects) <= set(network.effect_widths) == set(network.kl_weights)
    assert (model == "me") == network.uses_latent_noise


def test_first_shifts_of_the_output_are_the_shrunken_batch_means():
    summary, config = small.summary(np.random.default_rng(0)), small.settings()
    floor = np.quantile(summary.sd, 0.1)
    for model in ("re", "me"):
        network = build_network(model, config, summary)
        tables = initial_effects(network, config, summary, np.random.default_rng(3))
        for batch, n in enumerate([4, 16, 12, 8]):
            expected = (
                n / (n + 20) * (summary.batch_mean[batch] - summary.mean)
                / np.maximum(summary.sd, floor)
            )  # fmt: skip
            np.testing.assert_allclose(tables["decoder2"].loc[1, batch], expected, rtol=1e-5)
        np.testing.assert_array_equal(tables["decoder2"].loc[0], 0)
        # RE's hidden layers start where the papers do, the joint model's at no effect.
        sd = tables["decoder0"].loc.std()
        assert sd == 0 if model == "me" else 0.05 < sd < 0.2


def test_published_effects_start_at_random_everywhere():
    summary, config = small.summary(np.random.default_rng(0)), small.settings(preset="medl")
    network = build_network("re", config, summary)
    tables = initial_effects(network, config, summary, np.random.default_rng(3))
    assert all(0.04 < table.loc.std() < 0.2 for table in tables.values())
    assert min(table.scale.min() for table in tables.values()) < 5e-3


def test_an_explicit_kl_weight_is_taken_as_it_is():
    summary = small.summary(np.random.default_rng(0))
    ours = build_network("me", small.settings(kl_weight=0.3), summary)
    assert set(ours.kl_weights.values()) == {0.3}
    published = build_network("re", small.settings(preset="scmedal", kl_weight=1.2), summary)
    assert published.kl_weights["encoder0"] == pytest.approx(1.2 / 4)
    assert published.kl_weights["decoder0"] == pytest.approx(1.2 / 6)


def test_constant_genes_keep_every_value_finite():
    base = small.summary(np.random.default_rng(0))
    summary = dataclasses.replace(base, sd=np.where(np.arange(11) < 9, 0, base.sd).astype("f4"))
    network = build_network("me", small.settings(), summary)
    tables = initial_effects(network, small.settings(), summary, np.random.default_rng(3))
    assert all(np.isfinite(table.loc).all() for table in tables.values())
    first = network.initial_values(np.random.default_rng(1))
    assert (first.statistics["output/sd"] > 0).all()


def test_a_frozen_encoder_leaves_the_decoder_alone_to_be_trained():
    summary = small.summary(np.random.default_rng(0))
    network = build_network("me", small.settings(), summary, frozen_latent=6)
    first = network.initial_values(np.random.default_rng(1))
    assert network.n_latent == 6
    assert all(name.startswith(("decoder", "output")) for name in first.model)
    assert first.model["decoder0/kernel"].shape == (6, 5)
    assert not network.uses_latent_noise
    assert network.input_dropout == 0


@pytest.mark.parametrize(
    ("n_train", "share"), [(300, 0.2), (2000, 0.2), (8000, 0.05), (10**6, 0.0)]
)
def test_input_dropout_falls_with_the_number_of_train_cells(n_train, share):
    summary = dataclasses.replace(small.summary(np.random.default_rng(0)), n_obs=n_train)
    assert build_network("me", small.settings(), summary).input_dropout == pytest.approx(share)
    given = build_network("me", small.settings(input_dropout=0.3), summary)
    assert given.input_dropout == 0.3

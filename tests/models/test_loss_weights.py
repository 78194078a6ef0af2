"""Loss weights against arithmetic done by hand and against the papers' tables."""

import math

import numpy as np
import pytest

from medl_scale.config import ModelConfig
from medl_scale.models.loss_weights import loss_weights, weak_reconstruction
from medl_scale.models.network import DataSummary


def summary(n_batches: int = 18, n_labels: int = 21, variance: float = 0.0015) -> DataSummary:
    sd = np.full(50, math.sqrt(variance), np.float32)
    return DataSummary(
        n_obs=1000,
        n_batches=n_batches,
        n_labels=n_labels,
        mean=np.zeros(50, np.float32),
        sd=sd,
        batch_n=np.full(n_batches, 1000 // n_batches),
        batch_mean=np.zeros((n_batches, 50), np.float32),
    )


@pytest.mark.parametrize(
    ("model", "reconstruction"),
    [
        # ln 18 = 2.8904, ln 21 = 3.0445; all over a variance of 0.0015
        ("fe", 1.5 * 2.89037 / 0.0015),
        ("fec", 0.5 * (2.89037 + 3.04452) / 0.0015),
        ("aec", 0.5 * 0.1 * 3.04452 / 0.0015),
        ("re", 6 / 0.0015),
        ("ae", 1 / 0.0015),
    ],
)
def test_the_rule_balances_reconstruction_against_cross_entropies(model, reconstruction):
    found = loss_weights(model, ModelConfig(), summary())
    assert found.reconstruction == pytest.approx(reconstruction, rel=1e-4)


def test_the_rule_follows_explicit_weights_of_the_other_terms():
    config = ModelConfig(adversary_weight=2.0, class_weight=3.0)
    found = loss_weights("fec", config, summary())
    assert found.reconstruction == pytest.approx(
        0.5 * (2 * math.log(18) + 3 * math.log(21)) / 0.0015, rel=1e-4
    )
    assert (found.adversary, found.classification) == (2.0, 3.0)


@pytest.mark.parametrize("preset", ["auto", "medl", "scmedal"])
def test_explicit_numbers_override_any_preset(preset):
    config = ModelConfig(
        preset=preset, recon_weight=7.0, adversary_weight=0.0, latent_batch_weight=0.25
    )
    assert loss_weights("fe", config, summary()).reconstruction == 7.0
    assert loss_weights("fe", config, summary()).adversary == 0.0
    assert loss_weights("re", config, summary()).latent_batch == 0.25


PAPERS = {
    ("medl", "aml"): {"aec": (100, 0.1), "fe": (4000, 1), "fec": (1500, 1, 1), "re": (110, 0.1)},
    ("medl", "asd"): {"aec": (1, 0.1), "fe": (1000, 1), "fec": (1000, 1, 1), "re": (110, 0.1)},
    ("medl", "hh"): {"aec": (81, 0.1), "fe": (5400, 1), "fec": (9450, 1, 1), "re": (110, 0.1)},
    ("scmedal", "aml"): {"aec": (100, 0.6), "fe": (1000, 1), "fec": (2000, 0.5, 3), "re": (110, 0.1)},
    ("scmedal", "asd"): {"aec": (100, 0.1), "fe": (2000, 1), "fec": (2000, 1, 1), "re": (110, 0.4)},
    ("scmedal", "hh"): {"aec": (100, 0.1), "fe": (600, 1), "fec": (2000, 1, 1), "re": (110, 0.1)},
    ("scmedal", "generic"): {"aec": (100, 0.1), "fe": (4000, 1), "fec": (2000, 1, 1), "re": (110, 0.1)},
}  # fmt: skip


@pytest.mark.parametrize(("preset", "data"), PAPERS)
def test_published_presets_hold_the_papers_numbers(preset, data):
    config = ModelConfig(preset=preset, preset_data=data)
    numbers = PAPERS[preset, data]
    aec, fe, fec, re = (loss_weights(m, config, summary()) for m in ("aec", "fe", "fec", "re"))
    assert (aec.reconstruction, aec.classification) == numbers["aec"]
    assert (fe.reconstruction, fe.adversary) == numbers["fe"]
    assert (fec.reconstruction, fec.adversary, fec.classification) == numbers["fec"]
    assert (re.reconstruction, re.latent_batch) == numbers["re"]
    assert loss_weights("ae", config, summary()).reconstruction == 1.0


def test_a_reconstruction_that_the_adversary_may_overrule_is_told():
    balance = math.log(18) / 0.0015
    config = ModelConfig(recon_weight=0.2 * balance)
    (message,) = weak_reconstruction("fe", config, summary())
    assert "of 'fe' is 0.2 of what balances its cross-entropies" in message
    assert f"Use a recon_weight of at least {0.5 * balance:.4g}" in message
    enough = ModelConfig(recon_weight=0.51 * balance)
    assert weak_reconstruction("fe", enough, summary()) == ()


@pytest.mark.parametrize("model", ["fe", "fec", "ae", "aec", "re"])
def test_the_rule_itself_is_never_warned_of(model):
    assert weak_reconstruction(model, ModelConfig(), summary()) == ()


def test_no_warning_without_an_adversary_to_overrule():
    config = ModelConfig(recon_weight=1e-6, adversary_weight=0.0)
    assert weak_reconstruction("fe", config, summary()) == ()

"""How loss terms are balanced: our rule from the data's variance, and the papers' numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medl_scale.config import ModelConfig
    from medl_scale.models.network import DataSummary

__all__ = ["LossWeights", "loss_weights", "weak_reconstruction"]

MINIMUM_SHARE = 0.5
"""Below this share of the rule's denominator the adversary was seen to destroy reconstruction."""

# (AEC w_x, w_y), (FE w_x, w_A), (FEC w_x, w_A, w_y), (RE w_x, w_latent): the 2024 paper (2-D) and
# the 2026 code (50-D).
PUBLISHED: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("medl", "generic"): {"aec": (100, 0.1), "fe": (4000, 1), "fec": (1500, 1, 1), "re": (110, 0.1)},
    ("medl", "aml"): {"aec": (100, 0.1), "fe": (4000, 1), "fec": (1500, 1, 1), "re": (110, 0.1)},
    ("medl", "asd"): {"aec": (1, 0.1), "fe": (1000, 1), "fec": (1000, 1, 1), "re": (110, 0.1)},
    ("medl", "hh"): {"aec": (81, 0.1), "fe": (5400, 1), "fec": (9450, 1, 1), "re": (110, 0.1)},
    ("scmedal", "generic"): {"aec": (100, 0.1), "fe": (4000, 1), "fec": (2000, 1, 1), "re": (110, 0.1)},
    ("scmedal", "aml"): {"aec": (100, 0.6), "fe": (1000, 1), "fec": (2000, 0.5, 3), "re": (110, 0.1)},
    ("scmedal", "asd"): {"aec": (100, 0.1), "fe": (2000, 1), "fec": (2000, 1, 1), "re": (110, 0.4)},
    ("scmedal", "hh"): {"aec": (100, 0.1), "fe": (600, 1), "fec": (2000, 1, 1), "re": (110, 0.1)},
}  # fmt: skip


@dataclass(frozen=True)
class LossWeights:
    """Multipliers of the loss terms of one network."""

    reconstruction: float
    adversary: float = 1.0
    classification: float = 1.0
    latent_batch: float = 0.1


def loss_weights(model: str, config: ModelConfig, summary: DataSummary) -> LossWeights:
    """Return the weights of a model: explicit numbers first, then the preset's.

    Notes
    -----
    Rule of preset `auto`: w_recon = c * sum_k(w_k * ln K_k) / var(x), k over the model's
    cross-entropies with K_k classes, c = 1.5 for FE, 0.5 for AEC and FEC; RE takes 6 / var(x), AE
    1 / var(x). It lies within a factor 2 of 16 of the 20 weights that the papers tuned by hand.
    """
    if config.preset == "auto":
        weights = _automatic(model, summary, config)
    else:
        weights = _published(model, config)
    explicit = {
        "reconstruction": config.recon_weight,
        "adversary": config.adversary_weight,
        "classification": config.class_weight,
        "latent_batch": config.latent_batch_weight,
    }
    chosen = {name: value for name, value in explicit.items() if value is not None}
    return LossWeights(**(vars(weights) | chosen))


def weak_reconstruction(model: str, config: ModelConfig, summary: DataSummary) -> tuple[str, ...]:
    """Return a warning if the adversary may overrule reconstruction; else nothing."""
    if model not in {"fe", "fec"}:
        return ()
    weights = loss_weights(model, config, summary)
    pull = _cross_entropy_pull(model, weights, summary)
    share = weights.reconstruction * summary.variance / pull if pull > 0 else math.inf
    if share >= MINIMUM_SHARE:
        return ()
    enough = weights.reconstruction * MINIMUM_SHARE / max(share, 1e-12)
    message = (
        f"The reconstruction weight {weights.reconstruction:.4g} of '{model}' is {share:.2g} of what "
        f"balances its cross-entropies; below {MINIMUM_SHARE} the adversary was seen to destroy "
        f"reconstruction. Use a recon_weight of at least {enough:.4g}, or leave it to preset 'auto'."
    )
    return (message,)


def _automatic(model: str, summary: DataSummary, config: ModelConfig) -> LossWeights:
    """Return our rule's weights."""
    default_class = 0.1 if model == "aec" else 1.0
    free = LossWeights(
        reconstruction=1.0,
        adversary=1.0 if config.adversary_weight is None else config.adversary_weight,
        classification=default_class if config.class_weight is None else config.class_weight,
    )
    factor = {"fe": 1.5, "fec": 0.5, "aec": 0.5}.get(model)
    if factor is None:
        return LossWeights(reconstruction={"re": 6.0}.get(model, 1.0) / summary.variance)
    pull = _cross_entropy_pull(model, free, summary)
    return LossWeights(
        reconstruction=factor * pull / summary.variance,
        adversary=free.adversary,
        classification=free.classification,
    )


def _published(model: str, config: ModelConfig) -> LossWeights:
    """Return the papers' weights."""
    numbers = PUBLISHED[config.preset, config.preset_data].get(model)
    if numbers is None:
        return LossWeights(reconstruction=1.0)
    if model == "aec":
        return LossWeights(numbers[0], classification=numbers[1])
    if model == "fe":
        return LossWeights(numbers[0], adversary=numbers[1])
    if model == "fec":
        return LossWeights(numbers[0], adversary=numbers[1], classification=numbers[2])
    return LossWeights(numbers[0], latent_batch=numbers[1])


def _cross_entropy_pull(model: str, weights: LossWeights, summary: DataSummary) -> float:
    """Return sum_k(w_k * ln K_k) over the cross-entropies of a model."""
    pull = 0.0
    if model in {"fe", "fec"}:
        pull += weights.adversary * math.log(max(summary.n_batches, 2))
    if model in {"aec", "fec"}:
        pull += weights.classification * math.log(max(summary.n_labels, 2))
    return pull

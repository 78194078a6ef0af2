"""A network and its random effects from a model's name, its configuration and the train split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.models.fixed_effects import FixedEffects, FixedEffectsSpec
from medl_scale.models.loss_weights import loss_weights
from medl_scale.models.mixed_effects import MixedEffects, MixedEffectsSpec
from medl_scale.models.random_effects import RandomEffects, RandomEffectsSpec
from medl_scale.models.variational import initial_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.config import ModelConfig
    from medl_scale.models.network import DataSummary, Network
    from medl_scale.models.variational import EffectTable

__all__ = ["build_network", "initial_effects", "latent_size"]

PUBLISHED_KL_WEIGHT = 1e-5
SHRINKAGE = 20.0
"""A batch's mean counts as n / (n + 20) of what its n train cells show."""
SMALL_SET = 2000
LEAST_DROPOUT = 1 / 256
SMALL_SET_DROPOUT = 0.2
"""Input dropout of `me` up to this many train cells; see `ModelConfig.input_dropout`."""
RESIDUAL_SHARE = 0.7
"""Share of variance that a good fit leaves unexplained: the noise variance of the ELBO."""


def latent_size(model: str, config: ModelConfig) -> int:
    """Return the latent dimensions of a model."""
    if config.n_latent is not None:
        return config.n_latent
    if config.preset == "medl":
        return 2
    return 30 if model == "me" and config.preset == "auto" else 50


def build_network(
    model: str, config: ModelConfig, summary: DataSummary, *, frozen_latent: int | None = None
) -> Network:
    """Return the network of a model.

    Parameters
    ----------
    model
        One of `config.MODELS` but `pca`.
    frozen_latent
        Dimensions of the embedding that replaces the encoder of `me`, or None.
    """
    published = config.preset != "auto"
    momentum = 0.99 if published else None
    n_latent = frozen_latent or latent_size(model, config)
    if model == "me":
        layers = [f"decoder{i}" for i in range(len(config.hidden) + 1)]
        relative = 1.0
        if config.recon_weight is not None:
            relative = config.recon_weight * summary.variance
        recon_weight = relative / summary.variance
        spec = MixedEffectsSpec(
            n_vars=summary.n_vars,
            n_latent=n_latent,
            n_batches=summary.n_batches,
            hidden=config.hidden,
            recon_weight=recon_weight,
            latent_kl_weight=config.latent_kl_weight,
            input_dropout=_dropout(config, summary.n_obs),
            kl_weights=dict.fromkeys(layers, _elbo_weight(relative, config, summary)),
            frozen_encoder=frozen_latent is not None,
        )
        return MixedEffects(spec, mean=summary.mean, sd=_floored(summary.sd))
    weights = loss_weights(model, config, summary)
    if model == "re":
        encoder = [f"encoder{i}" for i in range(len(config.hidden))]
        decoder = [f"decoder{i}" for i in range(len(config.hidden) + 1)]
        if published:
            # The mean over each side's tables, two tables a layer, as published.
            total = PUBLISHED_KL_WEIGHT if config.kl_weight is None else config.kl_weight
            kl_weights = dict.fromkeys(encoder, total / (2 * len(encoder)))
            kl_weights |= dict.fromkeys(decoder, total / (2 * len(decoder)))
        else:
            elbo = _elbo_weight(weights.reconstruction * summary.variance, config, summary)
            kl_weights = dict.fromkeys(encoder + decoder, elbo)
        re_spec = RandomEffectsSpec(
            n_vars=summary.n_vars,
            n_latent=n_latent,
            n_batches=summary.n_batches,
            hidden=config.hidden,
            standardised_output=not published,
            double_selu=published,
            recon_weight=weights.reconstruction,
            latent_batch_weight=weights.latent_batch,
            kl_weights=kl_weights,
            batch_norm_momentum=momentum,
        )
        return RandomEffects(re_spec, mean=summary.mean, sd=_floored(summary.sd))
    adversarial = model in {"fe", "fec"}
    return FixedEffects(
        FixedEffectsSpec(
            name=model,
            n_vars=summary.n_vars,
            n_latent=n_latent,
            n_batches=summary.n_batches,
            n_labels=summary.n_labels,
            hidden=config.hidden,
            adversary=config.adversary if adversarial else "none",
            classifier=model in {"aec", "fec"},
            recon_weight=weights.reconstruction,
            adversary_weight=weights.adversary,
            class_weight=weights.classification,
            eta=config.eta if adversarial else 0.0,
            batch_norm_momentum=momentum,
        )
    )


def initial_effects(
    network: Network, config: ModelConfig, summary: DataSummary, rng: np.random.Generator
) -> Mapping[str, EffectTable]:
    """Return the first posterior of a network's random effects; empty where it has none.

    Notes
    -----
    With preset `auto` the output's shifts start at the shrunken batch means, n / (n + 20) of each
    batch's difference from the overall mean in units of the gene's s.d.
    """
    published = config.preset != "auto" and network.name == "re"
    # The joint model starts without effects in hidden layers; RE starts where the papers do.
    loc_sd = 0.0 if network.name == "me" else 0.1
    tables = {}
    for layer, width in network.effect_widths.items():
        output = layer == f"decoder{len(config.hidden)}"
        tables[layer] = initial_table(
            rng,
            summary.n_batches,
            width,
            loc_sd=loc_sd,
            published_scales=published,
            shift=_shrunken_means(summary) if output and not published else None,
        )
    return tables


def _dropout(config: ModelConfig, n_train: int) -> float:
    """Return the share of genes that `me` hides from its encoder in a step."""
    if config.input_dropout is not None:
        return config.input_dropout
    share = SMALL_SET_DROPOUT * min(1.0, SMALL_SET / n_train)
    return share if share >= LEAST_DROPOUT else 0.0


def _shrunken_means(summary: DataSummary) -> NDArray[np.float32]:
    """Return (n_batches, n_vars) shrunken batch means in units of each gene's s.d."""
    shrink = (summary.batch_n / (summary.batch_n + SHRINKAGE))[:, None]
    means = (summary.batch_mean - summary.mean) / _floored(summary.sd) * shrink
    return means.astype(np.float32)


def _floored(sd: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return s.d. floored at their 10 % quantile, so that a near-constant gene is not blown up."""
    floored = np.maximum(sd, np.quantile(sd, 0.1)).astype(np.float32)
    floored[floored == 0.0] = 1.0
    return floored


def _elbo_weight(relative: float, config: ModelConfig, summary: DataSummary) -> float:
    """Return the weight of one KL nat against a reconstruction loss worth `relative` per variance.

    Gaussian likelihood with noise variance s2: -ELBO = n * G * MSE / (2 * s2) + KL, so beside
    `relative / var * MSE` the KL weighs `relative / var * 2 * s2 / (n * G)`.
    """
    if config.kl_weight is not None:
        return config.kl_weight
    return relative * 2.0 * RESIDUAL_SHARE / (summary.n_obs * summary.n_vars)

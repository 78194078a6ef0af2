"""ME, our default: a batch-blind encoder and a batch-aware random-effects decoder, trained together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final, override

import numpy as np

from medl_scale.models.losses import gaussian_kl, mean_squared_error
from medl_scale.models.network import InitialValues, Inputs, Network
from medl_scale.models.random_effects import decoder_values, output_values
from medl_scale.models.scope import Scope, dense_values, norm_statistics, norm_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.models.network import Effects
    from medl_scale.models.scope import Arrays

    Tensor = Any

__all__ = ["MixedEffects", "MixedEffectsSpec"]

INPUT_CLIP = 10.0
"""Standardised genes are clipped here, so that one rare gene cannot rule a cell's code."""


@dataclass(frozen=True, kw_only=True)
class MixedEffectsSpec:
    """Sizes and weights of the joint mixed-effects network."""

    n_vars: int
    n_latent: int
    n_batches: int
    hidden: tuple[int, ...] = (512, 132)
    recon_weight: float
    """1 / var(x), so that the mean predictor's loss is 1."""
    latent_kl_weight: float = 1e-3
    """Weight of KL(latent || N(0, 1)) summed over units, where the mean predictor's loss is 1."""
    input_dropout: float = 0.0
    kl_weights: Mapping[str, float]
    frozen_encoder: bool = False
    """The latent is given with each cell, and only the decoder is trained."""


@final
class MixedEffects(Network):
    """One model for the integrated latent and the as-if projection.

    Encoder (never sees the batch): standardised genes clipped at +-10, input dropout, for each hidden
    width Dense, batch norm, SELU; then linear mean and log-variance of a Gaussian latent.
    Decoder: for each hidden width Dense, BN(u) * (1 + scale_z) + shift_z, SELU; output
    mean_g + sd_g * (BN(u) * (1 + scale_z) + shift_z).
    Objective: MSE / var(x) + ramp * w_latent * KL(latent) + KL(effects).

    Notes
    -----
    There is no adversary: since the decoder knows the batch, the latent need not carry it. In the
    published FE the batch-blind decoder asks for the batch in the latent while the adversary asks
    for its absence.
    """

    uses_latent_noise = True
    max_gradient_norm = 5.0

    def __init__(
        self,
        spec: MixedEffectsSpec,
        *,
        mean: NDArray[np.float32],
        sd: NDArray[np.float32],
    ) -> None:
        self.spec = spec
        self.name = "me"
        self.n_latent = spec.n_latent
        self.kl_weights = spec.kl_weights
        self.uses_latent_noise = not spec.frozen_encoder
        self.input_dropout = 0.0 if spec.frozen_encoder else spec.input_dropout
        widths = (*reversed(spec.hidden), spec.n_vars)
        self.effect_widths = {f"decoder{i}": width for i, width in enumerate(widths)}
        self.reported = ("total", "reconstruction", "latent_kl")
        self._mean, self._sd = mean, sd

    @override
    def initial_values(self, rng: np.random.Generator) -> InitialValues:
        spec = self.spec
        model: Arrays = {}
        norms = []
        if not spec.frozen_encoder:
            widths = (spec.n_vars, *spec.hidden)
            for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
                model |= dense_values(rng, f"encoder{i}", n_in, n_out)
                model |= norm_values(f"encoder{i}_norm", n_out)
                norms.append((f"encoder{i}_norm", n_out))
            model |= dense_values(rng, "latent_mean", spec.hidden[-1], spec.n_latent)
            model |= dense_values(rng, "latent_log_variance", spec.hidden[-1], spec.n_latent)
            # Little noise at first: the code must carry something before it is blurred.
            model["latent_log_variance/kernel"] *= np.float32(0.1)
            model["latent_log_variance/bias"] -= np.float32(3.0)
        decoder, decoder_norms = decoder_values(rng, spec.n_latent, spec.hidden, spec.n_vars)
        model |= decoder | output_values(spec.hidden, self._mean, self._sd)
        statistics = norm_statistics([*norms, *decoder_norms])
        # The unit of the random effects stays what users are told it is.
        statistics["output/sd"] = model.pop("output/sd")
        return InitialValues(model, statistics=statistics)

    @override
    def activations(
        self, values: Mapping[str, Tensor], inputs: Inputs, *, training: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        from keras import ops

        if self.spec.frozen_encoder:
            return {"latent": inputs.frozen_latent}, {}
        scope = Scope(values, training=training, across=inputs.across)
        mean, log_variance = self._encode(scope, inputs.x, inputs.keep_mask)
        latent = mean
        if inputs.latent_noise is not None:
            latent = mean + ops.exp(0.5 * log_variance) * inputs.latent_noise
        return {"latent": latent, "mean": mean, "log_variance": log_variance}, scope.updates

    @override
    def objective(
        self,
        values: Mapping[str, Tensor],
        adversary: Mapping[str, Tensor],
        activations: Mapping[str, Tensor],
        inputs: Inputs,
        *,
        training: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        scope = Scope(values, effects=inputs.effects, training=training, across=inputs.across)
        reconstruction = mean_squared_error(inputs.x, self._decode(scope, activations["latent"]))
        total = self.spec.recon_weight * reconstruction
        latent_kl = 0.0 * reconstruction
        if not self.spec.frozen_encoder:
            latent_kl = gaussian_kl(activations["mean"], activations["log_variance"])
            total = total + inputs.ramp * self.spec.latent_kl_weight * latent_kl
        terms = {"total": total, "reconstruction": reconstruction, "latent_kl": latent_kl}
        return terms, scope.updates

    @override
    def encode(self, values: Mapping[str, Tensor], x: Tensor, effects: Effects) -> Tensor:
        return self._encode(Scope(values), x, None)[0]

    @override
    def decode(self, values: Mapping[str, Tensor], latent: Tensor, effects: Effects) -> Tensor:
        return self._decode(Scope(values, effects=effects), latent)

    def _encode(self, scope: Scope, x: Tensor, keep_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latent."""
        ops = scope.ops
        x = ops.clip((x - self._mean) * (1.0 / self._sd), -INPUT_CLIP, INPUT_CLIP)
        if keep_mask is not None:
            x = x * (ops.cast(keep_mask, x.dtype) * (1.0 / (1.0 - self.spec.input_dropout)))
        for i in range(len(self.spec.hidden)):
            x = ops.selu(scope.batch_norm(f"encoder{i}_norm", scope.dense(f"encoder{i}", x)))
        log_variance = ops.clip(scope.dense("latent_log_variance", x), -8.0, 4.0)
        return scope.dense("latent_mean", x), log_variance

    def _decode(self, scope: Scope, latent: Tensor) -> Tensor:
        """Return expression from the latent."""
        ops = scope.ops
        x = latent
        last = len(self.spec.hidden)
        for i in range(last + 1):
            x = scope.batch_norm(f"decoder{i}_norm", scope.dense(f"decoder{i}", x))
            x = scope.random_effect(f"decoder{i}", x)
            if i < last:
                x = ops.selu(x)
        return scope.values["output/mean"] + scope.values["output/sd"] * x

"""RE: an autoencoder whose every layer has one variational scale and shift per batch.

Source: MEDL / scMEDAL papers (MEDL-AE-RE), after ARMED.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final, override

import numpy as np

from medl_scale.models.losses import cross_entropy, mean_squared_error
from medl_scale.models.network import InitialValues, Inputs, Network
from medl_scale.models.scope import Scope, dense_values, norm_statistics, norm_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.models.network import Effects
    from medl_scale.models.scope import Arrays

    Tensor = Any

__all__ = ["RandomEffects", "RandomEffectsSpec", "decoder_values", "output_values"]

OUTPUT_GAIN = 0.3
"""First gain of the output's batch norm in standardised units: gene s.d. 1 is then 3 s.d. away."""


@dataclass(frozen=True, kw_only=True)
class RandomEffectsSpec:
    """Sizes and weights of the random-effects network."""

    n_vars: int
    n_latent: int
    n_batches: int
    hidden: tuple[int, ...] = (512, 132)
    standardised_output: bool = True
    """Output mean_g + sd_g * block instead of the published bare block."""
    double_selu: bool = False
    """SELU also before the block in the decoder's hidden layers, as the published code does."""
    recon_weight: float = 110.0
    latent_batch_weight: float = 0.1
    classifier_width: int = 5
    kl_weights: Mapping[str, float]
    batch_norm_momentum: float | None = None


@final
class RandomEffects(Network):
    """Autoencoder that reads the batch in every layer; its latent is batch-specific.

    Block of a layer with width w: BN(u) * (1 + scale_z) + shift_z, z the cell's batch.
    Encoder: for each hidden width Dense, block, SELU; then Dense with SELU to the latent.
    Decoder (untied): for each hidden width Dense, block, SELU; then Dense and block to the genes.
    Objective: w_recon * MSE + w_latent * CCE(batch from latent) + KL.

    Notes
    -----
    With `standardised_output` (ours) the last block works in units of each gene's s.d.:
    mean_g + sd_g * block, mean and s.d. of the train split being first values of a trainable bias
    and gain. In the published form the output's batch-norm gain starts at 1 and must shrink to the
    scale of the data, about 0.02, which takes Adam some 10^4 steps.
    """

    def __init__(
        self, spec: RandomEffectsSpec, *, mean: NDArray[np.float32], sd: NDArray[np.float32]
    ) -> None:
        self.spec = spec
        self.name = "re"
        self.n_latent = spec.n_latent
        self.kl_weights = spec.kl_weights
        self.batch_norm_momentum = spec.batch_norm_momentum
        self.encoder_effects = tuple(f"encoder{i}" for i in range(len(spec.hidden)))
        widths = (*reversed(spec.hidden), spec.n_vars)
        self.effect_widths = dict(zip(self.encoder_effects, spec.hidden, strict=True)) | {
            f"decoder{i}": width for i, width in enumerate(widths)
        }
        self.reported = ("total", "reconstruction", "latent_batch")
        self._mean, self._sd = mean, sd

    @override
    def initial_values(self, rng: np.random.Generator) -> InitialValues:
        spec = self.spec
        widths = (spec.n_vars, *spec.hidden)
        model: Arrays = {}
        norms = []
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            model |= dense_values(rng, f"encoder{i}", n_in, n_out)
            model |= norm_values(f"encoder{i}_norm", n_out)
            norms.append((f"encoder{i}_norm", n_out))
        model |= dense_values(rng, "latent", spec.hidden[-1], spec.n_latent)
        decoder, decoder_norms = decoder_values(rng, spec.n_latent, spec.hidden, spec.n_vars)
        model |= decoder
        if spec.standardised_output:
            model |= output_values(spec.hidden, self._mean, self._sd)
        model |= dense_values(rng, "classifier0", spec.n_latent, spec.classifier_width)
        model |= dense_values(rng, "classifier1", spec.classifier_width, spec.n_batches)
        return InitialValues(model, statistics=norm_statistics([*norms, *decoder_norms]))

    @override
    def activations(
        self, values: Mapping[str, Tensor], inputs: Inputs, *, training: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        scope = Scope(
            values,
            effects=inputs.effects,
            training=training,
            momentum=self.batch_norm_momentum,
            across=inputs.across,
        )
        return {"latent": self._encode(scope, inputs.x)}, scope.updates

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
        from keras import ops

        spec = self.spec
        scope = Scope(
            values,
            effects=inputs.effects,
            training=training,
            momentum=self.batch_norm_momentum,
            across=inputs.across,
        )
        latent = activations["latent"]
        reconstruction = mean_squared_error(inputs.x, self._decode(scope, latent))
        logits = scope.dense("classifier1", ops.relu(scope.dense("classifier0", latent)))
        latent_batch = cross_entropy(logits, inputs.batch_codes)
        total = spec.recon_weight * reconstruction + spec.latent_batch_weight * latent_batch
        terms = {"total": total, "reconstruction": reconstruction, "latent_batch": latent_batch}
        return terms, scope.updates

    @override
    def encode(self, values: Mapping[str, Tensor], x: Tensor, effects: Effects) -> Tensor:
        return self._encode(Scope(values, effects=effects), x)

    @override
    def decode(self, values: Mapping[str, Tensor], latent: Tensor, effects: Effects) -> Tensor:
        return self._decode(Scope(values, effects=effects), latent)

    def _encode(self, scope: Scope, x: Tensor) -> Tensor:
        """Return the latent."""
        ops = scope.ops
        for i in range(len(self.spec.hidden)):
            x = scope.batch_norm(f"encoder{i}_norm", scope.dense(f"encoder{i}", x))
            x = ops.selu(scope.random_effect(f"encoder{i}", x))
        return ops.selu(scope.dense("latent", x))

    def _decode(self, scope: Scope, latent: Tensor) -> Tensor:
        """Return expression from the latent."""
        ops = scope.ops
        x = latent
        last = len(self.spec.hidden)
        for i in range(last + 1):
            x = scope.dense(f"decoder{i}", x)
            if self.spec.double_selu and i < last:
                x = ops.selu(x)
            x = scope.random_effect(f"decoder{i}", scope.batch_norm(f"decoder{i}_norm", x))
            if i < last:
                x = ops.selu(x)
        if self.spec.standardised_output:
            x = scope.values["output/mean"] + scope.values["output/sd"] * x
        return x


def decoder_values(
    rng: np.random.Generator, n_latent: int, hidden: tuple[int, ...], n_vars: int
) -> tuple[Arrays, list[tuple[str, int]]]:
    """Return an untied decoder's first values and its normalisations' names and widths."""
    widths = (n_latent, *reversed(hidden), n_vars)
    values: Arrays = {}
    norms = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        values |= dense_values(rng, f"decoder{i}", n_in, n_out)
        values |= norm_values(f"decoder{i}_norm", n_out)
        norms.append((f"decoder{i}_norm", n_out))
    return values, norms


def output_values(
    hidden: tuple[int, ...], mean: NDArray[np.float32], sd: NDArray[np.float32]
) -> Arrays:
    """Return the first values of an output in standardised gene units."""
    return {
        "output/mean": mean.copy(),
        "output/sd": sd.copy(),
        f"decoder{len(hidden)}_norm/gain": np.full(len(mean), OUTPUT_GAIN, np.float32),
    }

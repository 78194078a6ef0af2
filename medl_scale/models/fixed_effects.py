"""AE, AEC, FE and FEC: a tied autoencoder, with a classifier, an adversary, or both.

Source: MEDL / scMEDAL papers (MEDL-AE, MEDL-AEC, MEDL-AE-FE, MEDL-AEC-FE).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final, override

from medl_scale.models.across import moments
from medl_scale.models.losses import between_batch_trace, cross_entropy, mean_squared_error
from medl_scale.models.network import InitialValues, Inputs, Network
from medl_scale.models.scope import Scope, dense_values, norm_statistics, norm_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from medl_scale.models.network import Effects
    from medl_scale.models.scope import Arrays

    Tensor = Any

__all__ = ["FixedEffects", "FixedEffectsSpec"]

CLASSIFIER_WIDTH = 2
"""The papers' classifier squeezes the latent through two units."""


@dataclass(frozen=True, kw_only=True)
class FixedEffectsSpec:
    """Sizes and weights of one fixed-effects network."""

    name: str
    n_vars: int
    n_latent: int
    n_batches: int
    n_labels: int
    hidden: tuple[int, ...] = (512, 132)
    adversary: Literal["none", "published", "strong"] = "none"
    classifier: bool = False
    recon_weight: float = 1.0
    adversary_weight: float = 1.0
    class_weight: float = 1.0
    eta: float = 0.0
    """Weight of the closed-form linear adversary (see `losses.between_batch_trace`)."""
    batch_norm_momentum: float | None = None


@final
class FixedEffects(Network):
    """Tied autoencoder whose latent is to be free of batch.

    Encoder: for each hidden width Dense, batch norm, SELU; then Dense with SELU to the latent.
    Decoder: the transposed kernels with biases of its own, SELU between, linear output, no norm.
    Objective: w_recon * MSE - w_adversary * CCE(batch) + w_class * CCE(label) + eta * trace.

    Notes
    -----
    The published adversary sees all encoder activations, [512, 132, n_latent], through ReLU layers
    of the encoder's widths. `strong` is ours: it sees the latent alone, standardised within the
    minibatch, through leaky ReLU layers [256, 256], and is updated five times a step.

    Departures from the published step: the encoder runs once per step (its moving statistics are
    updated once, not twice), and tied weights are updated once, not twice.
    """

    def __init__(self, spec: FixedEffectsSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.n_latent = spec.n_latent
        self.effect_widths = {}
        self.kl_weights = {}
        self.batch_norm_momentum = spec.batch_norm_momentum
        self.n_adversary_updates = {"none": 0, "published": 1, "strong": 5}[spec.adversary]
        self.reported = (
            "total",
            "reconstruction",
            *(("adversary",) if spec.adversary != "none" else ()),
            *(("classification",) if spec.classifier else ()),
            *(("between_batch",) if spec.eta > 0 else ()),
        )

    @override
    def initial_values(self, rng: np.random.Generator) -> InitialValues:
        spec = self.spec
        widths = (spec.n_vars, *spec.hidden)
        model: Arrays = {}
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            model |= dense_values(rng, f"encoder{i}", n_in, n_out)
            model |= norm_values(f"norm{i}", n_out)
        model |= dense_values(rng, "latent", spec.hidden[-1], spec.n_latent)
        for i, width in enumerate(reversed(widths)):
            model[f"decoder{i}/bias"] = dense_values(rng, "", 1, width)["/bias"]
        if spec.classifier:
            model |= dense_values(rng, "classifier0", spec.n_latent, CLASSIFIER_WIDTH)
            model |= dense_values(rng, "classifier1", CLASSIFIER_WIDTH, spec.n_labels)
        adversary: Arrays = {}
        widths = self._adversary_widths()
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            adversary |= dense_values(rng, f"adversary{i}", n_in, n_out)
        norms = [(f"norm{i}", width) for i, width in enumerate(spec.hidden)]
        return InitialValues(model, adversary, norm_statistics(norms))

    @override
    def activations(
        self, values: Mapping[str, Tensor], inputs: Inputs, *, training: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        from keras import ops

        scope = Scope(
            values,
            training=training,
            momentum=self.batch_norm_momentum,
            across=inputs.across,
        )
        hidden, latent = self._encode(scope, inputs.x)
        if self.spec.adversary == "published":
            seen = ops.concatenate([*hidden, latent], axis=-1)
        elif self.spec.adversary == "strong":
            mean, variance = moments(latent, inputs.across)
            seen = (latent - mean) * ops.rsqrt(variance + 1e-6)
        else:
            seen = latent
        return {"latent": latent, "seen": seen}, scope.updates

    @override
    def adversary_loss(
        self,
        adversary: Mapping[str, Tensor],
        activations: Mapping[str, Tensor],
        inputs: Inputs,
    ) -> Tensor:
        from keras import ops

        scope = Scope(adversary)
        x = activations["seen"]
        n_layers = len(self._adversary_widths()) - 1
        for i in range(n_layers):
            x = scope.dense(f"adversary{i}", x)
            if i < n_layers - 1:
                strong = self.spec.adversary == "strong"
                x = ops.leaky_relu(x, negative_slope=0.2) if strong else ops.relu(x)
        return cross_entropy(x, inputs.batch_codes)

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
        scope = Scope(values, training=training)
        latent = activations["latent"]
        terms = {"reconstruction": mean_squared_error(inputs.x, self._decode(scope, latent))}
        total = spec.recon_weight * terms["reconstruction"]
        if spec.adversary != "none":
            terms["adversary"] = self.adversary_loss(adversary, activations, inputs)
            total = total - spec.adversary_weight * terms["adversary"]
        if spec.classifier:
            logits = scope.dense("classifier1", ops.relu(scope.dense("classifier0", latent)))
            terms["classification"] = cross_entropy(logits, inputs.label_codes, inputs.across)
            total = total + spec.class_weight * terms["classification"]
        if spec.eta > 0:
            terms["between_batch"] = between_batch_trace(
                latent, inputs.batch_codes, spec.n_batches, inputs.across
            )
            total = total + spec.eta * terms["between_batch"]
        return {"total": total, **terms}, scope.updates

    @override
    def encode(self, values: Mapping[str, Tensor], x: Tensor, effects: Effects) -> Tensor:
        return self._encode(Scope(values), x)[1]

    @override
    def decode(self, values: Mapping[str, Tensor], latent: Tensor, effects: Effects) -> Tensor:
        return self._decode(Scope(values), latent)

    def _encode(self, scope: Scope, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the hidden activations and the latent."""
        ops = scope.ops
        hidden = []
        for i in range(len(self.spec.hidden)):
            x = ops.selu(scope.batch_norm(f"norm{i}", scope.dense(f"encoder{i}", x)))
            hidden.append(x)
        return hidden, ops.selu(scope.dense("latent", x))

    def _decode(self, scope: Scope, latent: Tensor) -> Tensor:
        """Return expression from the latent through the encoder's transposed kernels."""
        ops = scope.ops
        sources = ["latent", *(f"encoder{i}" for i in reversed(range(len(self.spec.hidden))))]
        x = latent
        for i, source in enumerate(sources):
            x = scope.tied(f"decoder{i}", source, x)
            if i < len(sources) - 1:
                x = ops.selu(x)
        return x

    def _adversary_widths(self) -> tuple[int, ...]:
        """Return the layer widths of the adversary, input first; empty without one."""
        spec = self.spec
        if spec.adversary == "published":
            return (sum(spec.hidden) + spec.n_latent, *spec.hidden, spec.n_batches)
        if spec.adversary == "strong":
            return (spec.n_latent, 256, 256, spec.n_batches)
        return ()

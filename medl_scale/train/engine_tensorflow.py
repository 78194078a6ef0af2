"""The TensorFlow engine: gradient tapes inside one `tf.function`, fused Adam kernels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast, override

import numpy as np

from medl_scale.models.network import Inputs
from medl_scale.models.precision import products_in
from medl_scale.models.variational import gather_effects
from medl_scale.train.effects import ADAM_BETAS, ADAM_EPSILON, HostEffects
from medl_scale.train.engine import EffectOptions, Engine, Feeds
from medl_scale.train.engine_ranks import Part, Reduction, part_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.models.network import InitialValues, Network
    from medl_scale.models.precision import ProductPrecision
    from medl_scale.models.variational import EffectTable
    from medl_scale.train.collective import Peers
    from medl_scale.train.collective_tensorflow import TensorFlowPeers

    Tensor = Any

__all__ = ["TensorFlowEngine"]

PAD = ((0, 0), (0, 1), (0, 0))
"""One more row of zeros, which batch code -1 wraps round to."""


class TensorFlowEngine(Engine):
    """See `Engine`.

    The random effects stay in host memory (`HostEffects`); the graph receives the scale and shift
    of every cell and returns the gradient with respect to them.
    """

    def __init__(
        self,
        network: Network,
        initial: InitialValues,
        effects: EffectOptions | None,
        *,
        n_threads: int,
        compiled: bool,
        peers: Peers | None = None,
        precision: ProductPrecision = "float32",
    ) -> None:
        import tensorflow as tf

        self.network = network
        self._precision: ProductPrecision = precision
        self._peers = cast("TensorFlowPeers", peers) if peers and peers.world_size > 1 else None
        self.model = _variables(initial.model)
        self.adversary = _variables(initial.adversary)
        self.statistics = _variables(initial.statistics, trainable=False)
        self._moments = {
            name: (tf.Variable(tf.zeros_like(value)), tf.Variable(tf.zeros_like(value)))
            for name, value in (self.model | self.adversary).items()
        }
        self.n_steps = 0
        # Posterior means as `evaluate` and `encode` read them, until weights change.
        self._padded: dict[str, Tensor] = {}
        self.effects = (
            HostEffects(
                effects.tables,
                kl_weights=effects.kl_weights,
                presence=effects.presence,
                one_draw_kl=effects.one_draw_kl,
                noise=effects.noise,
                n_threads=n_threads,
            )
            if effects is not None
            else None
        )
        # A graph for each size of a minibatch, never one that TensorFlow relaxes after it has met two
        # sizes: rounding would then depend on which came first, and so on where a fit was resumed.
        # `partial` hides that engines share methods; TensorFlow would warn of tracing them too often.
        traced = partial(tf.function, autograph=False)
        self._step = (
            traced(partial(self._step_graph), jit_compile=compiled)
            if self._peers is None
            else self._peers.graph(partial(self._step_graph))
        )
        self._evaluate = traced(partial(self._evaluate_graph))
        encoder = network.encoder_effects
        self._decoder_effects = tuple(x for x in network.effect_widths if x not in encoder)
        self._encode = traced(partial(self._encode_graph), input_signature=self._signature(encoder))
        self._decode = traced(
            partial(self._decode_graph), input_signature=self._signature(self._decoder_effects)
        )

    @override
    def step(self, feeds: Feeds, *, learning_rate: float) -> Any:
        import tensorflow as tf

        self.n_steps += 1
        self._padded.clear()
        draw = None
        if self.effects is not None:
            everyones = feeds.share.batch_codes if feeds.share else None
            draw = self.effects.draw(feeds.batch_codes, self.n_steps, everyones=everyones)
        cells = draw.cells if draw else {}
        terms, gradients = self._step(
            _inputs(feeds, {layer: _tensors(pair) for layer, pair in cells.items()}),
            tf.constant(learning_rate, tf.float32),
            tf.constant(float(self.n_steps), tf.float32),
            part_of(feeds),
        )
        if self.effects is not None and draw is not None:
            host = {
                layer: (np.asarray(pair[0]), np.asarray(pair[1]))
                for layer, pair in gradients.items()
            }
            if self._peers is not None and feeds.share is not None:
                draw, host = self.effects.summed(draw, host, self._peers.sum32)
            self.effects.update(draw, host, learning_rate=learning_rate, n_updates=self.n_steps)
        return terms

    @override
    def evaluate(self, feeds: Feeds) -> NDArray[np.float32]:
        tables = self._mean_tables(tuple(self.network.effect_widths))
        terms: NDArray[np.float32] = self._evaluate(_inputs(feeds, {}), tables).numpy()
        return terms

    @override
    def encode(
        self, x: NDArray[np.float32], batch_codes: NDArray[np.int32], effects: Any = None
    ) -> NDArray[np.float32]:
        import tensorflow as tf

        tables = self._tables(self.network.encoder_effects, effects)
        latent = self._encode(tf.constant(x), tf.constant(batch_codes), tables)
        return np.asarray(latent)

    @override
    def decode(
        self, latent: NDArray[np.float32], batch_codes: NDArray[np.int32], effects: Any = None
    ) -> NDArray[np.float32]:
        import tensorflow as tf

        tables = self._tables(self._decoder_effects, effects)
        return np.asarray(self._decode(tf.constant(latent), tf.constant(batch_codes), tables))

    @override
    def place_effects(self, tables: Mapping[str, NDArray[np.float32]]) -> Any:
        import tensorflow as tf

        return {layer: tf.constant(np.pad(table, PAD)) for layer, table in tables.items()}

    @override
    def effect_tables(self) -> dict[str, EffectTable]:
        return self.effects.tables() if self.effects else {}

    @override
    def state(self) -> dict[str, NDArray[Any]]:
        state = {f"model/{name}": v.numpy() for name, v in self.model.items()}
        state |= {f"adversary/{name}": v.numpy() for name, v in self.adversary.items()}
        state |= {f"statistics/{name}": v.numpy() for name, v in self.statistics.items()}
        for name, (m, v) in self._moments.items():
            state[f"adam/{name}/m"], state[f"adam/{name}/v"] = m.numpy(), v.numpy()
        if self.effects is not None:
            state |= {f"effects/{name}": v.copy() for name, v in self.effects.state().items()}
        state["n_steps"] = np.asarray(self.n_steps)
        return state

    @override
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        for group in ("model", "adversary", "statistics"):
            for name, variable in getattr(self, group).items():
                variable.assign(state[f"{group}/{name}"])
        for name, (m, v) in self._moments.items():
            m.assign(state[f"adam/{name}/m"])
            v.assign(state[f"adam/{name}/v"])
        if self.effects is not None:
            prefix = "effects/"
            self.effects.load_state(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        self.n_steps = int(state["n_steps"])
        self._padded.clear()

    def _step_graph(
        self, inputs: Inputs, rate: Tensor, step: Tensor, part: Part | None
    ) -> tuple[Tensor, Any]:
        """Build one update: adversary on detached activations, then everything else against it."""
        import tensorflow as tf

        reduction = Reduction(self._peers, part) if self._peers and part else None
        if reduction is not None:
            inputs = inputs._replace(across=reduction.across)
        network = self.network
        names = list(self.model)
        watched = [tensor for pair in inputs.effects.values() for tensor in pair]
        with tf.GradientTape() as tape, products_in(self._precision):
            tape.watch(watched)
            values = {**self.model, **self.statistics}
            activations, encoder_updates = network.activations(values, inputs, training=True)
            detached = {name: tf.stop_gradient(value) for name, value in activations.items()}
            for i in range(network.n_adversary_updates):
                update = step * network.n_adversary_updates - (network.n_adversary_updates - 1 - i)
                self._update_adversary(detached, inputs, rate, update, reduction)
            terms, updates = network.objective(
                values, self.adversary, activations, inputs, training=True
            )
            objective = terms["total"] if part is None else terms["total"] * part.weight
        gradients = tape.gradient(
            objective,
            [self.model[name] for name in names] + watched,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        own = gradients[: len(names)]
        pairs = iter(gradients[len(names) :])
        effect_gradients = {layer: (next(pairs), next(pairs)) for layer in inputs.effects}
        reported = tf.stack([terms[name] for name in network.reported])
        if reduction is not None:
            own, reported = reduction.step(own, reported)
        if network.max_gradient_norm is not None:
            own, _ = tf.clip_by_global_norm(own, network.max_gradient_norm)
        for name, gradient in zip(names, own, strict=True):
            self._adam(name, self.model[name], gradient, rate, step)
        for name, value in (encoder_updates | updates).items():
            self.statistics[name].assign(value)
        return reported, effect_gradients

    def _update_adversary(
        self,
        detached: Mapping[str, Tensor],
        inputs: Inputs,
        rate: Tensor,
        update: Tensor,
        reduction: Reduction | None,
    ) -> None:
        """Move the adversary once on activations that carry no gradient."""
        import tensorflow as tf

        names = list(self.adversary)
        with tf.GradientTape() as tape:
            loss = self.network.adversary_loss(self.adversary, detached, inputs)
            if reduction is not None:
                loss = loss * reduction.part.weight
        gradients = tape.gradient(loss, [self.adversary[name] for name in names])
        if reduction is not None:
            gradients = reduction.gradients(gradients)
        for name, gradient in zip(names, gradients, strict=True):
            self._adam(name, self.adversary[name], gradient, rate, update)

    def _adam(
        self, name: str, variable: Tensor, gradient: Tensor, rate: Tensor, update: Tensor
    ) -> None:
        """Apply Adam through TensorFlow's fused kernel, which touches memory once."""
        import tensorflow as tf

        beta1, beta2 = ADAM_BETAS
        m, v = self._moments[name]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=tf.pow(beta1, update),
            beta2_power=tf.pow(beta2, update),
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=ADAM_EPSILON,
            grad=gradient,
        )

    def _evaluate_graph(self, inputs: Inputs, tables: Mapping[str, Tensor]) -> Tensor:
        """Build the loss terms of a block with moving statistics and posterior means."""
        import tensorflow as tf

        inputs = inputs._replace(effects=gather_effects(tables, inputs.batch_codes))
        values = {**self.model, **self.statistics}
        activations, _ = self.network.activations(values, inputs, training=False)
        terms, _ = self.network.objective(
            values, self.adversary, activations, inputs, training=False
        )
        return tf.stack([terms[name] for name in self.network.reported])

    def _encode_graph(self, x: Tensor, codes: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        """Build the latents of a block."""
        values = {**self.model, **self.statistics}
        return self.network.encode(values, x, gather_effects(tables, codes))

    def _decode_graph(self, latent: Tensor, codes: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        """Build the expression of a block of latents."""
        values = {**self.model, **self.statistics}
        return self.network.decode(values, latent, gather_effects(tables, codes))

    def _signature(self, layers: tuple[str, ...]) -> tuple[Any, ...]:
        """Return the types of any number of cells, their codes and the effects of some layers."""
        import tensorflow as tf

        widths = self.network.effect_widths
        tables = {layer: tf.TensorSpec((2, None, widths[layer]), tf.float32) for layer in layers}
        return tf.TensorSpec((None, None), tf.float32), tf.TensorSpec((None,), tf.int32), tables

    def _tables(self, layers: tuple[str, ...], effects: Any) -> dict[str, Tensor]:
        """Return what was placed for some layers, or else the posterior means."""
        if effects is None:
            return self._mean_tables(layers)
        return {layer: effects[layer] for layer in layers}

    def _mean_tables(self, layers: tuple[str, ...]) -> dict[str, Tensor]:
        """Return posterior means with one more row, zeros, which code -1 wraps round to."""
        import tensorflow as tf

        if self.effects is None:
            return {}
        for layer in layers:
            if layer not in self._padded:
                self._padded[layer] = tf.constant(np.pad(self.effects.loc[layer], PAD))
        return {layer: self._padded[layer] for layer in layers}


def _variables(values: Mapping[str, NDArray[Any]], *, trainable: bool = True) -> dict[str, Tensor]:
    """Return TensorFlow variables with these first values."""
    import tensorflow as tf

    return {
        name: tf.Variable(value, trainable=trainable, name=name.replace("/", "_"))
        for name, value in values.items()
    }


def _tensors(pair: tuple[NDArray[Any], NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Return both arrays as tensors."""
    import tensorflow as tf

    return tf.constant(pair[0]), tf.constant(pair[1])


def _inputs(feeds: Feeds, effects: Mapping[str, tuple[Tensor, Tensor]]) -> Inputs:
    """Return feeds as tensors."""
    import tensorflow as tf

    def tensor(value: Any) -> Tensor:
        return None if value is None else tf.constant(value)

    return Inputs(
        x=tf.constant(feeds.x),
        batch_codes=tf.constant(feeds.batch_codes),
        label_codes=tf.constant(feeds.label_codes),
        effects=dict(effects),
        latent_noise=tensor(feeds.latent_noise),
        keep_mask=tensor(feeds.keep_mask),
        frozen_latent=tensor(feeds.frozen_latent),
        ramp=tf.constant(feeds.ramp, tf.float32),
    )

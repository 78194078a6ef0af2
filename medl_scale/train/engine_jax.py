"""The JAX engine: one donated `jit` per step, random effects on the device."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, override

import numpy as np

from medl_scale.models.network import Inputs
from medl_scale.models.precision import products_in
from medl_scale.models.variational import (
    PRIOR_SCALE,
    EffectTable,
    gather_effects,
    posterior_scale,
    row_kl,
)
from medl_scale.train.device_rows import KeptRows, SentRows, dense_on_device, fill_device
from medl_scale.train.devices import device_cache_budget
from medl_scale.train.effects import ADAM_BETAS, ADAM_EPSILON, PresentRows
from medl_scale.train.engine import EffectOptions, Engine, Feeds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from medl_scale.models.network import InitialValues, Network
    from medl_scale.models.precision import ProductPrecision
    from medl_scale.stream.chunks import ChunkedRows
    from medl_scale.stream.densify import Transform
    from medl_scale.train.device_rows import DeviceRows, Filled

    Tensor = Any
    State = dict[str, dict[str, Tensor]]

__all__ = ["JaxEngine"]

PAD = ((0, 0), (0, 1), (0, 0))
"""One more row of zeros, which batch code -1 wraps round to."""
STEPS_AHEAD = 8
"""Steps an accelerator may lag behind the host: enough to hide what the host does between two."""
ROW_BUCKET = 64
"""Present rows are padded to a multiple of this, so that few shapes are compiled."""


class JaxEngine(Engine):
    """See `Engine`. The whole state lives on the device and is donated to each step."""

    def __init__(
        self,
        network: Network,
        initial: InitialValues,
        effects: EffectOptions | None,
        *,
        precision: ProductPrecision = "float32",
    ) -> None:
        import jax
        import jax.numpy as jnp

        self.network = network
        self.options = effects
        self._precision: ProductPrecision = precision
        device = jax.devices()[0]
        self.steps_ahead = 0 if device.platform == "cpu" else STEPS_AHEAD
        self._transform: Transform | None = None
        self._n_vars = 0
        self._filled: Filled | None = None
        tables = dict(effects.tables) if effects else {}
        self._layer_index = {layer: i for i, layer in enumerate(sorted(tables))}
        self._noise = jnp.asarray(effects.noise.values) if effects else jnp.zeros(1)
        self.n_steps = 0
        weights = initial.model | initial.adversary
        self._state: State = jax.tree.map(
            jnp.asarray,
            {
                "model": dict(initial.model),
                "adversary": dict(initial.adversary),
                "statistics": dict(initial.statistics),
                "adam": {
                    f"{name}/{k}": np.zeros_like(v) for name, v in weights.items() for k in "mv"
                },
                "effects": {
                    f"{layer}/{quantity}": value.copy()
                    for layer, table in tables.items()
                    for quantity, value in (
                        ("loc", table.loc),
                        ("untransformed", table.untransformed),
                        ("moments", np.zeros((4, *table.loc.shape), np.float32)),
                    )
                },
            },
        )
        self._step = jax.jit(self._step_graph, donate_argnums=0)
        self._evaluate = jax.jit(self._evaluate_graph)
        self._encode = jax.jit(self._encode_graph)
        self._decode = jax.jit(self._decode_graph)

    @override
    def step(self, feeds: Feeds, *, learning_rate: float) -> Any:
        self.n_steps += 1
        rows = self._rows(feeds.batch_codes) if self.options else {}
        self._state, terms = self._step(
            self._state,
            _inputs(feeds),
            rows,
            self._noise,
            np.float32(learning_rate),
            np.float32(self.n_steps),
            self._filled.rows if self._filled and isinstance(feeds.cells, KeptRows) else None,
        )
        return terms

    @override
    def takes_rows(self, transform: Transform, n_vars: int, cache_memory: int | None) -> int | None:
        import jax

        self._transform, self._n_vars = transform, n_vars
        device = jax.devices()[0]
        return device_cache_budget(cache_memory, device.platform, device.memory_stats())

    @override
    def send_rows(self, chunks: ChunkedRows) -> Any:
        import jax

        # Returns before the copy has ended; on GPUs it goes through memory that is pinned.
        return SentRows(jax.device_put(chunks))

    @override
    def keep_rows(self, blocks: Iterable[ChunkedRows], budget_bytes: int) -> bool:
        self._filled = fill_device(blocks, budget_bytes)
        return self._filled is not None

    @override
    def kept_rows(self, places: NDArray[np.int64]) -> Any:
        if self._filled is None:
            raise RuntimeError("no rows are kept on the device")
        return self._filled.minibatch(places)

    @override
    def evaluate(self, feeds: Feeds) -> NDArray[np.float32]:
        return np.asarray(self._evaluate(self._state, _inputs(feeds)))

    @override
    def encode(
        self, x: NDArray[np.float32], batch_codes: NDArray[np.int32], effects: Any = None
    ) -> NDArray[np.float32]:
        return np.asarray(self._encode(self._state, x, batch_codes, effects))

    @override
    def decode(
        self, latent: NDArray[np.float32], batch_codes: NDArray[np.int32], effects: Any = None
    ) -> NDArray[np.float32]:
        return np.asarray(self._decode(self._state, latent, batch_codes, effects))

    @override
    def place_effects(self, tables: Mapping[str, NDArray[np.float32]]) -> Any:
        import jax.numpy as jnp

        return {layer: jnp.pad(table, PAD) for layer, table in tables.items()}

    @override
    def effect_tables(self) -> dict[str, EffectTable]:
        effects = self._state["effects"]
        return {
            layer: EffectTable(
                np.asarray(effects[f"{layer}/loc"]), np.asarray(effects[f"{layer}/untransformed"])
            )
            for layer in self._layer_index
        }

    @override
    def state(self) -> dict[str, NDArray[Any]]:
        state = {
            f"{group}/{name}": np.array(value)
            for group, values in self._state.items()
            for name, value in values.items()
        }
        state["n_steps"] = np.asarray(self.n_steps)
        return state

    @override
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        import jax.numpy as jnp

        # jnp.array copies: a donated buffer must not be memory that the caller still holds.
        self._state = {
            group: {name: jnp.array(state[f"{group}/{name}"]) for name in values}
            for group, values in self._state.items()
        }
        self.n_steps = int(state["n_steps"])

    def _rows(self, batch_codes: NDArray[np.int32]) -> dict[str, Any]:
        """Return which effect rows the minibatch needs, padded with a row that does not exist."""
        options = self.options
        if options is None:
            return {}
        n_batches = next(iter(options.tables.values())).loc.shape[1]
        everywhere = None if options.presence is not None else n_batches
        present = PresentRows.of(batch_codes, n_batches=everywhere)
        n_rows = len(present.rows)
        n_padded = min(-(-n_rows // ROW_BUCKET) * ROW_BUCKET, max(n_batches, n_rows))
        padded = np.full(n_padded, n_batches, np.int32)
        padded[:n_rows] = present.rows
        share = np.ones(n_padded, np.float32)
        if options.presence is not None:
            share[:n_rows] = options.presence[present.rows]
        share[n_rows:] = np.inf
        offsets = {}
        for layer, index in self._layer_index.items():
            width = options.tables[layer].loc.shape[2]
            drawn = options.noise.offsets(self.n_steps, index, present.rows, 2 * width)
            offsets[layer] = np.pad(drawn, (0, n_padded - n_rows)).astype(np.int32)
        position = np.searchsorted(present.rows, batch_codes).astype(np.int32)
        return {"rows": padded, "share": share, "offsets": offsets, "position": position}

    def _step_graph(
        self,
        state: State,
        inputs: Inputs,
        rows: Mapping[str, Any],
        noise: Tensor,
        rate: Tensor,
        step: Tensor,
        kept: DeviceRows | None,
    ) -> tuple[State, Tensor]:
        """Build one update: adversary on detached activations, then everything else against it."""
        import jax
        import jax.numpy as jnp

        network = self.network
        inputs = self._densified(inputs, kept)
        adam = dict(state["adam"])
        taken = _take_rows(state["effects"], self._layer_index, rows)

        def objective(model: Any, drawn: Any) -> tuple[Tensor, Any]:
            effects = self._draw(drawn, rows, noise)
            values = {**model, **state["statistics"]}
            own = inputs._replace(effects=effects)
            activations, encoder_updates = network.activations(values, own, training=True)
            detached = jax.lax.stop_gradient(activations)
            adversary = state["adversary"]
            moments = adam
            for i in range(network.n_adversary_updates):
                update = step * network.n_adversary_updates - (network.n_adversary_updates - 1 - i)
                gradients = jax.grad(network.adversary_loss)(adversary, detached, own)
                adversary, moments = _adam_all(adversary, gradients, moments, rate, update)
            adversary = jax.lax.stop_gradient(adversary)
            terms, updates = network.objective(values, adversary, activations, own, training=True)
            total = terms["total"] + self._kl(drawn, rows, noise)
            return total, (terms, encoder_updates | updates, adversary, moments)

        with products_in(self._precision):
            (model_gradients, row_gradients), (terms, updates, adversary, adam) = jax.grad(
                objective, argnums=(0, 1), has_aux=True
            )(state["model"], taken)
        if network.max_gradient_norm is not None:
            squares = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(model_gradients))
            factor = network.max_gradient_norm / jnp.maximum(
                jnp.sqrt(squares), network.max_gradient_norm
            )
            model_gradients = jax.tree.map(lambda g: g * factor, model_gradients)
        model, adam = _adam_all(state["model"], model_gradients, adam, rate, step)
        effects = _update_rows(state["effects"], taken, row_gradients, rows, rate, step)
        new_state = {
            "model": model,
            "adversary": adversary,
            "statistics": {**state["statistics"], **updates},
            "adam": adam,
            "effects": effects,
        }
        return new_state, jnp.stack([terms[name] for name in network.reported])

    def _densified(self, inputs: Inputs, kept: DeviceRows | None) -> Inputs:
        """Return inputs whose rows are dense."""
        if self._transform is None or not isinstance(inputs.x, SentRows | KeptRows):
            return inputs
        return inputs._replace(x=dense_on_device(inputs.x, kept, self._transform, self._n_vars))

    def _draw(
        self, taken: Mapping[str, Any], rows: Mapping[str, Any], noise: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each cell's drawn (scale, shift) per layer."""
        drawn = {}
        for layer, (loc, untransformed) in taken.items():
            weights = loc + posterior_scale(untransformed) * _noise_rows(noise, rows, layer, loc)
            drawn[layer] = weights
        return gather_effects(drawn, rows["position"]) if drawn else {}

    def _kl(self, taken: Mapping[str, Any], rows: Mapping[str, Any], noise: Tensor) -> Tensor:
        """Return the weighted KL of the present rows, each divided by its chance to be present."""
        import jax.numpy as jnp

        if self.options is None:
            return jnp.zeros(())
        total = jnp.zeros(())
        for layer, (loc, untransformed) in taken.items():
            scale = posterior_scale(untransformed)
            if self.options.one_draw_kl:
                eps = _noise_rows(noise, rows, layer, loc)
                weight = loc + scale * eps
                # log q(w) - log p(w) with w = loc + scale * eps
                per_weight = 0.5 * (jnp.square(weight / PRIOR_SCALE) - jnp.square(eps)) - jnp.log(
                    scale / PRIOR_SCALE
                )
            else:
                per_weight = row_kl(loc, scale)
            per_row = jnp.sum(per_weight, axis=(0, 2)) / rows["share"]
            total = total + self.options.kl_weights[layer] * jnp.sum(per_row)
        return total

    def _evaluate_graph(self, state: State, inputs: Inputs) -> Tensor:
        """Build the loss terms of a block with moving statistics and posterior means."""
        import jax.numpy as jnp

        tables = self._mean_tables(state, tuple(self.network.effect_widths))
        inputs = self._densified(inputs, None)
        inputs = inputs._replace(effects=gather_effects(tables, inputs.batch_codes))
        values = {**state["model"], **state["statistics"]}
        activations, _ = self.network.activations(values, inputs, training=False)
        terms, _ = self.network.objective(
            values, state["adversary"], activations, inputs, training=False
        )
        return jnp.stack([terms[name] for name in self.network.reported])

    def _encode_graph(self, state: State, x: Tensor, codes: Tensor, effects: Any) -> Tensor:
        """Build the latents of a block."""
        values = {**state["model"], **state["statistics"]}
        tables = self._tables(state, self.network.encoder_effects, effects)
        return self.network.encode(values, x, gather_effects(tables, codes))

    def _decode_graph(self, state: State, latent: Tensor, codes: Tensor, effects: Any) -> Tensor:
        """Build the expression of a block of latents."""
        values = {**state["model"], **state["statistics"]}
        encoder = self.network.encoder_effects
        layers = tuple(layer for layer in self.network.effect_widths if layer not in encoder)
        tables = self._tables(state, layers, effects)
        return self.network.decode(values, latent, gather_effects(tables, codes))

    def _tables(self, state: State, layers: tuple[str, ...], effects: Any) -> dict[str, Tensor]:
        """Return what was placed for some layers, or else the posterior means."""
        if effects is None:
            return self._mean_tables(state, layers)
        return {layer: effects[layer] for layer in layers}

    def _mean_tables(self, state: State, layers: tuple[str, ...]) -> dict[str, Tensor]:
        """Return posterior means with one more row, zeros, for unknown batches."""
        import jax.numpy as jnp

        return {layer: jnp.pad(state["effects"][f"{layer}/loc"], PAD) for layer in layers}


def _inputs(feeds: Feeds) -> Inputs:
    """Return feeds as inputs; JAX moves them to the device."""
    return Inputs(
        x=feeds.x if feeds.cells is None else feeds.cells,
        batch_codes=feeds.batch_codes,
        label_codes=feeds.label_codes,
        effects={},
        latent_noise=feeds.latent_noise,
        keep_mask=feeds.keep_mask,
        frozen_latent=feeds.frozen_latent,
        ramp=np.float32(feeds.ramp),
    )


def _noise_rows(noise: Tensor, rows: Mapping[str, Any], layer: str, like: Tensor) -> Tensor:
    """Return (2, n_rows, width) noise, the stretch of the table that each row is given."""
    import jax

    _, n_rows, width = like.shape
    size = 2 * width
    stretch = jax.vmap(lambda start: jax.lax.dynamic_slice(noise, (start,), (size,)))
    return stretch(rows["offsets"][layer]).reshape(n_rows, 2, width).transpose(1, 0, 2)


def _take_rows(
    effects: Mapping[str, Tensor], layers: Mapping[str, int], rows: Mapping[str, Any]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (loc, untransformed) of the present rows per layer, (2, n_rows, width) each."""
    import jax.numpy as jnp

    take = partial(jnp.take, indices=rows.get("rows"), axis=1, mode="fill", fill_value=0.0)
    return {
        layer: (take(effects[f"{layer}/loc"]), take(effects[f"{layer}/untransformed"]))
        for layer in layers
    }


def _update_rows(
    effects: Mapping[str, Tensor],
    taken: Mapping[str, tuple[Tensor, Tensor]],
    gradients: Mapping[str, tuple[Tensor, Tensor]],
    rows: Mapping[str, Any],
    rate: Tensor,
    step: Tensor,
) -> dict[str, Tensor]:
    """Apply Adam to the present rows and write them back; padding rows are dropped."""
    import jax.numpy as jnp

    updated = dict(effects)
    for layer in taken:
        moments = effects[f"{layer}/moments"]
        kept = jnp.take(moments, rows["rows"], axis=2, mode="fill", fill_value=0.0)
        new_moments = []
        for i, quantity in enumerate(("loc", "untransformed")):
            value, m, v = _adam(
                taken[layer][i], kept[2 * i], kept[2 * i + 1], gradients[layer][i], rate, step
            )
            name = f"{layer}/{quantity}"
            updated[name] = effects[name].at[:, rows["rows"]].set(value, mode="drop")
            new_moments += [m, v]
        updated[f"{layer}/moments"] = moments.at[:, :, rows["rows"]].set(
            jnp.stack(new_moments), mode="drop"
        )
    return updated


def _adam_all(
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    rate: Tensor,
    update: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Apply Adam to each value by name."""
    new_values, new_moments = {}, dict(moments)
    for name, value in values.items():
        new_values[name], new_moments[f"{name}/m"], new_moments[f"{name}/v"] = _adam(
            value, moments[f"{name}/m"], moments[f"{name}/v"], gradients[name], rate, update
        )
    return new_values, new_moments


def _adam(
    value: Tensor, m: Tensor, v: Tensor, gradient: Tensor, rate: Tensor, update: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value and moments after one Adam update (Kingma and Ba 2015, end of section 2)."""
    import jax.numpy as jnp

    beta1, beta2 = ADAM_BETAS
    m = m + (gradient - m) * (1.0 - beta1)
    v = v + (jnp.square(gradient) - v) * (1.0 - beta2)
    corrected = rate * jnp.sqrt(1.0 - beta2**update) / (1.0 - beta1**update)
    return value - corrected * m / (jnp.sqrt(v) + ADAM_EPSILON), m, v

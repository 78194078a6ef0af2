"""Values by name and the few layers that read them.

Networks are pure functions: a `Scope` gives them their weights and collects the new moving
statistics of batch normalisation, so that the same code runs under a TensorFlow tape and inside one
donated JAX `jit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.models.across import moments
from medl_scale.models.operations import operations_for
from medl_scale.models.precision import product

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from medl_scale.models.across import Across

    Tensor = Any  # a tensor of the Keras backend; none of them has a common static type
    Arrays = dict[str, NDArray[np.float32]]

__all__ = ["Scope", "dense_values", "norm_statistics", "norm_values"]

BATCH_NORM_EPSILON = 1e-3
"""Keras' default, as in the papers' code."""


class Scope:
    """The values a network reads during one call, and the statistics it leaves behind.

    Parameters
    ----------
    values
        Weights and moving statistics by name, `layer/quantity`.
    effects
        For each random-effects layer its (scale, shift), both (m, width): one row per *cell*, already
        chosen by its batch. Layers that are not named have none.
    training
        Whether batch normalisation uses the minibatch's own moments and updates the moving ones.
    momentum
        Share of the old moving statistics that is kept; None keeps the plain mean of the first
        hundred minibatches and 0.99 from then on, so that short runs are not ruled by the initial
        zeros and ones.
    across
        The other processes that hold cells of the minibatch, or None; used in training.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        effects: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        training: bool = False,
        momentum: float | None = None,
        across: Across | None = None,
    ) -> None:
        self.values = values
        self.effects = effects or {}
        self.training = training
        self.momentum = momentum
        self.across = across
        self.updates: dict[str, Tensor] = {}
        self.ops = operations_for(values.values(), training=training)
        """What these values are computed with: `keras.ops`, or NumPy for prediction."""

    def dense(self, name: str, x: Tensor) -> Tensor:
        """Return x @ kernel + bias, (m, n_in) to (m, n_out); layers without a bias skip it."""
        x = product(self.ops, x, self.values[f"{name}/kernel"])
        bias = self.values.get(f"{name}/bias")
        return x if bias is None else x + bias

    def tied(self, name: str, source: str, x: Tensor) -> Tensor:
        """Return x @ transpose(kernel of `source`) + the bias of `name` itself."""
        kernel = self.ops.transpose(self.values[f"{source}/kernel"])
        return product(self.ops, x, kernel) + self.values[f"{name}/bias"]

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        """Normalise each unit over the cells; (m, width) to (m, width).

        Notes
        -----
        As Keras: epsilon 1e-3, biased variance. The affine part is folded into one multiplication
        and one addition, since at gene width these passes over memory cost as much as a small
        matrix product.
        """
        if self.training:
            mean, variance = moments(x, self.across, self.values[f"{name}/mean"])
            self._update_statistics(name, mean, variance)
        else:
            mean = self.values[f"{name}/mean"]
            variance = self.values[f"{name}/variance"]
        gain = self.values[f"{name}/gain"] * self.ops.rsqrt(variance + BATCH_NORM_EPSILON)
        return x * gain + (self.values[f"{name}/offset"] - mean * gain)

    def random_effect(self, name: str, x: Tensor) -> Tensor:
        """Return x * (1 + scale) + shift with the cell's own batch; x itself without effects."""
        if name not in self.effects:
            return x
        scale, shift = self.effects[name]
        return x * (1.0 + scale) + shift

    def _update_statistics(self, name: str, mean: Tensor, variance: Tensor) -> None:
        ops = self.ops
        mean, variance = ops.stop_gradient(mean), ops.stop_gradient(variance)
        keep: Tensor = self.momentum
        if keep is None:
            seen = self.values[f"{name}/seen"] + 1.0
            self.updates[f"{name}/seen"] = seen
            keep = ops.minimum(0.99, 1.0 - 1.0 / seen)
        for quantity, now in (("mean", mean), ("variance", variance)):
            key = f"{name}/{quantity}"
            self.updates[key] = self.values[key] * keep + now * (1.0 - keep)


def dense_values(
    rng: np.random.Generator, name: str, n_in: int, n_out: int, *, bias: bool = True
) -> Arrays:
    """Return the first values of a dense layer: Glorot-uniform kernel, zero bias (Keras' defaults)."""
    limit = np.sqrt(6.0 / (n_in + n_out))
    values = {f"{name}/kernel": rng.uniform(-limit, limit, (n_in, n_out)).astype(np.float32)}
    if bias:
        values[f"{name}/bias"] = np.zeros(n_out, np.float32)
    return values


def norm_values(name: str, width: int, *, gain: float = 1.0) -> Arrays:
    """Return the first trainable values of a batch normalisation."""
    return {
        f"{name}/gain": np.full(width, gain, np.float32),
        f"{name}/offset": np.zeros(width, np.float32),
    }


def norm_statistics(names_and_widths: Sequence[tuple[str, int]]) -> Arrays:
    """Return the first moving statistics of several batch normalisations."""
    statistics: Arrays = {}
    for name, width in names_and_widths:
        statistics[f"{name}/mean"] = np.zeros(width, np.float32)
        statistics[f"{name}/variance"] = np.ones(width, np.float32)
        statistics[f"{name}/seen"] = np.zeros((), np.float32)
    return statistics

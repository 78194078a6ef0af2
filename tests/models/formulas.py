"""The networks' formulas once more, in float64 NumPy, from the papers and from what docstrings promise.

Nothing of `medl_scale` is used but the names of its values. Gradients are central differences.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = Mapping[str, np.ndarray]

PRIOR_SD = 0.25
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@dataclass
class Forward:
    """One training-mode pass: reads values, collects the moments that batch norms see."""

    values: Values
    effects: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    moments: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.values[f"{name}/kernel"] + self.values[f"{name}/bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        mean, variance = x.mean(axis=0), x.var(axis=0)
        self.moments[name] = (mean, variance)
        standard = (x - mean) / np.sqrt(variance + 1e-3)
        return standard * self.values[f"{name}/gain"] + self.values[f"{name}/offset"]

    def block(self, layer: str, x: np.ndarray) -> np.ndarray:
        """BN(u) * (1 + scale_z) + shift_z."""
        scale, shift = self.effects[layer]
        return self.norm(f"{layer}_norm", x) * (1 + scale) + shift


def selu(x: np.ndarray) -> np.ndarray:
    return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def cross_entropy(logits: np.ndarray, codes: np.ndarray) -> float:
    """Mean over the labelled cells of -log softmax, probabilities clipped at 1e-7."""
    known = codes >= 0
    if not known.any():
        return 0.0
    logits, codes = logits[known], codes[known]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    return -np.mean(np.log(np.maximum(probabilities[np.arange(len(codes)), codes], 1e-7)))


def trace(latent: np.ndarray, codes: np.ndarray) -> float:
    """Trace of the between-batch covariance times the inverse of the (ridged) covariance."""
    centred = latent - latent.mean(axis=0)
    covariance = centred.T @ centred / len(latent) + 1e-4 * np.eye(latent.shape[1])
    between = np.zeros_like(covariance)
    for code in np.unique(codes):
        mean = centred[codes == code].mean(axis=0)
        between += np.mean(codes == code) * np.outer(mean, mean)
    return float(np.trace(between @ np.linalg.inv(covariance)))


@dataclass(frozen=True)
class FixedEffects:
    """AE, AEC, FE, FEC: section 1.1 to 1.3 of the methods."""

    recon_weight: float
    adversary: str
    adversary_weight: float
    classifier: bool
    class_weight: float
    eta: float

    def encode(self, forward: Forward, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        hidden = []
        for i in (0, 1):
            x = selu(forward.norm(f"norm{i}", forward.dense(f"encoder{i}", x)))
            hidden.append(x)
        return hidden, selu(forward.dense("latent", x))

    def seen(self, values: Values, x: np.ndarray) -> np.ndarray:
        """What the adversary is shown."""
        hidden, latent = self.encode(Forward(values), x)
        if self.adversary == "published":
            return np.concatenate([*hidden, latent], axis=1)
        return (latent - latent.mean(axis=0)) / np.sqrt(latent.var(axis=0) + 1e-6)

    def terms(
        self,
        values: Values,
        adversary: Values,
        x: np.ndarray,
        batch: np.ndarray,
        label: np.ndarray,
        moments: dict | None = None,
    ) -> dict[str, float]:
        forward = Forward(values, moments={} if moments is None else moments)
        hidden, latent = self.encode(forward, x)
        u = selu(latent @ values["latent/kernel"].T + values["decoder0/bias"])
        u = selu(u @ values["encoder1/kernel"].T + values["decoder1/bias"])
        output = u @ values["encoder0/kernel"].T + values["decoder2/bias"]
        terms = {"reconstruction": np.mean((output - x) ** 2)}
        total = self.recon_weight * terms["reconstruction"]
        if self.adversary != "none":
            if self.adversary == "published":
                seen = np.concatenate([*hidden, latent], axis=1)
            else:
                seen = (latent - latent.mean(axis=0)) / np.sqrt(latent.var(axis=0) + 1e-6)
            logits = adversary_layers(adversary, seen, strong=self.adversary == "strong")[-1]
            terms["adversary"] = cross_entropy(logits, batch)
            total = total - self.adversary_weight * terms["adversary"]
        if self.classifier:
            logits = forward.dense("classifier1", relu(forward.dense("classifier0", latent)))
            terms["classification"] = cross_entropy(logits, label)
            total = total + self.class_weight * terms["classification"]
        if self.eta > 0:
            terms["between_batch"] = trace(latent, batch)
            total = total + self.eta * terms["between_batch"]
        return {"total": total, **terms}


@dataclass(frozen=True)
class RandomEffects:
    """RE: section 1.4 of the methods, or section 9 with `ours`."""

    recon_weight: float
    latent_batch_weight: float
    ours: bool

    def terms(
        self,
        values: Values,
        effects: Mapping[str, tuple[np.ndarray, np.ndarray]],
        x: np.ndarray,
        batch: np.ndarray,
        moments: dict | None = None,
    ) -> dict[str, float]:
        forward = Forward(values, effects, {} if moments is None else moments)
        u = x
        for i in (0, 1):
            u = selu(forward.block(f"encoder{i}", forward.dense(f"encoder{i}", u)))
        latent = u = selu(forward.dense("latent", u))
        for i in (0, 1):
            u = forward.dense(f"decoder{i}", u)
            u = selu(forward.block(f"decoder{i}", u if self.ours else selu(u)))
        u = forward.block("decoder2", forward.dense("decoder2", u))
        if self.ours:
            u = values["output/mean"] + values["output/sd"] * u
        logits = forward.dense("classifier1", relu(forward.dense("classifier0", latent)))
        terms = {
            "reconstruction": np.mean((u - x) ** 2),
            "latent_batch": cross_entropy(logits, batch),
        }
        total = self.recon_weight * terms["reconstruction"]
        return {"total": total + self.latent_batch_weight * terms["latent_batch"], **terms}


@dataclass(frozen=True)
class MixedEffects:
    """ME: section 9 of the methods."""

    recon_weight: float
    latent_kl_weight: float
    input_dropout: float
    mean: np.ndarray
    sd: np.ndarray

    def terms(
        self,
        values: Values,
        output_sd: np.ndarray,
        effects: Mapping[str, tuple[np.ndarray, np.ndarray]],
        x: np.ndarray,
        noise: np.ndarray,
        keep: np.ndarray,
        ramp: float,
        moments: dict | None = None,
    ) -> dict[str, float]:
        forward = Forward(values, effects, {} if moments is None else moments)
        u = np.clip((x - self.mean) / self.sd, -10, 10) * keep / (1 - self.input_dropout)
        for i in (0, 1):
            u = selu(forward.norm(f"encoder{i}_norm", forward.dense(f"encoder{i}", u)))
        mean = forward.dense("latent_mean", u)
        log_variance = np.clip(forward.dense("latent_log_variance", u), -8, 4)
        u = mean + np.exp(log_variance / 2) * noise
        for i in (0, 1):
            u = selu(forward.block(f"decoder{i}", forward.dense(f"decoder{i}", u)))
        u = forward.block("decoder2", forward.dense("decoder2", u))
        output = values["output/mean"] + output_sd * u
        per_unit = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
        terms = {
            "reconstruction": np.mean((output - x) ** 2),
            "latent_kl": np.mean(per_unit.sum(axis=1)),
        }
        total = self.recon_weight * terms["reconstruction"]
        return {"total": total + ramp * self.latent_kl_weight * terms["latent_kl"], **terms}


def adversary_layers(values: Values, x: np.ndarray, *, strong: bool) -> list[np.ndarray]:
    """Return the input of each adversary layer, and the logits last."""
    layers = [x]
    n_layers = len(values) // 2
    for i in range(n_layers):
        x = x @ values[f"adversary{i}/kernel"] + values[f"adversary{i}/bias"]
        if i < n_layers - 1:
            x = np.where(x > 0, x, 0.2 * x) if strong else relu(x)
        layers.append(x)
    return layers


def adversary_gradient(
    values: Values, seen: np.ndarray, batch: np.ndarray, *, strong: bool
) -> dict[str, np.ndarray]:
    """Return the gradient of the batch cross-entropy by back-propagation (layers are too wide for
    differences)."""
    *inputs, logits = adversary_layers(values, seen, strong=strong)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    flowing = powers / powers.sum(axis=1, keepdims=True)
    flowing[np.arange(len(batch)), batch] -= 1
    flowing /= len(batch)
    gradient = {}
    for i in reversed(range(len(inputs))):
        gradient[f"adversary{i}/kernel"] = inputs[i].T @ flowing
        gradient[f"adversary{i}/bias"] = flowing.sum(axis=0)
        slope = np.where(inputs[i] > 0, 1.0, 0.2 if strong else 0.0)
        flowing = flowing @ values[f"adversary{i}/kernel"].T * slope
    return gradient


def draw(loc: np.ndarray, untransformed: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """loc + (1e-5 + softplus(untransformed)) * noise."""
    return loc + (1e-5 + np.log1p(np.exp(untransformed))) * noise


def closed_kl(loc: np.ndarray, untransformed: np.ndarray) -> np.ndarray:
    """KL(N(loc, sd^2) || N(0, 0.25^2)) of each weight."""
    sd = 1e-5 + np.log1p(np.exp(untransformed))
    return np.log(PRIOR_SD / sd) + (sd**2 + loc**2) / (2 * PRIOR_SD**2) - 0.5


def one_draw_kl(loc: np.ndarray, untransformed: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """log q(w) - log p(w) of each weight at the weight drawn."""
    sd = 1e-5 + np.log1p(np.exp(untransformed))
    weight = loc + sd * noise

    def log_normal(value: np.ndarray, mean: np.ndarray | float, sd: np.ndarray | float) -> object:
        return -0.5 * ((value - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)

    return log_normal(weight, loc, sd) - log_normal(weight, 0.0, PRIOR_SD)


def gradient(
    function: Callable[[Mapping[str, np.ndarray]], float], values: Values, step: float = 1e-6
) -> dict[str, np.ndarray]:
    """Return the central differences of a function of named arrays."""
    found = {}
    moved = {name: np.array(value, np.float64) for name, value in values.items()}
    for name, value in moved.items():
        slope = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            kept = value[place]
            value[place] = kept + step
            above = function(moved)
            value[place] = kept - step
            below = function(moved)
            value[place] = kept
            slope[place] = (above - below) / (2 * step)
        found[name] = slope
    return found


def adam(
    value: np.ndarray, gradient: np.ndarray, rate: float, *, m=0.0, v=0.0, update: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value and moments after one update (Kingma and Ba 2015, end of section 2)."""
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    rate = rate * np.sqrt(1 - 0.999**update) / (1 - 0.9**update)
    return value - rate * m / (np.sqrt(v) + 1e-7), m, v

"""A random-effects decoder with everything that does not depend on the cell folded together.

At prediction, batch normalisation and random effects are both affine per unit, so each layer is one
matrix, and per batch one scale and one shift. The last layer is affine as a whole: the mean and the
covariance of its input tell the mean and the variance of its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.models.scope import BATCH_NORM_EPSILON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.train.fitted import FittedNetwork

    type Floats = NDArray[np.float32]

__all__ = ["FoldedDecoder", "FoldedLayer", "fold_decoder"]

_SELU_SCALE = np.float32(1.0507009873554805)
_SELU_FLOOR = np.float32(1.0507009873554805 * 1.6732632423543772)


class FoldedLayer(NamedTuple):
    """One layer: (x @ kernel + bias) * scale[b] + shift[b] for batch b."""

    kernel: Floats
    """(n_in, n_out)."""
    bias: Floats | None
    """(n_out,) where an activation follows it at once; elsewhere None, and part of the shift."""
    scale: Floats
    """(n_batches, n_out)."""
    shift: Floats
    """(n_batches, n_out)."""


@dataclass(frozen=True, eq=False)
class FoldedDecoder:
    """What a decoder computes at the posterior means of its random effects."""

    hidden_layers: tuple[FoldedLayer, ...]
    output: FoldedLayer
    """Its unit is that of log-normalised expression."""
    gene_sd: Floats
    """(n_vars,) s.d. of each gene in the train split, log-normalised: the unit of its effects."""

    @property
    def n_latent(self) -> int:
        """Width of the latent."""
        first = self.hidden_layers[0] if self.hidden_layers else self.output
        return len(first.kernel)

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return int(self.output.kernel.shape[1])

    def hidden(self, latent: Floats, batch: int) -> Floats:
        """Return the last hidden activations of cells under one batch.

        Parameters
        ----------
        latent
            (m, n_latent) float32.
        batch
            Code of the target batch.

        Returns
        -------
        (m, width) float32, what the output layer reads.
        """
        x = latent
        for layer in self.hidden_layers:
            x = x @ layer.kernel
            if layer.bias is not None:
                x += layer.bias
                _selu(x)
            x *= layer.scale[batch]
            x += layer.shift[batch]
            _selu(x)
        return x

    def expression(self, latent: Floats, batch: int) -> Floats:
        """Return (m, n_vars) float32 log-normalised expression of cells under one batch."""
        x = self.hidden(latent, batch) @ self.output.kernel
        x *= self.output.scale[batch]
        x += self.output.shift[batch]
        return x


def fold_decoder(fitted: FittedNetwork) -> FoldedDecoder:
    """Fold the decoder of a trained network whose random effects it reads.

    Raises
    ------
    ConfigError
        If the network's decoder reads no batch.
    """
    effects = fitted.effects()
    names = sorted((name for name in effects if name.startswith("decoder")), key=_number)
    if not names:
        raise ConfigError(
            f"Model '{fitted.name}' decodes every batch alike. Models whose decoder reads the batch: "
            "'me', 're'."
        )
    state = fitted.engine.state()
    values = {
        name.split("/", 1)[1]: value.astype(np.float64)
        for name, value in state.items()
        if name.startswith(("model/", "statistics/"))
    }
    early_selu = fitted.network.name == "re" and fitted.config.preset != "auto"
    *hidden, last = (
        _fold(name, values, effects[name].loc, early_selu=early_selu and name != names[-1])
        for name in names
    )
    # Sd and mean of the genes, where the network's output has them, then the unit of the atlas.
    unit = 1.0 / fitted.vocabulary.transform.scale
    sd, mean = values.get("output/sd", 1.0), values.get("output/mean", 0.0)
    gene_sd = values.get("output/sd", fitted.summary.sd) * unit
    output = last._replace(
        scale=(last.scale * sd * unit).astype(np.float32),
        shift=((last.shift * sd + mean) * unit).astype(np.float32),
    )
    return FoldedDecoder(tuple(hidden), output, np.asarray(gene_sd, np.float32))


def _fold(
    name: str, values: Mapping[str, NDArray[np.float64]], loc: Floats, *, early_selu: bool
) -> FoldedLayer:
    """Return one layer with batch normalisation and the effects of every batch folded."""
    norm = f"{name}_norm"
    gain = values[f"{norm}/gain"] / np.sqrt(values[f"{norm}/variance"] + BATCH_NORM_EPSILON)
    offset = values[f"{norm}/offset"] - values[f"{norm}/mean"] * gain
    bias = values[f"{name}/bias"]
    if not early_selu:
        offset = offset + bias * gain
    factor, addend = 1.0 + loc[0].astype(np.float64), loc[1]
    return FoldedLayer(
        kernel=np.ascontiguousarray(values[f"{name}/kernel"], np.float32),
        bias=bias.astype(np.float32) if early_selu else None,
        scale=(gain * factor).astype(np.float32),
        shift=(offset * factor + addend).astype(np.float32),
    )


def _number(name: str) -> int:
    """Return the place of `decoder3`, 3."""
    return int(name.removeprefix("decoder"))


def _selu(x: Floats) -> None:
    """Apply SELU in place: scale * x above 0, scale * alpha * (exp(x) - 1) below."""
    below = np.minimum(x, 0.0)
    np.expm1(below, out=below)
    below *= _SELU_FLOOR
    np.maximum(x, 0.0, out=x)
    x *= _SELU_SCALE
    x += below

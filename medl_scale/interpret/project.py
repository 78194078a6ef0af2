"""Cells as if they came from other batches: encoded, and decoded under each batch's effects.

Notes
-----
By `me` the encoder never sees a batch: one latent a cell, decoded under the effects of each target.
By the published `re` both sides read the batch. As published, both are switched; with
`switch="decoder"` the encoder keeps the cell's own batch. The target's own-batch projection is the
model's reconstruction, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.interpret.draws import Moments, PosteriorDraws, interval_factor

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from medl_scale.config import SwitchedSides
    from medl_scale.interpret.targets import Targets
    from medl_scale.train.fitted import FittedNetwork

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int32]

__all__ = ["AsIf", "Interval", "reconstruct"]


class Interval(NamedTuple):
    """What posterior draws say of projections, (m, n_targets, n_vars) each, in the model's units."""

    mean: Floats
    lower: Floats
    upper: Floats


class AsIf:
    """A model that decodes cells under some batches.

    Parameters
    ----------
    model
        A network with random effects.
    targets
        Batches to decode under.
    switch
        Sides of a network with effects in its encoder that read the target batch.

    Raises
    ------
    ConfigError
        If the model has no random effects.
    """

    def __init__(
        self, model: FittedNetwork, targets: Targets, *, switch: SwitchedSides = "both"
    ) -> None:
        if not model.network.effect_widths:
            raise ConfigError(
                f"Model '{model.name}' has no random effects: no batch can be switched. Models that "
                "have: 'me', 're'."
            )
        self.model = model
        self.targets = targets
        self.encodes_target = switch == "both" and bool(model.network.encoder_effects)

    def project(
        self, x: Floats, own_codes: Codes, *, factor: float = 1.0, out: Floats | None = None
    ) -> Floats:
        """Return cells under every target, by the posterior means of the effects.

        Parameters
        ----------
        x
            (m, n_vars) transformed expression.
        own_codes
            (m,) the cells' own batches.
        factor
            Multiplies the model's units.
        out
            Where to write, instead of a new array.

        Returns
        -------
        (m, n_targets, n_vars) expression.
        """
        codes = self.targets.codes
        made = np.empty((len(x), len(codes), x.shape[1]), np.float32) if out is None else out
        self._decode(self._latents(x, own_codes), x, codes, None, factor, made)
        return made

    def draw(
        self,
        x: Floats,
        own_codes: Codes,
        draws: PosteriorDraws,
        *,
        level: float,
        factor: float = 1.0,
    ) -> Interval:
        """Return mean and credible interval of every projection.

        Parameters
        ----------
        x, own_codes, factor
            As for `project`.
        draws
            Of the targets' effects.
        level
            Probability that an interval holds the expression that the model would give if it knew
            the effects. It is no interval of a measured count; the cell's latent is taken at its
            mean. Under no batch's effects nothing is drawn: the interval there is NaN.
        """
        rows = np.arange(len(self.targets), dtype=np.int32)
        made = np.empty((len(x), len(rows), x.shape[1]), np.float32)
        moments = Moments(made.shape)
        latents = self._latents(x, own_codes)
        for number in range(len(draws)):
            self._decode(latents, x, rows, draws[number], factor, made)
            moments.add(made)
        mean = moments.mean
        reach = moments.sd
        reach *= np.float32(interval_factor(len(draws), level))
        undrawn = self.targets.codes < 0
        mean[:, undrawn] = np.nan
        return Interval(mean, mean - reach, mean + reach)

    def _latents(self, x: Floats, own_codes: Codes) -> Floats | None:
        """Return (m, n_latent) latents that no target changes; None where the encoder reads it."""
        return None if self.encodes_target else self.model.engine.encode(x, own_codes)

    def _decode(
        self,
        latents: Floats | None,
        x: Floats,
        rows: Codes,
        effects: Any,
        factor: float,
        out: Floats,
    ) -> None:
        """Write cells under the effects in some rows of `effects`, or of the posterior means."""
        n_cells, n_targets = len(x), len(rows)
        if latents is None:
            encode = self.model.engine.encode
            by_target = [encode(x, np.full(n_cells, row, np.int32), effects) for row in rows]
            each = np.stack(by_target, axis=1).reshape(n_cells * n_targets, -1)
        else:
            each = np.repeat(latents, n_targets, axis=0)
        codes = np.tile(rows, n_cells)
        for place, tile in self.model.decode_tiles(each, codes, effects):
            cell, target = np.divmod(np.arange(place.start, place.stop), n_targets)
            out[cell, target] = tile * np.float32(factor)


def reconstruct(model: FittedNetwork, x: Floats, own_codes: Codes) -> Floats:
    """Return what a network makes of cells under their own batches, (m, n_vars) in its units."""
    return model.decode(model.engine.encode(x, own_codes), own_codes)

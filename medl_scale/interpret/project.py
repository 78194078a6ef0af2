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
    from collections.abc import Iterator
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

    def widened(self, factor: float) -> Interval:
        """Return intervals about the same means, so many times as wide."""
        if factor == 1.0:
            return self
        lower, upper = (
            self.mean + (end - self.mean) * np.float32(factor) for end in (self.lower, self.upper)
        )
        return Interval(self.mean, lower, upper)


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
        self,
        x: Floats,
        own_codes: Codes,
        *,
        latents: Floats | None = None,
        factor: float = 1.0,
        out: Floats | None = None,
    ) -> Floats:
        """Return cells under every target, by the posterior means of the effects.

        Parameters
        ----------
        x
            (m, n_vars) transformed expression.
        own_codes
            (m,) the cells' own batches.
        latents
            (m, n_latent) embeddings from elsewhere, for a model without an encoder of its own.
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
        self._decode(self._latents(x, own_codes, latents), x, codes, None, factor, made)
        return made

    def draw(
        self,
        x: Floats,
        own_codes: Codes,
        draws: PosteriorDraws,
        *,
        level: float,
        latents: Floats | None = None,
        factor: float = 1.0,
    ) -> Interval:
        """Return mean and credible interval of every projection.

        Parameters
        ----------
        x, own_codes, latents, factor
            As for `project`.
        draws
            Of the targets' effects.
        level
            Probability that an interval holds the expression that the model would give if it knew
            the effects. It is no interval of a measured count; the cell's latent is taken at its
            mean. Under no batch's effects nothing is drawn: the interval there is NaN.
        """
        moments = Moments((len(x), len(self.targets), x.shape[1]))
        for made in self._drawn(x, own_codes, latents, draws, factor):
            moments.add(made)
        moments.mean[:, self.targets.codes < 0] = np.nan
        return _interval(moments, level)

    def draw_differences(
        self,
        x: Floats,
        own_codes: Codes,
        draws: PosteriorDraws,
        *,
        level: float,
        latents: Floats | None = None,
        factor: float = 1.0,
    ) -> Interval:
        """Return mean and credible interval of what every target changes against the own batch.

        In each draw both are decoded by that draw's effects, and then subtracted. So what own batch
        and target share is no uncertainty of the difference, and the own batch differs by 0 surely.

        Parameters
        ----------
        x, own_codes, draws, level, latents, factor
            As for `draw`. Under no batch's effects only those of the own batch are drawn: the
            interval there tells how surely it differs from the population.

        Raises
        ------
        ConfigError
            If the own batch of a cell is not among the targets.
        """
        position = {code: place for place, code in enumerate(self.targets.codes.tolist())}
        missing = set(own_codes.tolist()) - position.keys()
        if missing:
            raise ConfigError(
                f"Differences need every cell's own batch among the targets; those of positions "
                f"{sorted(missing)} are not. Add them to the targets."
            )
        own = np.array([position[code] for code in own_codes.tolist()], np.intp)
        cells = np.arange(len(x))
        moments = Moments((len(x), len(self.targets), x.shape[1]))
        for made in self._drawn(x, own_codes, latents, draws, factor):
            made -= made[cells, own][:, None]
            moments.add(made)
        return _interval(moments, level)

    def _drawn(
        self,
        x: Floats,
        own_codes: Codes,
        given: Floats | None,
        draws: PosteriorDraws,
        factor: float,
    ) -> Iterator[Floats]:
        """Yield projections by each draw, (m, n_targets, n_vars), in one array that may be written to."""
        rows = np.arange(len(self.targets), dtype=np.int32)
        made = np.empty((len(x), len(rows), x.shape[1]), np.float32)
        latents = self._latents(x, own_codes, given)
        for number in range(len(draws)):
            self._decode(latents, x, rows, draws[number], factor, made)
            yield made

    def _latents(self, x: Floats, own_codes: Codes, given: Floats | None = None) -> Floats | None:
        """Return (m, n_latent) latents that no target changes; None where the encoder reads it."""
        return None if self.encodes_target else _encoded(self.model, x, own_codes, given)

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


def _interval(moments: Moments, level: float) -> Interval:
    """Return mean and credible interval of what was drawn."""
    reach = moments.sd
    reach *= np.float32(interval_factor(moments.n, level))
    return Interval(moments.mean, moments.mean - reach, moments.mean + reach)


def reconstruct(
    model: FittedNetwork, x: Floats, own_codes: Codes, latents: Floats | None = None
) -> Floats:
    """Return what a network makes of cells under their own batches, (m, n_vars) in its units.

    `latents` stand in for those of an encoder, where the model has none.
    """
    return model.decode(_encoded(model, x, own_codes, latents), own_codes)


def _encoded(model: FittedNetwork, x: Floats, own_codes: Codes, given: Floats | None) -> Floats:
    """Return the latents of cells: by the model's encoder, or those given if it has none."""
    if model.frozen_latent is None:
        return model.engine.encode(x, own_codes)
    if given is None:
        raise ConfigError(
            f"Model '{model.name}' decodes an embedding from elsewhere (fe_rep) and cannot encode "
            "cells. Give their embedding (latents=)."
        )
    return given

"""How unsure the posterior is of cells under other batches: its s.d. by draws, many cells at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.interpret.draws import Moments, draw_effects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.train.fitted import FittedNetwork

    type Floats = NDArray[np.float32]
    type Codes = NDArray[np.int32]

__all__ = ["DrawnSd", "drawn_sd"]


class DrawnSd(NamedTuple):
    """S.d. over posterior draws, (m, n_vars) each, in the model's units."""

    projection: Floats
    """Of expression under the target."""
    difference: Floats
    """Of what the target changes against the own batch, both by the same draws."""


def drawn_sd(
    model: FittedNetwork,
    x: Floats,
    own: Codes,
    targets: Codes,
    latents: Floats | None,
    *,
    n_draws: int,
    seed: int,
) -> DrawnSd:
    """Return the posterior s.d. of cells, each under one target.

    Parameters
    ----------
    model
        A network with random effects.
    x
        (m, n_vars) transformed expression.
    own, targets
        (m,) codes of batches.
    latents
        (m, n_latent) where the model has no encoder of its own, else None.
    n_draws
        At least 2.
    seed
        The draws are those of `PosteriorDraws` with this seed.
    """
    engine, tables = model.engine, model.effects()
    codes, rows = np.unique(np.concatenate([own, targets]), return_inverse=True)
    own_rows, target_rows = np.split(rows.astype(np.int32), 2)
    reads_batch = bool(model.network.encoder_effects)
    if latents is None and not reads_batch:
        latents = engine.encode(x, own)
    projection, difference = Moments(x.shape), Moments(x.shape)
    for number in range(n_draws):
        effects = engine.place_effects(draw_effects(tables, codes.astype(np.int32), seed, number))
        made = [
            model.decode(
                engine.encode(x, batch, effects) if latents is None else latents, batch, effects
            )
            for batch in (own_rows, target_rows)
        ]
        difference.add(made[1] - made[0])
        projection.add(made[1])
    return DrawnSd(projection.sd, difference.sd)

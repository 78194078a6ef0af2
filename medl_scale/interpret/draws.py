"""Draws from the posterior of the random effects, and the intervals that draws give.

A draw is of a batch's effects in all layers together, and the same for every cell. It depends on the
seed, its number and the batch, not on the batches drawn beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.models.variational import EffectTable
    from medl_scale.train.engine import Predictor

    Floats = NDArray[np.float32]

__all__ = ["Moments", "PosteriorDraws", "draw_effects", "interval_factor"]

KEPT_BYTES = 2**28
"""Draws that fit in here are made once; others again for every block of cells."""


class PosteriorDraws:
    """Draws of the effects of some batches, placed where an engine computes.

    Parameters
    ----------
    engine
        Whose posterior.
    batch_codes
        (n,) batches to draw, in the order of the rows that `decode` then takes as codes; -1 has no
        effects in any draw.
    n_draws
        How many.
    seed
        The same seed gives the same draws.
    """

    def __init__(
        self, engine: Predictor, batch_codes: NDArray[np.int32], n_draws: int, seed: int
    ) -> None:
        self._engine = engine
        self._tables = engine.effect_tables()
        self._codes = batch_codes
        self._seed = seed
        self.n_draws = n_draws
        width = sum(table.loc.shape[2] for table in self._tables.values())
        self._keeps = n_draws * len(batch_codes) * 2 * width * 4 <= KEPT_BYTES
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.n_draws

    def __getitem__(self, draw: int) -> Any:
        """Return one draw as `decode` takes it."""
        if draw in self._kept:
            return self._kept[draw]
        placed = self._engine.place_effects(
            draw_effects(self._tables, self._codes, self._seed, draw)
        )
        if self._keeps:
            self._kept[draw] = placed
        return placed


def draw_effects(
    tables: Mapping[str, EffectTable], batch_codes: NDArray[np.int32], seed: int, draw: int
) -> dict[str, Floats]:
    """Return one draw of the scales and shifts of some batches, (2, n, width) a layer."""
    drawn = {
        layer: np.zeros((2, len(batch_codes), table.loc.shape[2]), np.float32)
        for layer, table in tables.items()
    }
    for row, code in enumerate(batch_codes.tolist()):
        if code < 0:
            continue
        rng = generator(seed, Purpose.POSTERIOR_DRAWS, draw, code)
        for layer in sorted(tables):
            table, out = tables[layer], drawn[layer]
            noise = rng.standard_normal((2, out.shape[2]), np.float32)
            scale = table.scale_of(code)
            out[:, row] = table.loc[:, code] + scale * noise
    return drawn


class Moments:
    """Mean and squared deviations of arrays that come one after another (Welford), float32."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n = 0
        self.mean = np.zeros(shape, np.float32)
        self._squares = np.zeros(shape, np.float32)

    def add(self, values: Floats) -> None:
        """Take in one array; it is written to."""
        self.n += 1
        before = values - self.mean
        self.mean += before / np.float32(self.n)
        np.subtract(values, self.mean, out=values)
        self._squares += np.multiply(values, before, out=before)

    @property
    def sd(self) -> Floats:
        """Standard deviation, ddof 1."""
        return np.sqrt(self._squares / np.float32(self.n - 1))


def interval_factor(n_draws: int, level: float) -> float:
    """Return how many s.d. of the draws a credible interval reaches from their mean.

    Notes
    -----
    Student's t with n - 1 degrees of freedom, times sqrt(1 + 1 / n): with that the interval holds at
    its level for any number of draws where the posterior is normal, as it is of the effects. An
    interval between empirical quantiles of n draws would hold less often than its level says.
    """
    from scipy import stats

    t = float(stats.t.ppf(0.5 + level / 2, n_draws - 1))
    return t * float(np.sqrt(1.0 + 1.0 / n_draws))

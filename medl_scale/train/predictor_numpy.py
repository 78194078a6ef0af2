"""A trained network in NumPy: it predicts at once, without a framework being loaded, and does not train."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, override

import numpy as np

from medl_scale.models.variational import gather_effects
from medl_scale.train.engine import Predictor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.models.network import InitialValues, Network
    from medl_scale.models.variational import EffectTable

    type Floats = NDArray[np.float32]
    type Codes = NDArray[np.int32]

__all__ = ["NumpyPredictor"]

PAD = ((0, 0), (0, 1), (0, 0))
"""One more row of zeros, which batch code -1 wraps round to."""


class NumpyPredictor(Predictor):
    """See `Predictor`. Results differ from those of a framework by float32 rounding."""

    def __init__(
        self, network: Network, values: InitialValues, tables: Mapping[str, EffectTable]
    ) -> None:
        self.network = network
        self.n_lanes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._groups = {
            "model": values.model,
            "adversary": values.adversary,
            "statistics": values.statistics,
        }
        self._values = {**values.model, **values.statistics}
        self._tables = dict(tables)
        self._means = self.place_effects({layer: table.loc for layer, table in tables.items()})
        encoder = network.encoder_effects
        self._decoder_effects = tuple(x for x in network.effect_widths if x not in encoder)

    @override
    def encode(self, x: Floats, batch_codes: Codes, effects: Any = None) -> Floats:
        cells = self._cells(self.network.encoder_effects, batch_codes, effects)
        return np.asarray(self.network.encode(self._values, x, cells), np.float32)

    @override
    def decode(self, latent: Floats, batch_codes: Codes, effects: Any = None) -> Floats:
        cells = self._cells(self._decoder_effects, batch_codes, effects)
        return np.asarray(self.network.decode(self._values, latent, cells), np.float32)

    @override
    def place_effects(self, tables: Mapping[str, Floats]) -> Any:
        return {layer: np.pad(table, PAD) for layer, table in tables.items()}

    @override
    def effect_tables(self) -> dict[str, EffectTable]:
        return dict(self._tables)

    @override
    def state(self) -> dict[str, NDArray[Any]]:
        state = {
            f"{group}/{name}": value.copy()
            for group, values in self._groups.items()
            for name, value in values.items()
        }
        for layer, table in self._tables.items():
            state[f"effects/{layer}/loc"] = table.loc.copy()
            state[f"effects/{layer}/untransformed"] = table.untransformed.copy()
        return state

    def _cells(
        self, layers: tuple[str, ...], codes: Codes, effects: Any
    ) -> dict[str, tuple[Floats, Floats]]:
        """Return the scale and shift of every cell in some layers."""
        tables = self._means if effects is None else effects
        return gather_effects({layer: tables[layer] for layer in layers}, codes)

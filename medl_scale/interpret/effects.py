"""What the output layer's random effects say: how each batch scales and shifts each gene.

In units of the gene's s.d. in the train split. How far they move cells is in `moves`, the tables that
users see are in `effect_tables`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.train.fitted import FittedNetwork

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["OutputEffects", "output_effects"]

SD_FLOOR_QUANTILE = 0.1
"""A gene's s.d. is taken as this quantile of all genes' at least, as the networks do."""


@dataclass(frozen=True, eq=False)
class OutputEffects:
    """Posterior of the scales and shifts with which batches act on genes in a model's output.

    A cell whose decoder says h before the effects gets h * (1 + scale) + shift, h and shift in s.d.
    of the gene.
    """

    genes: tuple[str, ...]
    batches: tuple[str, ...]
    scale: Floats
    """(n_batches, n_vars) posterior mean; 0 does nothing."""
    scale_sd: Floats
    """(n_batches, n_vars) posterior s.d."""
    shift: Floats
    """(n_batches, n_vars) posterior mean, in s.d. of the gene."""
    shift_sd: Floats
    """(n_batches, n_vars) posterior s.d., in s.d. of the gene."""
    cell_mean: Doubles
    """(n_vars,) mean over cells of what the scale multiplies, in s.d. of the gene."""
    cell_sd: Doubles
    """(n_vars,) its s.d. over cells."""
    batch_n: Integers
    """(n_batches,) train cells."""
    within: Doubles
    """(n_vars,) variance within batches of the train split, over the squared s.d. of the gene."""
    observed_share: Doubles
    """(n_vars,) share of the train split's variance that lies between the batches' means."""
    gene_sd: Doubles
    """(n_vars,) the unit, in log-normalised expression."""


def output_effects(fitted: FittedNetwork) -> OutputEffects:
    """Return the output layer's random effects of a trained model.

    Raises
    ------
    ConfigError
        If the model has no random effects.

    Notes
    -----
    What the scale multiplies is the output of a batch normalisation, so its mean and s.d. over cells
    are that layer's offset and gain. A gene that hardly varies has the s.d. of the gene at the 10 %
    quantile, as in the networks, so that it is not blown up.
    """
    tables = fitted.effects()
    if not tables:
        raise ConfigError(
            f"Model {fitted.name!r} has no random effects. Choose one of those that have: 'me', 're'."
        )
    layer = f"decoder{len(fitted.config.hidden)}"
    table, state, summary = tables[layer], fitted.engine.state(), fitted.summary
    sd = summary.sd.astype(np.float64)
    floored = np.maximum(sd, np.quantile(sd, SD_FLOOR_QUANTILE))
    floored[floored == 0.0] = 1.0
    # ME keeps its unit, RE trains it, and the published RE has none.
    unit = state.get("statistics/output/sd", state.get("model/output/sd", 1.0))
    ratio = np.asarray(unit, np.float64) / floored
    variance = np.square(sd)
    weights = summary.batch_n / summary.batch_n.sum()
    between = np.zeros_like(sd)
    for weight, mean in zip(weights, summary.batch_mean, strict=True):
        between += weight * np.square(mean - summary.mean, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum(between / variance, 1.0)
    return OutputEffects(
        genes=fitted.vocabulary.var_names,
        batches=fitted.vocabulary.batch_levels,
        scale=table.loc[0],
        scale_sd=table.scale[0],
        shift=(table.loc[1] * ratio).astype(np.float32),
        shift_sd=(table.scale[1] * np.abs(ratio)).astype(np.float32),
        cell_mean=state[f"model/{layer}_norm/offset"] * ratio,
        cell_sd=np.abs(state[f"model/{layer}_norm/gain"] * ratio),
        batch_n=summary.batch_n,
        within=np.maximum(variance - between, 0.0) / np.square(floored),
        observed_share=share,
        gene_sd=floored / fitted.vocabulary.transform.scale,
    )

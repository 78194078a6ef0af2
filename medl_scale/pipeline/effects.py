"""Random effects of a run's models as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medl_scale.config import MODELS_WITH_EFFECTS
from medl_scale.errors import ConfigError, RunError
from medl_scale.interpret.effect_tables import effect_rows, moved_genes
from medl_scale.interpret.effects import output_effects
from medl_scale.train.fitted import FittedNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medl_scale.interpret.effects import OutputEffects
    from medl_scale.pipeline.run import Run

__all__ = [
    "batch_posterior",
    "effect_table",
    "fitted_with_effects",
    "moved_gene_table",
    "of_fit",
    "run_effects",
]


def fitted_with_effects(run: Run, model: str, fold: int | None) -> FittedNetwork:
    """Return one of a run's models that has random effects.

    Parameters
    ----------
    run
        A run.
    model
        `me` or `re`.
    fold
        One of the run's folds; its first by default.

    Raises
    ------
    ConfigError
        If the model has no random effects.
    RunError
        If the run has no such model or fold, or has not finished it.
    """
    own = [name for name in run.models if name in MODELS_WITH_EFFECTS]
    listed = f"Models of this run that have: {', '.join(map(repr, own)) or 'none'}."
    if model not in MODELS_WITH_EFFECTS:
        raise ConfigError(f"Model {model!r} has no random effects. {listed}")
    if model not in run.models:
        raise RunError(
            f"The run {run.path} has no model {model!r}. {listed} Fit with --models me for one."
        )
    chosen = run.folds[0] if fold is None else fold
    if chosen not in run.folds:
        raise RunError(
            f"The run {run.path} has no fold {chosen}. Folds: {', '.join(map(str, run.folds))}."
        )
    fitted = run.model(model, chosen)
    if not isinstance(fitted, FittedNetwork):
        raise ConfigError(f"Model {model!r} has no random effects. {listed}")
    return fitted


def run_effects(run: Run, model: str, fold: int | None) -> OutputEffects:
    """Return the output layer's random effects of one of a run's models.

    Raises
    ------
    ConfigError, RunError
        As `fitted_with_effects` does.
    """
    return output_effects(fitted_with_effects(run, model, fold))


def effect_table(
    run: Run,
    model: str,
    fold: int | None,
    *,
    batches: Sequence[str] | None,
    genes: Sequence[str] | None,
    level: float,
) -> pd.DataFrame:
    """Return the output layer's random effects, one row per gene and batch.

    Parameters
    ----------
    model
        `me` or `re`.
    fold
        Whose model; the run's first fold by default.
    batches, genes
        Names to list; all by default.
    level
        Probability of the credible intervals, in (0, 1).

    Returns
    -------
    DataFrame
        `model`, `fold`, `gene`, `batch`, `n_cells`, and mean, `_sd`, `_lower`, `_upper` of `scale`,
        `shift` and `move`; see `interpret.effect_tables.effect_rows`.

    Raises
    ------
    ConfigError
        If the model has no random effects.
    DataError
        If there is no such batch or gene.
    RunError
        If the run has no such model or fold, or has not finished it.
    """
    effects = run_effects(run, model, fold)
    blocks = list(effect_rows(effects, batches=batches, genes=genes, level=level))
    return of_fit(pd.concat(blocks, ignore_index=True), run, model, fold)


def moved_gene_table(
    run: Run, model: str, fold: int | None, *, batches: Sequence[str] | None, level: float
) -> pd.DataFrame:
    """Return all genes, those first that batches surely move most.

    Parameters
    ----------
    model, fold, level
        As for `effects`.
    batches
        Whose moves count; all by default. One name asks what that batch moves.

    Returns
    -------
    DataFrame
        One row per gene: `score` (moves and stretches, in s.d. of the gene, as far as their
        credible intervals lie away from 0), `share` of variance between batches with its interval,
        and the rest of `interpret.effect_tables.moved_genes`.

    Raises
    ------
    ConfigError, DataError, RunError
        As for `effects`.
    """
    return moved_genes(run_effects(run, model, fold), batches=batches, level=level)


def batch_posterior(run: Run, model: str, fold: int | None, batch: str, layer: str | None) -> Any:
    """Return the posterior of one batch's effects in one layer; see `Run.posterior`."""
    from medl_scale.models.posteriors import posterior

    fitted = fitted_with_effects(run, model, fold)
    effects, levels = fitted.effects(), fitted.vocabulary.batch_levels
    chosen = layer or max(name for name in effects if name.startswith("decoder"))
    if chosen not in effects:
        raise ConfigError(f"'{chosen}' is not a layer with effects. Layers: {sorted(effects)}.")
    if batch not in levels:
        raise ConfigError(f"'{batch}' is not a batch of the run. Batches: {', '.join(levels)}.")
    return posterior(effects[chosen], levels.index(batch))


def of_fit(rows: pd.DataFrame, run: Run, model: str, fold: int | None) -> pd.DataFrame:
    """Return rows with the model and fold that they are of before them."""
    rows.insert(0, "model", pd.Categorical.from_codes(np.zeros(len(rows), np.int8), [model]))
    rows.insert(1, "fold", np.int16(run.folds[0] if fold is None else fold))
    return rows

"""What the sections of a report say of a run: read from its files, or the reason why it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medl_scale.config import MODELS_WITH_EFFECTS
from medl_scale.errors import MedlError, RunError
from medl_scale.interpret.effect_tables import effect_rows, moved_genes
from medl_scale.pipeline.atlas_of import atlas_of
from medl_scale.pipeline.describing import info
from medl_scale.pipeline.effects import run_effects
from medl_scale.pipeline.run_files import SETTINGS_FILE
from medl_scale.report.sections.data import DataFacts
from medl_scale.report.sections.effects import EffectFacts
from medl_scale.report.sections.fits import FitFacts
from medl_scale.report.sections.missing import Missing
from medl_scale.report.sections.repeat import fit_command, prepare_command
from medl_scale.report.sections.scores import ScoreFacts
from medl_scale.store.atlas import describe, read_columns

if TYPE_CHECKING:
    from medl_scale.pipeline.run import Run
    from medl_scale.store.atlas import Atlas, AtlasRef

__all__ = ["data_facts", "effect_facts", "fit_facts", "score_facts"]

N_MOVED = 20
LEVEL = 0.95


def data_facts(run: Run, atlas: AtlasRef | None) -> DataFacts:
    """Return what a run was made from; without its atlas what it has noted of it."""
    fold = run.folds[0]
    try:
        ref = atlas_of(run, atlas)
        described = describe(ref)
    except MedlError as error:
        return _noted(run, fold, str(error))
    columns = read_columns(ref)
    n_batches = len(described.batch_levels)
    labels = list(described.label_levels)
    # Cells without a label come last, under the atlas' name for them.
    codes = np.where(columns.label_codes < 0, len(labels), columns.label_codes)
    by_pair = np.bincount(
        codes * n_batches + columns.batch_codes, minlength=(len(labels) + 1) * n_batches
    ).reshape(-1, n_batches)
    counts = pd.DataFrame(
        by_pair.T, index=described.batch_levels, columns=[*labels, described.unlabeled_category]
    )
    if labels and not by_pair[-1].any():
        counts = counts.iloc[:, :-1]
    return DataFacts(
        path=described.path,
        n_obs=described.n_obs,
        n_vars=described.n_vars,
        n_batches=n_batches,
        batch_key=described.batch_key,
        labels_key=described.labels_key,
        provenance=described.provenance,
        fold=fold,
        counts=counts,
        splits=_splits(described, columns.batch_codes, fold),
    )


def fit_facts(run: Run) -> FitFacts:
    """Return how the fits of a run ended, and how to repeat them."""
    environment = run.environment
    atlas = run.atlas_path
    settings = run.path / SETTINGS_FILE
    again = f"{run.path}-again"
    lines = [
        *prepare_command(environment.get("atlas_provenance", {}), atlas or "atlas.zarr"),
        *fit_command(atlas, str(settings), again),
    ]
    return FitFacts(
        fits=info(run.path)["fits"],
        warnings={key: one.warnings for key, one in run.finished().items() if one.warnings},
        settings=settings.read_text(encoding="utf-8"),
        environment=environment,
        repeat=lines,
        history=run.history,
        resume=f"medl-scale fit {atlas or 'ATLAS'} -o {run.path} --resume",
    )


def score_facts(run: Run) -> ScoreFacts | Missing:
    """Return the scores of a run."""
    try:
        scores = run.scores
    except RunError:
        return Missing("The latents have not been scored.", f"medl-scale evaluate {run.path}")
    except MedlError as error:
        return Missing(str(error), f"medl-scale evaluate {run.path}")
    environment = run.environment
    return ScoreFacts(
        scores.table,
        scores.verdicts,
        scores.notes,
        str(environment.get("batch_key")),
        environment.get("labels_key"),
    )


def effect_facts(run: Run) -> dict[str, EffectFacts] | Missing:
    """Return what batches do to genes, by each finished model that says so."""
    fold = run.folds[0]
    models = [name for name in MODELS_WITH_EFFECTS if (name, fold) in run.finished()]
    if not models:
        return Missing(
            "No finished model of this run has random effects of the batches.",
            f"medl-scale fit {run.atlas_path or 'ATLAS'} -o {run.path}-me --models me",
        )
    found = {}
    for model in models:
        effects = run_effects(run, model, fold)
        moved = moved_genes(effects, level=LEVEL)
        top = moved.head(N_MOVED)
        batches, genes = (list(dict.fromkeys(map(str, top[name]))) for name in ("batch", "gene"))
        rows = effect_rows(effects, batches=batches, genes=genes, level=LEVEL)
        found[model] = EffectFacts(
            moved=top,
            rows=pd.concat(rows, ignore_index=True),
            n_genes=len(moved),
            n_sure=int((moved["score"] > 0).sum()),
            level=LEVEL,
        )
    return found


def _splits(atlas: Atlas, batch_codes: Any, fold: int) -> pd.DataFrame:
    """Return cells of every batch in each split of a fold."""
    split = atlas.split(fold)
    n = len(atlas.batch_levels)
    rows = {"train": split.train, "val": (split.val,), "test": (split.test,)}
    return pd.DataFrame(
        {
            name: sum(np.bincount(batch_codes[part], minlength=n) for part in parts)
            for name, parts in rows.items()
        },
        index=pd.Index(atlas.batch_levels),
    )


def _noted(run: Run, fold: int, reason: str) -> DataFacts:
    """Return what a run has noted of an atlas that is not there."""
    noted = run.environment
    return DataFacts(
        path=run.atlas_path,
        n_obs=int(noted.get("n_obs", 0)),
        n_vars=int(noted.get("n_vars", 0)),
        n_batches=int(noted.get("n_batches", 0)),
        batch_key=str(noted.get("batch_key", "unknown")),
        labels_key=noted.get("labels_key"),
        provenance=noted.get("atlas_provenance", {}),
        fold=fold,
        counts=Missing(
            f"The table of batches is left out. {reason}",
            f"medl-scale report {run.path} --atlas ATLAS",
        ),
        splits=None,
    )

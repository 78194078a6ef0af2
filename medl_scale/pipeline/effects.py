"""Random effects of a run's models: as tables, and as a file of any size."""

from __future__ import annotations

import gzip
import io
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import pandas as pd

from medl_scale.errors import ConfigError, OutputExistsError, RunError
from medl_scale.interpret.effect_tables import effect_rows
from medl_scale.interpret.effects import output_effects
from medl_scale.progress import SilentProgress
from medl_scale.store.atomic import atomic_file
from medl_scale.train.fitted import FittedNetwork

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from medl_scale.interpret.effects import OutputEffects
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress

__all__ = ["EFFECTS_FILE", "effect_table", "run_effects", "write_effects"]

EFFECTS_FILE = "effects.csv"
MODELS_WITH_EFFECTS = ("me", "re")
_SUFFIXES = (".csv", ".csv.gz")


def run_effects(run: Run, model: str, fold: int | None) -> OutputEffects:
    """Return the output layer's random effects of one of a run's models.

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
    return output_effects(fitted)


def effect_table(
    run: Run,
    model: str,
    fold: int | None,
    *,
    batches: Sequence[str] | None,
    genes: Sequence[str] | None,
    level: float,
) -> pd.DataFrame:
    """Return the random effects of some genes and batches; see `Run.effects`."""
    effects = run_effects(run, model, fold)
    blocks = list(effect_rows(effects, batches=batches, genes=genes, level=level))
    return _named(pd.concat(blocks, ignore_index=True), run, model, fold)


def write_effects(
    run: Run,
    path: str | os.PathLike[str] | None = None,
    *,
    model: str = "me",
    fold: int | None = None,
    level: float = 0.95,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the random effects of every gene and batch as CSV, atomically and block by block.

    Parameters
    ----------
    run
        A run.
    path
        `.csv` or `.csv.gz`; `effects.csv` in the run's folder by default.
    model, fold
        As for `run_effects`.
    level
        Probability of the credible intervals.
    overwrite
        Replace a file that is there.
    progress
        Where to tell how far it is; silent by default.

    Returns
    -------
    Path
        The file. Its columns are those of `effect_rows`, after `model` and `fold`.

    Raises
    ------
    ConfigError
        If the model has no random effects, or the suffix is another.
    OutputExistsError
        If the file is there and `overwrite` is false.
    RunError
        If the run has no such model or fold, or has not finished it.
    """
    output = run.path / EFFECTS_FILE if path is None else Path(path)
    if not output.name.endswith(_SUFFIXES):
        raise ConfigError(f"Effects are written to OUT.csv or OUT.csv.gz; got {output.name!r}.")
    if output.exists() and not overwrite:
        raise OutputExistsError(f"{output} exists already. Choose another output or overwrite it.")
    effects = run_effects(run, model, fold)
    n_rows = len(effects.genes) * len(effects.batches)
    output.parent.mkdir(parents=True, exist_ok=True)
    shown = progress or SilentProgress()
    with (
        atomic_file(output) as scratch,
        _text(scratch, compressed=output.suffix == ".gz") as file,
        shown.step("effects", n_rows, "rows") as advance,
    ):
        header = True
        for block in effect_rows(effects, level=level):
            _named(block, run, model, fold).to_csv(
                file, index=False, header=header, float_format="%.6g"
            )
            header = False
            advance(len(block))
    return output


def _named(rows: pd.DataFrame, run: Run, model: str, fold: int | None) -> pd.DataFrame:
    """Return rows with the model and fold they are of before them."""
    rows.insert(0, "model", pd.Categorical.from_codes(np.zeros(len(rows), np.int8), [model]))
    rows.insert(1, "fold", np.int16(run.folds[0] if fold is None else fold))
    return rows


@contextmanager
def _text(path: Path, *, compressed: bool) -> Iterator[TextIO]:
    """Yield a text file to write, compressed or not."""
    if not compressed:
        with path.open("w", encoding="utf-8", newline="") as plain:
            yield plain
        return
    # No name and no time, so that equal effects make equal files.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        yield file

"""Files of random effects: what `fit` leaves in a run, and what users ask to be written."""

from __future__ import annotations

import gzip
import io
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pandas as pd

from medl_scale.config import MODELS_WITH_EFFECTS
from medl_scale.errors import ConfigError, OutputExistsError
from medl_scale.interpret.effect_tables import effect_rows, moved_genes
from medl_scale.interpret.effects import output_effects
from medl_scale.pipeline.effects import fitted_with_effects, of_fit
from medl_scale.progress import SilentProgress
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from medl_scale.interpret.effects import OutputEffects
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress

__all__ = ["EFFECTS_FILE", "MOST_ROWS", "MOVED_FILE", "write_effects", "write_run_effects"]

EFFECTS_FILE = "effects.csv"
MOVED_FILE = "moved_genes.csv"
MOST_ROWS = 1_000_000
"""Rows that `fit` writes: some 150 MB, in ten seconds."""
_SUFFIXES = (".csv", ".csv.gz")


def write_run_effects(run: Run, *, level: float = 0.95, progress: Progress | None = None) -> None:
    """Write `effects.csv` and `moved_genes.csv` into a run: all its models with random effects.

    Parameters
    ----------
    run
        A run; it may have no such model, and then nothing is written.
    level
        Probability of the credible intervals.
    progress
        Where to tell how far it is; silent by default.

    Notes
    -----
    `moved_genes.csv` holds all genes of each model and fold, those that batches surely move most first.
    `effects.csv` holds all genes and batches where these are `MOST_ROWS` rows at most, over all models
    and folds together. Beyond, it holds the genes that batches move most, as many of every fit as fit,
    and a note says so; `write_effects` writes them all.
    """
    fits = [fit for fit in run.finished() if fit[0] in MODELS_WITH_EFFECTS]
    if not fits:
        return
    shown = progress or SilentProgress()
    tables = []
    for model, fold in fits:
        effects = output_effects(fitted_with_effects(run, model, fold))
        tables.append(of_fit(moved_genes(effects, level=level), run, model, fold))
    n_genes, n_batches = len(effects.genes), len(effects.batches)
    n_kept = max(1, MOST_ROWS // (len(fits) * n_batches))
    with atomic_file(run.path / MOVED_FILE) as scratch:
        pd.concat(tables, ignore_index=True).to_csv(scratch, index=False, float_format="%.6g")
    parts: list[tuple[str, int, Sequence[str] | None]] = [
        (model, fold, list(table["gene"][:n_kept]) if n_kept < n_genes else None)
        for (model, fold), table in zip(fits, tables, strict=True)
    ]
    if n_kept < n_genes:
        shown.note(
            f"{EFFECTS_FILE} holds the {n_kept:,} of {n_genes:,} genes that batches move most, in "
            f"{n_batches:,} batches and {len(fits)} fits. All of them: `medl-scale effects {run.path} "
            "-o all.csv.gz`."
        )
    _write(run, run.path / EFFECTS_FILE, parts, level, shown)


def write_effects(
    run: Run,
    path: str | os.PathLike[str],
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
        `.csv` or `.csv.gz`.
    model, fold
        As for `Run.effects`.
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
    output = Path(path)
    if not output.name.endswith(_SUFFIXES):
        raise ConfigError(f"Effects are written to OUT.csv or OUT.csv.gz; got {output.name!r}.")
    if output.exists() and not overwrite:
        raise OutputExistsError(f"{output} exists already. Choose another output or overwrite it.")
    chosen = run.folds[0] if fold is None else fold
    _write(run, output, [(model, chosen, None)], level, progress or SilentProgress())
    return output


def _write(
    run: Run,
    output: Path,
    parts: Sequence[tuple[str, int, Sequence[str] | None]],
    level: float,
    progress: Progress,
) -> None:
    """Write the effects of some models, folds and genes (None: all) one after another."""
    found: list[tuple[str, int, Sequence[str] | None, OutputEffects]] = [
        (model, fold, genes, output_effects(fitted_with_effects(run, model, fold)))
        for model, fold, genes in parts
    ]
    n_rows = sum(len(e.genes if g is None else g) * len(e.batches) for _, _, g, e in found)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(output) as scratch,
        _text(scratch, compressed=output.suffix == ".gz") as file,
        progress.step("Writing effects", n_rows, "rows") as advance,
    ):
        header = True
        for model, fold, genes, effects in found:
            for block in effect_rows(effects, genes=genes, level=level):
                rows = of_fit(block, run, model, fold)
                rows.to_csv(file, index=False, header=header, float_format="%.6g")
                header = False
                advance(len(rows))


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

"""Scores as a record, on disk and back: a table of figures, and what forests mean in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medl_scale.errors import RunError, StoreError
from medl_scale.evaluate.summary import over_folds
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os

__all__ = [
    "COLUMNS",
    "CONFUSION_COLUMNS",
    "SCORES_FILE",
    "Scores",
    "confusion_path",
    "read_scores",
    "verdicts_path",
    "write_scores",
]

SCORES_FILE = "scores.csv"
COLUMNS = ["space", "fold", "split", "metric", "of", "value", "error", "kind", "confidence", "n",
           "method", "seconds"]  # fmt: skip
CONFUSION_COLUMNS = ["space", "fold", "split", "target", "truth", "predicted", "n"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What `evaluate` found."""

    table: pd.DataFrame
    """One row per latent, fold and metric: `space`, `fold`, `split`, `metric`, `of` (the column of obs
    whose groups are meant), `value`, `error`, `kind`, `confidence`, `n`, `method`, `seconds`. The value
    is NaN where a score is undefined or was left out for want of time, and `method` then says why."""
    verdicts: tuple[str, ...]
    """What the forests' figures mean, in words."""
    notes: tuple[str, ...]
    """What was left out, and why."""
    path: Path | None
    """Where the table lies."""
    confusion: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CONFUSION_COLUMNS))
    """What forests took test cells for: `space`, `fold`, `split`, `target` (a column of obs), `truth`,
    `predicted`, and `n` cells, where there are any. No rows where no forest was asked."""

    @property
    def summary(self) -> pd.DataFrame:
        """One row per latent and metric: the mean over folds and its 95 % t-interval."""
        return over_folds(self.table)


def verdicts_path(table: str | os.PathLike[str]) -> Path:
    """Return where the verdicts and notes that go with a table lie."""
    path = Path(table)
    return path.with_name(f"{path.stem}_in_words.txt")


def confusion_path(table: str | os.PathLike[str]) -> Path:
    """Return where the confusion of forests that goes with a table lies."""
    path = Path(table)
    stem = path.stem.removesuffix(Path(SCORES_FILE).stem).removesuffix("_")
    return path.with_name(f"{stem}_confusion.csv" if stem else "confusion.csv")


def write_scores(scores: Scores, path: Path) -> None:
    """Write the table as CSV, and beside it verdicts and notes as text and what forests confuse.

    What is there is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(verdicts_path(path)) as scratch:
        lines = [*scores.verdicts, *(f"Note: {note}" for note in scores.notes)]
        scratch.write_text("".join(f"{line}\n" for line in lines))
    with atomic_file(confusion_path(path)) as scratch:
        scores.confusion.to_csv(scratch, index=False)
    with atomic_file(path) as scratch:
        scores.table.to_csv(scratch, index=False)


def read_scores(path: Path) -> Scores:
    """Return scores that `write_scores` wrote.

    Raises
    ------
    RunError
        If there are none.
    StoreError
        If the table is damaged.
    """
    if not path.exists():
        raise RunError(f"There are no scores in {path}. Make them with `medl-scale evaluate`.")
    table = _read_table(path, COLUMNS, "scores")
    confused = confusion_path(path)
    if confused.exists():
        # Names of classes are texts, also where they look like numbers or like nothing.
        names = dict.fromkeys(("target", "truth", "predicted"), str)
        confusion = _read_table(
            confused, CONFUSION_COLUMNS, "confusion", dtype=names, keep_default_na=False
        )
    else:
        confusion = pd.DataFrame(columns=CONFUSION_COLUMNS)
    words = verdicts_path(path)
    lines = words.read_text().splitlines() if words.exists() else []
    return Scores(
        table,
        tuple(line for line in lines if not line.startswith("Note: ")),
        tuple(line.removeprefix("Note: ") for line in lines if line.startswith("Note: ")),
        path,
        confusion,
    )


def _read_table(path: Path, columns: list[str], what: str, **reading: Any) -> pd.DataFrame:
    """Return a CSV that has at least some columns."""
    try:
        table = pd.read_csv(path, **reading)
    except (ValueError, pd.errors.ParserError) as error:
        raise StoreError(f"{path} cannot be read: {error}. Score again.") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise StoreError(
            f"{path} is no table of {what}: it lacks {', '.join(missing)}. Score again."
        )
    return table

"""What is answered of a run's batches, as tables: on the terminal and as CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from medl_scale.cli.tables import table_console
from medl_scale.errors import ConfigError, OutputExistsError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from rich.console import Console

    from medl_scale.config import ComparedTest

__all__ = ["check_csv", "print_comparison", "print_frame", "print_moved_genes", "write_csv"]

MOST_COLUMNS = 12


def print_moved_genes(moved: pd.DataFrame, *, n: int, level: float) -> None:
    """Print the first genes of `Run.moved_genes`."""
    console = table_console()
    _title(console, "Genes that batches move most")
    table = Table(box=None, pad_edge=False)
    table.add_column("gene", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("moved most in", no_wrap=True)
    table.add_column(f"by ({level:.0%} interval)", justify="right", no_wrap=True)
    table.add_column("share between batches", justify="right", no_wrap=True)
    for row in moved.iloc[:n].itertuples():
        table.add_row(
            escape(str(row.gene)),
            f"{row.score:.3g}",
            escape(str(row.batch)),
            f"{row.move:+.2f} ({row.move_lower:+.2f} to {row.move_upper:+.2f})",
            f"{row.share:.1%} ({row.share_lower:.1%} to {row.share_upper:.1%})",
        )
    console.print(table, highlight=False)
    console.print(
        "score: how far batches surely move cells, root mean square, in s.d. of the gene; by: move of "
        "the average cell away from the average batch; share: of the gene's variance",
        style="dim",
        highlight=False,
    )


def print_comparison(table: pd.DataFrame, *, test: ComparedTest, n: int) -> None:
    """Print the first genes of `Run.compare`, donors beside every p-value."""
    console = table_console()
    first, second = (str(table[name].iloc[0]) for name in ("first", "second"))
    is_mixed = test == "mixed"
    p, q = ("p_mixed", "q_mixed") if is_mixed else ("p_ranks", "q_ranks")
    of = {
        "as_if": "the same cells as if from each donor",
        "measured": "each donor's own cells as measured",
        "average": "each donor's own cells without its effects",
    }[str(table["of"].iloc[0])]
    _title(console, f"{second} against {first}: {of}")
    shown = Table(box=None, pad_edge=False)
    for name in ("gene", "difference", "Hedges' g", "p", "q", "donors"):
        shown.add_column(name, justify="left" if name == "gene" else "right", no_wrap=True)
    for row in table.iloc[:n].to_dict("records"):
        shown.add_row(
            escape(str(row["gene"])),
            f"{row['difference']:+.3g}",
            f"{row['hedges_g']:+.2f}",
            f"{row[p]:.2g}",
            f"{row[q]:.2g}",
            f"{row['n_first']} v {row['n_second']}",
        )
    console.print(shown, highlight=False)
    tested = table[p].notna()
    test_name = "mixed model, donors as random intercepts" if is_mixed else "Mann-Whitney"
    console.print(
        f"{int((table.loc[tested, q] < 0.05).sum()):,} of {int(tested.sum()):,} genes have q < 0.05 "
        f"({test_name}; {int(table['n_cells'].iloc[0]):,} rows of cells).",
        highlight=False,
    )


def print_frame(frame: pd.DataFrame, *, title: str, index: str) -> None:
    """Print a table of numbers, its first columns if there are many."""
    console = table_console()
    _title(console, title)
    table = Table(box=None, pad_edge=False)
    table.add_column(index, no_wrap=True)
    columns = list(frame.columns[:MOST_COLUMNS])
    for name in columns:
        table.add_column(escape(str(name)), justify="right", no_wrap=True)
    for name, row in frame[columns].iterrows():
        table.add_row(escape(str(name)), *(_number(value) for value in row))
    console.print(table, highlight=False)
    if len(frame.columns) > MOST_COLUMNS:
        console.print(
            f"{len(frame.columns) - MOST_COLUMNS:,} more columns; --table FILE has them all.",
            style="dim",
        )


def check_csv(path: Path, *, overwrite: bool) -> None:
    """Raise unless a table can be written to a path: its suffix, and what is there.

    Raises
    ------
    ConfigError, OutputExistsError
    """
    if path.suffix != ".csv":
        raise ConfigError(f"The table is written to OUT.csv; got {path.name!r}.")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists already. Choose another, or add --overwrite.")


def write_csv(table: pd.DataFrame, path: Path, *, index: bool = False) -> None:
    """Write a table as CSV, atomically."""
    from medl_scale.store.atomic import atomic_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as scratch:
        table.to_csv(scratch, index=index, float_format="%.6g")


def _title(console: Console, title: str) -> None:
    """Print what a table is, on one line: that of the table would be broken at its width."""
    console.print(escape(title), style="italic", highlight=False, soft_wrap=True)


def _number(value: Any) -> str:
    """Return a number to three digits."""
    return str(value) if isinstance(value, int) else f"{value:.3g}"

"""Results of the command line as tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from medl_scale.pipeline import Run
    from medl_scale.pipeline.scores import Scores

__all__ = ["print_info", "print_run", "print_scores", "table_console"]

MOST_LEVELS = 12
MOST_SPACES = 5
NEGLIGIBLE = 1e-9
NOT_A_TERMINAL = 160


def print_run(run: Run) -> None:
    """Print one row per fit: how it ended and what it cost."""
    console = table_console()
    table = Table(title=f"Run {run.path}", title_justify="left", box=None, pad_edge=False)
    titles = ["model", "fold", "dim", "epoch", "val loss", "error", "probe", "iLISI", "cells/s",
              "time", "memory"]  # fmt: skip
    for title in titles:
        table.add_column(title, justify="left" if title == "model" else "right", no_wrap=True)
    for (model, fold), fit in run.finished().items():
        probe = fit.probe or {}
        table.add_row(
            model,
            str(fold),
            str(fit.n_latent),
            f"{fit.best_epoch + 1}/{fit.n_epochs}" if fit.n_epochs else "",
            _number(fit.losses.get("val_total")),
            _number(fit.relative_error),
            _number(probe.get("forest_accuracy")),
            _number(probe.get("ilisi")),
            f"{fit.cells_per_s:,.0f}" if fit.cells_per_s else "",
            f"{fit.seconds['total']:.0f} s",
            _size(fit.peak_memory_bytes) if fit.peak_memory_bytes else "",
        )
    console.print(table)
    console.print(
        "epoch: best / trained; error: validation error over the genes' variance; probe: share of cells "
        "whose batch a fresh forest reads from the latent; iLISI: batches around a cell",
        style="dim",
    )
    for (model, fold), fit in run.finished().items():
        for lost in fit.lost:
            console.print(
                f"fit {model} fold {fold} was started again: {lost}", highlight=False, markup=False
            )
    keys = sorted({key for fit in run.finished().values() for key in fit.keys})
    console.print(f"Latents: {', '.join(keys) or 'none'}", highlight=False)
    if (run.path / "curves.png").exists():
        console.print(
            f"Training curves: {run.path / 'curves.png'}", highlight=False, soft_wrap=True
        )


def print_scores(scores: Scores) -> None:
    """Print one row per figure and one column per latent, what forests say, and what was left out."""
    console = table_console()
    summary = scores.summary
    several = bool((summary["n_folds"] > 1).any())
    spaces = list(dict.fromkeys(summary["space"]))
    for start in range(0, max(1, len(spaces)), MOST_SPACES):
        console.print(_scores_table(summary, spaces[start : start + MOST_SPACES]), highlight=False)
    beside = (
        "mean over folds ± half-width of its 95 % t-interval"
        if several
        else "± bound on the error; ≈ an interval of the stated confidence, = proven, no mark exact"
    )
    console.print(f"Beside each figure: {beside}.", style="dim", highlight=False)
    if scores.verdicts:
        console.print("\nWhat the forests mean", style="bold")
        for sentence in scores.verdicts:
            console.print(f"  {escape(sentence)}", highlight=False, soft_wrap=True)
    for note in scores.notes:
        console.print(f"Note: {escape(note)}", highlight=False, soft_wrap=True)
    if scores.path is not None:
        console.print(f"Scores: {scores.path}", highlight=False, soft_wrap=True)


def _scores_table(summary: pd.DataFrame, spaces: Sequence[str]) -> Table:
    """Return the figures of some latents."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("of", no_wrap=True)
    table.add_column("cells", no_wrap=True)
    for space in spaces:
        table.add_column(space, justify="right")
    for (split, metric, of), rows in summary.groupby(["split", "metric", "of"], sort=False):
        by_space = {row.space: row for row in rows.itertuples()}
        if not by_space.keys() & set(spaces):
            continue
        cells = [_score(by_space[space]) if space in by_space else "" for space in spaces]
        table.add_row(metric, of, split, *cells)
    return table


def _score(row: Any) -> str:
    """Return a figure and how sure it is."""
    if row.n_folds > 1:
        return f"{row.value:.4g} ± {row.half_width:.1g}"
    mark = {"exact": "", "certified": "=", "confidence": "≈"}[row.kind]
    error = f"{row.error:.0e}" if row.error > NEGLIGIBLE * abs(row.value) else "0"
    return f"{mark}{row.value:.4g} ± {error}"


def print_info(found: Mapping[str, Any]) -> None:
    """Print what an atlas or a run is."""
    console = table_console()
    if found["kind"] == "atlas":
        _print_atlas(console, found)
    else:
        _print_fits(console, found)


def _print_atlas(console: Console, found: Mapping[str, Any]) -> None:
    """Print an atlas: sizes, batches, labels, folds, latents, provenance."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    rows = {
        "atlas": found["path"],
        "cells x genes": f"{found['n_obs']:,} x {found['n_vars']:,}",
        "density": f"{found['density']:.1%} of {found['input_units']}",
        "size on disk": _size(found["bytes"]),
        f"batches ({found['batch_key']})": _levels(found["batches"]),
        f"labels ({found['labels_key']})": _levels(found["labels"]),
        "folds": f"{len(found['folds'])} parts of {min(found['folds']):,} to {max(found['folds']):,}",
        "latents": ", ".join(found["latents"]) or "none yet",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for name, value in found["provenance"].items():
        table.add_row(f"  {name}", str(value))
    console.print(table, highlight=False, soft_wrap=True)


def _print_fits(console: Console, found: Mapping[str, Any]) -> None:
    """Print a run: its fits, their state and best losses."""
    console.print(f"[b]run[/b]    {found['path']}\n[b]atlas[/b]  {found['atlas']}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for title in ("model", "fold", "state", "epoch", "losses"):
        table.add_column(title)
    for fit in found["fits"]:
        losses = "  ".join(
            f"{name.removeprefix('val_')} {value:.4g}"
            for name, value in fit.get("losses", {}).items()
            if name.startswith("val_")
        )
        epochs = f"{fit['best_epoch'] + 1}/{fit['epochs']}" if fit.get("epochs") else ""
        table.add_row(
            fit["model"], str(fit["fold"]), fit["state"], epochs, escape(fit.get("error", losses))
        )
    console.print(table, highlight=False)


def table_console() -> Console:
    """Return where tables go; files and pipes get whole lines."""
    return Console() if sys.stdout.isatty() else Console(width=NOT_A_TERMINAL)


def _levels(counts: Mapping[str, int]) -> str:
    """Return levels with their cells, the largest first."""
    if not counts:
        return "none"
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {n:,}" for name, n in ordered[:MOST_LEVELS])
    more = f", and {len(ordered) - MOST_LEVELS} more" if len(ordered) > MOST_LEVELS else ""
    return f"{len(ordered)}: {shown}{more}"


def _number(value: float | None) -> str:
    """Return a number to four digits, or nothing."""
    return "" if value is None else f"{value:.4g}"


def _size(n_bytes: int) -> str:
    """Return bytes in a unit that people read."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"

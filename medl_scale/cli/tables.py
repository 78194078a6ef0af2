"""Results of the command line as tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medl_scale.pipeline import Run

__all__ = ["print_info", "print_run"]

MOST_LEVELS = 12
NOT_A_TERMINAL = 160


def print_run(run: Run) -> None:
    """Print one row per fit: how it ended and what it cost."""
    console = _console()
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
    keys = sorted({key for fit in run.finished().values() for key in fit.keys})
    console.print(f"Latents: {', '.join(keys) or 'none'}", highlight=False)
    if (run.path / "curves.png").exists():
        console.print(
            f"Training curves: {run.path / 'curves.png'}", highlight=False, soft_wrap=True
        )


def print_info(found: Mapping[str, Any]) -> None:
    """Print what an atlas or a run is."""
    console = _console()
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


def _console() -> Console:
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

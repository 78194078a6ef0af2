"""Training curves: how every loss term of every model went, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError, DataError
from medl_scale.progress import is_loss
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["losses_of", "ordered_terms", "readable_term", "spans_decades", "training_curves"]

_COLUMNS = ("model", "fold", "epoch", "split", "term", "value", "best")
_FORMATS = ("png", "svg", "pdf")
# Blue and vermilion of Okabe and Ito, told apart by colour-blind readers and in print; folds go
# from the lighter tone to the darker.
_TONES = {"train": ("#a9d3f0", "#3b86bb"), "val": ("#f3ab7d", "#a83c00")}
_FIRST_TERMS = ("total", "reconstruction")
_ACRONYMS = ("kl", "mse", "bce")
# A term whose values span more than this factor is drawn on a logarithmic axis.
_LOG_RATIO = 30.0
_PANEL_INCHES = (2.9, 2.1)


def losses_of(history: pd.DataFrame) -> pd.DataFrame:
    """Return a run's history in the form that curves are drawn from.

    Parameters
    ----------
    history
        One row per model, fold and epoch, a column for every loss term (`train_...`, `val_...`).

    Returns
    -------
    DataFrame
        One row per model, fold, epoch, split (`train` or `val`) and term, with its `value` and
        `best`; terms that a model does not have are left out.
    """
    terms = [column for column in history if is_loss(column)]
    long = history.melt(
        id_vars=["model", "fold", "epoch", "best"], value_vars=terms, var_name="name"
    ).dropna(subset=["value"])
    long[["split", "term"]] = long["name"].str.split("_", n=1, expand=True)
    return long.drop(columns="name")


def training_curves(history: pd.DataFrame, output: str | os.PathLike[str]) -> None:
    """Draw a row of panels for each model, a panel for each of its loss terms, a line for each fold.

    Parameters
    ----------
    history
        One row per model, fold, epoch, split (`train` or `val`) and term, with its `value`; `best`
        (bool) marks the epoch whose weights were kept.
    output
        Picture to write; its suffix, `.png`, `.svg` or `.pdf`, says how.

    Raises
    ------
    ConfigError
        If the suffix is another one.
    DataError
        If `history` lacks a column or has no rows.
    StoreError
        If writing fails, for instance because the disk is full.
    """
    path = Path(output)
    form = path.suffix.removeprefix(".")
    if form not in _FORMATS:
        listed = ", ".join(f"'.{known}'" for known in _FORMATS)
        raise ConfigError(
            f"A picture is written as one of {listed}; got {path.name!r}. "
            "Give the output one of these suffixes."
        )
    missing = [column for column in _COLUMNS if column not in history.columns]
    if missing:
        raise DataError(
            f"A history needs the columns {', '.join(_COLUMNS)}; {', '.join(missing)} not found "
            f"among {', '.join(map(str, history.columns))}. Pass the history of a fit."
        )
    if history.empty:
        raise DataError("A history needs at least one epoch; got none. Fit a model first.")
    figure = _draw(history)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a date the same history gives the same file.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with atomic_file(path) as scratch:
        figure.savefig(scratch, format=form, dpi=150, metadata=metadata)


def _draw(history: pd.DataFrame) -> Figure:
    """Return the figure of a history."""
    from matplotlib.figure import Figure

    models = list(history["model"].unique())
    order = ordered_terms(history)
    terms = {
        model: [term for term in order if term in set(of_model["term"])]
        for model, of_model in history.groupby("model", sort=False)
    }
    fold_places = {fold: place for place, fold in enumerate(sorted(history["fold"].unique()))}
    n_columns = max(len(of_model) for of_model in terms.values())
    width, height = _PANEL_INCHES
    figure = Figure(
        figsize=(max(4.0, width * n_columns + 0.4), height * len(models) + 0.5),
        layout="constrained",
    )
    axes = figure.subplots(len(models), n_columns, squeeze=False)
    for row, model in zip(axes, models, strict=True):
        of_model = history[history["model"] == model]
        for panel, term in zip(row, terms[model], strict=False):
            _draw_panel(panel, of_model[of_model["term"] == term], fold_places)
            panel.set_title(readable_term(term), fontsize=9)
        for panel in row[len(terms[model]) :]:
            panel.set_axis_off()
        row[0].set_ylabel(_readable_model(model), fontsize=11, fontweight="bold", labelpad=8)
    for column in axes.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.set_xlabel("epoch", fontsize=8)
    figure.align_ylabels(axes[:, 0])
    _add_legend(figure, list(fold_places))
    return figure


def _draw_panel(panel: Axes, of_term: pd.DataFrame, fold_places: dict[object, int]) -> None:
    """Draw the lines of one term, and a dot at the best epoch."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    for (fold, split), line in of_term.groupby(["fold", "split"], sort=True):
        ordered = line.sort_values("epoch")
        colour = _tone(split, fold_places[fold], len(fold_places))
        marker = "." if len(ordered) < 3 else ""
        # Train lines are broad and below, so that both show where they coincide.
        look = (1.1, 2.5) if split == "val" else (1.9, 2.0)
        panel.plot(
            ordered["epoch"],
            ordered["value"],
            color=colour,
            linewidth=look[0],
            zorder=look[1],
            marker=marker,
        )
        best = ordered[ordered["best"].astype(bool)]
        if split == "val":
            panel.plot(
                best["epoch"],
                best["value"],
                "o",
                color=colour,
                markersize=5.5,
                markeredgecolor="white",
                zorder=3,
            )
    if spans_decades(of_term["value"].to_numpy(dtype=float)):
        panel.set_yscale("log")
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    panel.tick_params(labelsize=7.5)
    panel.grid(visible=True, linewidth=0.5, color="#e4e4e4")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, folds: list[object]) -> None:
    """Explain colours, tones and dots, above the panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_tone("train", 0, 1), linewidth=1.9, label="train"),
        Line2D([], [], color=_tone("val", 0, 1), linewidth=1.1, label="validation"),
        Line2D([], [], color=_tone("val", 0, 1), marker="o", linestyle="", label="best epoch"),
    ]
    title = f"folds {folds[0]} to {folds[-1]}, light to dark" if len(folds) > 1 else None
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=3,
        frameon=False,
        fontsize=8,
        title=title,
        title_fontsize=8,
    )


def ordered_terms(history: pd.DataFrame) -> list[str]:
    """Return the terms: the total first, then those that most models share."""
    n_models = history.groupby("term", sort=False)["model"].nunique()
    first = [term for term in _FIRST_TERMS if term in n_models.index]
    rest = n_models.drop(first).sort_values(ascending=False, kind="stable")
    return [*first, *rest.index]


def spans_decades(values: np.ndarray) -> bool:
    """Whether positive values span so much that a linear axis would hide most of them."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > _LOG_RATIO * finite.min())


def _tone(split: str, place: int, n_folds: int) -> tuple[float, float, float]:
    """Return the colour of a fold's line; a single fold gets the middle tone."""
    from matplotlib.colors import to_rgb

    light, dark = (np.array(to_rgb(tone)) for tone in _TONES[split])
    share = place / (n_folds - 1) if n_folds > 1 else 0.6
    red, green, blue = (1 - share) * light + share * dark
    return float(red), float(green), float(blue)


def readable_term(term: str) -> str:
    """Return a term as a heading."""
    words = term.split("_")
    return " ".join(word.upper() if word in _ACRONYMS else word for word in words)


def _readable_model(model: str) -> str:
    """Return a model's name as it is written in prose: FE, but probe."""
    return model.upper() if len(model) <= 3 else model

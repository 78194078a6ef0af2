"""The what-if: how far it can be trusted, and the viewer to ask it oneself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medl_scale.interpret.check import BASELINES
from medl_scale.report.markup import (
    Column,
    Html,
    element,
    joined,
    nothing,
    paragraph,
    phrase,
    table,
)
from medl_scale.report.page import Section
from medl_scale.report.sections.missing import Missing, missing

if TYPE_CHECKING:
    import pandas as pd

    from medl_scale.interpret.check import WhatIfCheck

__all__ = ["VIEWER_ID", "check_in_brief", "check_section", "viewer_section"]

VIEWER_ID = "what-if"
"""Links to a choice of the viewer start with it."""
PREDICTIONS = {
    "model": "the model's as-if projection",
    **BASELINES,
    "noise_floor": "noise floor of the target's cells",
    "noise_floor_of_shifts": "noise floor of the source's and the target's cells",
}
BAR_REM = 7.0


def check_section(found: WhatIfCheck | Missing) -> Section:
    """Return the section on the check of the what-if."""
    title = "Can the what-if be trusted?"
    if isinstance(found, Missing):
        return Section("check", title, missing(found))
    body = [
        paragraph(
            "Test cells of a type are moved from a source to a target batch, and their mean is held "
            "against the mean of the type's own test cells in the target. Errors are squared, averaged "
            "over genes, and divided by that of no change: 1 is as good as doing nothing, 0 perfect, "
            "and the noise floor is what someone would get who knew the truth, as means of few cells "
            "are noisy. Additive shifts are what any model has to beat."
        ),
    ]
    for (model, seen), rows in found.summary.groupby(["model", "seen"], sort=False):
        body.append(_summary(str(model), rows, seen=bool(seen)))
    body.append(
        paragraph(
            "Every pair, with its numbers of cells, is in ",
            element("code", "what_if_check.csv"),
            " of the run.",
        )
    )
    body += [element("h3", "In words"), paragraph(found.words)]
    return Section("check", title, joined(body))


def check_in_brief(found: WhatIfCheck) -> Html | None:
    """Return in a sentence how the first model fares against an additive shift; None if unknown."""
    summary = found.summary
    model, seen = summary["model"].iloc[0], summary["seen"].iloc[0]
    own = summary[(summary["model"] == model) & (summary["seen"] == seen)].set_index("prediction")
    shift, profile, floor = "two_way_shift", "two_way_profile", "noise_floor"
    if not {"model", shift, floor} <= set(own.index) or math.isnan(own.loc[shift, "model_wins"]):
        return None
    nearer = ""
    if profile in own.index and own.loc[profile, "error"] < own.loc["model", "error"]:
        nearer = (
            f" For means of types, the {PREDICTIONS[profile]} comes nearer still "
            f"({own.loc[profile, 'error']:.2f}); it says nothing of single cells."
        )
    return phrase(
        "As-if projections by ",
        element("code", model),
        f" come nearer to the target batch's own test cells than an additive shift by type and batch in "
        f"{100 * own.loc[shift, 'model_wins']:.0f} % of {int(own.loc['model', 'n_pairs']):,} moves (relative "
        f"error {own.loc['model', 'error']:.2f} against {own.loc[shift, 'error']:.2f}; noise alone makes "
        f"{own.loc[floor, 'error']:.2f}).",
        nearer,
    )


def viewer_section(viewer: Html | Missing) -> Section:
    """Return the section with the viewer."""
    title = "What if this cell came from another batch?"
    return Section(VIEWER_ID, title, missing(viewer) if isinstance(viewer, Missing) else viewer)


def _summary(model: str, rows: pd.DataFrame, *, seen: bool) -> Html:
    """Return a row for the model, each baseline and the noise floors."""
    columns = [
        Column("prediction"),
        Column("error", "right", "mean over pairs, 1 being that of no change"),
        Column("median", "right"),
        Column("correlation", "right", "of predicted and true shift over genes, mean over pairs"),
        Column("model is better", "right", "share of pairs in which its error is less"),
        Column("knows types"),
    ]
    longest = max(1.0, float(rows["error"].max()))
    listed = []
    for row in rows.itertuples():
        width = BAR_REM * row.error / longest if math.isfinite(row.error) else 0.0
        name = PREDICTIONS.get(str(row.prediction), str(row.prediction))
        is_model = row.prediction == "model"
        is_floor = str(row.prediction).startswith("noise_floor")
        listed.append(
            [
                element("strong", name) if is_model else name,
                phrase(_bar(width), " ", _number(row.error)),
                _number(row.error_median),
                _number(row.correlation),
                nothing("is the model" if is_model else "no prediction")
                if math.isnan(row.model_wins)
                else f"{100 * row.model_wins:.0f} %",
                nothing("no prediction") if is_floor else "yes" if row.uses_labels else "no",
            ]
        )
    n_pairs = int(rows["n_pairs"].max())
    kind = "seen in the target batch in training" if seen else "never seen in the target batch"
    caption = phrase("Model ", element("code", model), f", {n_pairs:,} pairs of a type {kind}.")
    return table(columns, listed, caption=caption)


def _bar(width_rem: float) -> Html:
    """Return a bar beside its figure."""
    return element("span", class_="bar", style=f"width: {width_rem:.2f}rem", aria_hidden="true")


def _number(value: float) -> Html | str:
    """Return a figure to two digits, or a dash."""
    if not math.isfinite(value):
        return nothing("not defined")
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")

"""The effects of batches: the genes that they move most, with credible intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medl_scale.report.intervals import intervals_chart
from medl_scale.report.markup import (
    Column,
    Html,
    details,
    element,
    figure,
    joined,
    nothing,
    paragraph,
    phrase,
    table,
)
from medl_scale.report.page import Section
from medl_scale.report.sections.missing import Missing, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = ["EffectFacts", "effects_section"]


@dataclass(frozen=True, eq=False)
class EffectFacts:
    """What a model has learnt of its batches."""

    moved: pd.DataFrame
    """The genes that batches surely move most, in order; as `interpret.effect_tables.moved_genes`."""
    rows: pd.DataFrame
    """Scale and shift of these genes in the batch that moves each most; as `effect_rows`."""
    n_genes: int
    """All genes of the model."""
    n_sure: int
    """Genes with a move or stretch whose interval does not hold 0."""
    level: float
    """Of the intervals."""


def effects_section(found: Mapping[str, EffectFacts] | Missing) -> Section:
    """Return the section on effects, a part for each model that has any."""
    title = "What batches do to genes"
    if isinstance(found, Missing):
        return Section("effects", title, missing(found))
    body = [
        paragraph(
            "Each batch has a scale and a shift of its own for every gene. Their sum for the average cell "
            "is its move, away from the average batch, in standard deviations of the gene. Genes are in "
            "the order of how far batches surely move or stretch them: moves count as far as their "
            "intervals lie away from 0."
        )
    ]
    for place, (model, facts) in enumerate(found.items()):
        part = _part(model, facts)
        if place == 0:
            body.append(part)
        else:
            body.append(details(phrase("The same by model ", element("code", model)), part))
    return Section("effects", title, joined(body))


def _part(model: str, facts: EffectFacts) -> Html:
    """Return the chart and the table of one model."""
    level = f"{facts.level:.0%}".replace("%", " %")
    said = paragraph(
        "Model ",
        element("code", model),
        f": {facts.n_sure:,} of {facts.n_genes:,} genes are moved or stretched by some batch beyond the "
        f"{level} credible interval. The intervals are the model's own, of its output layer; what "
        "hidden layers add is not in them.",
    )
    rows = [
        (str(row.gene), f"in {row.batch}", row.move, row.move_lower, row.move_upper)
        for row in facts.moved.itertuples()
    ]
    chart = intervals_chart(
        rows,
        unit="move, s.d. of the gene",
        label=f"Moves of the {len(rows)} genes that batches move most, with {level} credible intervals",
    )
    caption = (
        f"The {len(rows)} genes that batches move most, each in the batch that surely moves it most: "
        f"posterior mean and {level} credible interval."
    )
    return phrase(said, figure(chart, caption, wide=True), _table(facts, level))


def _table(facts: EffectFacts, level: str) -> Html:
    """Return the genes with their effects in the batch that moves each most."""
    columns = [
        Column("gene"),
        Column("batch", hint="that surely moves the gene most"),
        Column("move", "right", "of the average cell, s.d. of the gene"),
        Column("scale", "right", "factor beyond 1, posterior mean and interval"),
        Column("shift", "right", "s.d. of the gene, posterior mean and interval"),
        Column("between batches", "right", "share of the gene's variance that the effects make"),
        Column(
            "observed", "right", "the same of the batches' plain means, differing types included"
        ),
    ]
    effects = {(str(row.gene), str(row.batch)): row for row in facts.rows.itertuples()}
    rows = []
    for row in facts.moved.itertuples():
        own = effects[str(row.gene), str(row.batch)]
        rows.append(
            [
                element("code", row.gene),
                row.batch,
                _interval(row.move, row.move_lower, row.move_upper),
                _interval(own.scale, own.scale_lower, own.scale_upper),
                _interval(own.shift, own.shift_lower, own.shift_upper),
                _share(row.share, row.share_lower, row.share_upper),
                _percent(row.observed_share),
            ]
        )
    note = phrase(
        f"Posterior means and {level} credible intervals. Between batches: the share of the gene's "
        "variance that these effects make; observed: that of the batches' plain means, in which "
        "differing cell types count too. All genes and batches: ",
        element("code", "Run.effects()"),
        ".",
    )
    return table(columns, rows, caption=note)


def _interval(value: float, lower: float, upper: float) -> Html:
    """Return an estimate with its interval."""
    ends = f" ({_two_digits(lower)} to {_two_digits(upper)})"
    return phrase(_two_digits(value, sign="+"), element("span", ends, class_="error"))


def _share(value: float, lower: float, upper: float) -> Html:
    """Return a share with its interval, in per cent."""
    if math.isnan(value):
        return nothing("the gene does not vary")
    ends = f" ({100 * lower:.0f} to {100 * upper:.0f})"
    return phrase(f"{100 * value:.0f} %", element("span", ends, class_="error"))


def _percent(value: float) -> Html | str:
    """Return a share in per cent."""
    return nothing("the gene does not vary") if math.isnan(value) else f"{100 * value:.0f} %"


def _two_digits(value: float, sign: str = "") -> str:
    """Return a number with the sign for minus, and none at zero."""
    # Adding 0.0 makes -0.0 positive.
    return f"{round(value, 2) + 0.0:{sign}.2f}".replace("-", "\N{MINUS SIGN}")

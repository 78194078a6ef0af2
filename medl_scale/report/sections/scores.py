"""The scores: a row for each latent, how exact every figure is, and what the forests mean in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medl_scale.evaluate.summary import over_folds
from medl_scale.report.markup import (
    Column,
    Html,
    command,
    details,
    element,
    hidden,
    items,
    joined,
    nothing,
    paragraph,
    phrase,
    table,
    told,
)
from medl_scale.report.page import Section
from medl_scale.report.sections.metrics import FOREST_METRICS, MIXING, TYPES, Metric
from medl_scale.report.sections.missing import Missing, missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    Figures = Mapping[tuple[str, str, str, str], Any]

__all__ = ["KNOW_THE_BATCH", "ScoreFacts", "best_latents", "scores_section"]

KNOW_THE_BATCH = ("X_medl_re",)
"""Latents that hold the batch on purpose: they are no candidates for the best mixing."""
MOST_VERDICTS = 4
"""In words; more are folded away."""
UNSEEN = "unseen batches"
# Below this share of the value an error is what rounding leaves.
NEGLIGIBLE = 1e-4
KIND_MARKS = {"exact": "", "certified": "=", "confidence": "≈"}


@dataclass(frozen=True, eq=False)
class ScoreFacts:
    """What `evaluate` found."""

    table: pd.DataFrame
    """As in `scores.csv`."""
    verdicts: Sequence[str]
    """What forests mean, in words."""
    notes: Sequence[str]
    """What was left out, and why."""
    batch_key: str
    labels_key: str | None


def scores_section(facts: ScoreFacts | Missing) -> Section:
    """Return the section on the scores."""
    if isinstance(facts, Missing):
        return Section("scores", "Scores", missing(facts))
    summary = over_folds(facts.table)
    figures = {(row.space, row.split, row.metric, row.of): row for row in summary.itertuples()}
    body = [paragraph(_exactness(summary, facts.table))]
    for split in dict.fromkeys(summary["split"]):
        if UNSEEN in split:
            continue
        where = "" if split == "test" else f" ({split} cells)"
        body += _grouping(
            figures,
            split,
            facts.batch_key,
            MIXING,
            f"Are the batches mixed?{where}",
            leave_out=KNOW_THE_BATCH,
        )
        if facts.labels_key is not None:
            body += _grouping(
                figures, split, facts.labels_key, TYPES, f"Are the cell types kept?{where}"
            )
    body += _forests(figures, facts)
    if facts.verdicts:
        body += [
            element("h3", "What the forests mean"),
            paragraph(
                "A forest that reads a donor's property from a latent may only have recognised the "
                "donor. So each is compared to one that is told the batch and nothing else, and asked "
                "again of batches it has never seen."
            ),
            items(facts.verdicts)
            if len(facts.verdicts) <= MOST_VERDICTS
            else details(f"All {len(facts.verdicts)} comparisons in words", items(facts.verdicts)),
        ]
    if facts.notes:
        body += [element("h3", "What was left out"), items(map(told, facts.notes))]
    body.append(details("Every figure, with its error and method", _everything(facts.table)))
    return Section("scores", "Scores", joined(body))


def best_latents(facts: ScoreFacts) -> list[Html]:
    """Return in a sentence each which latent mixes batches best, and which keeps cell types best."""
    figures = {(r.space, r.split, r.metric, r.of): r for r in over_folds(facts.table).itertuples()}
    said = []
    asked: list[tuple[str, str, str, tuple[str, ...]]] = [
        (facts.batch_key, "ilisi_knn", "mixes the batches best", KNOW_THE_BATCH)
    ]
    if facts.labels_key is not None:
        asked.append((facts.labels_key, "silhouette_label", "separates the cell types best", ()))
    for of, name, words, leave_out in asked:
        metric = next(one for one in (*MIXING, *TYPES) if one.name == name)
        spaces = _spaces(figures, "test", of, [metric])
        found = _best(figures, "test", of, metric, [s for s in spaces if s not in leave_out])
        if len(spaces) > 1 and len(found) == 1:
            value = figures[found[0], "test", name, of].value
            said.append(
                phrase(
                    element("code", found[0]),
                    f" {words} of the latents scored ({name} {value:.3f}).",
                )
            )
    return said


def _exactness(summary: pd.DataFrame, table_: pd.DataFrame) -> Html:
    """Return how many figures are exact, and what their marks mean."""
    kinds = summary["kind"].value_counts()
    words = {
        "exact": "exact",
        "certified": "within a proven bound (=)",
        "confidence": "estimated with an interval (≈)",
    }
    counted = ", ".join(f"{kinds[kind]:,} {word}" for kind, word in words.items() if kind in kinds)
    exact = kinds.get("exact", 0) == len(summary)
    said = f"All {len(summary):,} figures are exact." if exact else f"Of all figures {counted}."
    n_folds = int(summary["n_folds"].max()) if len(summary) else 0
    folds = (
        f" Figures are means over {n_folds} folds, ± the half-width of a 95 % t-interval."
        if n_folds > 1
        else ""
    )
    n = table_["n"].max()
    return phrase(
        f"All test cells are scored (up to {n:,.0f} a fold); none are sampled away. "
        f"{said}{folds} Where no ± is shown, the error is below the "
        "last digit. The mark ",
        element("span", "best", class_="best"),
        " stands at the best of a column, and at those that its error does not tell from it.",
    )


def _grouping(
    figures: Figures,
    split: str,
    of: str,
    metrics: Sequence[Metric],
    title: str,
    *,
    leave_out: Sequence[str] = (),
) -> list[Html]:
    """Return the table of one grouping: a row for each latent, a column for each metric."""
    present = [metric for metric in metrics if _spaces(figures, split, of, [metric])]
    spaces = _spaces(figures, split, of, present)
    if not spaces:
        return []
    rows: list[list[object]] = [[element("code", space)] for space in spaces]
    for metric in present:
        candidates = [space for space in spaces if space not in leave_out]
        best = _best(figures, split, of, metric, candidates)
        for row, space in zip(rows, spaces, strict=True):
            row.append(_cell(figures.get((space, split, metric.name, of)), is_best=space in best))
    excluded = [element("code", space) for space in spaces if space in leave_out]
    aside = (
        phrase(" ", joined(excluded, ", "), " holds the batch on purpose and is no candidate.")
        if excluded
        else ""
    )
    caption = phrase("By ", element("code", of), "; ↑ higher is better, ↓ lower is better.", aside)
    columns = [Column("latent"), *(_column(metric) for metric in present)]
    return [
        element("h3", title),
        table(columns, rows, caption=caption),
        details("What these figures are", items(f"{m.name}: {m.meaning}" for m in present)),
    ]


def _forests(figures: Figures, facts: ScoreFacts) -> list[Html]:
    """Return a table for each target of the forests, of known and of unseen batches."""
    targets = dict.fromkeys(of for _, _, metric, of in figures if metric == "RFAccuracy")
    found = []
    for target in targets:
        splits = dict.fromkeys(
            split for _, split, metric, of in figures if metric == "RFAccuracy" and of == target
        )
        spaces = dict.fromkeys(
            space for space, _, metric, of in figures if metric == "RFAccuracy" and of == target
        )
        columns, groups = [Column("told to the forest")], [("", 1)]
        rows: list[list[object]] = [[element("code", space)] for space in spaces]
        for split in splits:
            groups.append((split, len(FOREST_METRICS)))
            for metric in FOREST_METRICS:
                columns.append(Column(metric.title, "right", metric.meaning))
                latents = [one for one in spaces if " " not in one]
                best = (
                    []
                    if metric.name == "ChanceAccuracy"
                    else _best(figures, split, target, metric, latents)
                )
                for row, space in zip(rows, spaces, strict=True):
                    figure = figures.get((space, split, metric.name, target))
                    row.append(_cell(figure, is_best=space in best))
        found += [
            element("h3", phrase("What a forest reads: ", element("code", target))),
            table(
                columns,
                rows,
                groups=groups,
                caption="Accuracies of random forests; balanced: every class counts alike; chance: "
                "classes drawn by their frequency. Rows that are told the batch are controls.",
            ),
        ]
    return found


def _spaces(figures: Figures, split: str, of: str, metrics: Sequence[Metric]) -> list[str]:
    """Return the latents that have one of these figures."""
    names = {metric.name for metric in metrics}
    return list(
        dict.fromkeys(
            space
            for space, where, metric, by in figures
            if (where, by) == (split, of) and metric in names
        )
    )


def _best(
    figures: Figures, split: str, of: str, metric: Metric, spaces: Sequence[str]
) -> list[str]:
    """Return the best of some latents, and those that their errors do not tell from it."""
    sign = 1.0 if metric.better == "higher" else -1.0
    found = {
        space: figures[key]
        for space in spaces
        if (key := (space, split, metric.name, of)) in figures and math.isfinite(figures[key].value)
    }
    if len(found) < 2:
        return []
    first = max(found, key=lambda space: sign * found[space].value)
    return [
        space
        for space, row in found.items()
        if sign * (found[first].value - row.value) <= _error(row) + _error(found[first])
    ]


def _error(row: Any) -> float:
    """Return how far a figure may be off: of its folds, or of itself."""
    if row.n_folds > 1:
        return float(row.half_width)
    error = float(row.error)
    return error if error > NEGLIGIBLE * abs(row.value) else 0.0


def _column(metric: Metric) -> Column:
    """Return the head of a metric's column."""
    arrow = element("span", " ↑" if metric.better == "higher" else " ↓", aria_hidden="true")
    said = hidden(f", {metric.better} is better")
    return Column(phrase(metric.name, arrow, said), "right", metric.meaning)


def _cell(row: Any, *, is_best: bool) -> Html:
    """Return a figure, its error where it shows, and a mark where it is the best."""
    if row is None:
        return nothing("not scored")
    digits = 3 if abs(row.value) < 10 else 1
    value = f"{KIND_MARKS[row.kind]}{row.value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    error = _error(row)
    shows = error >= 0.5 * 10**-digits
    shown = phrase(
        element("span", value, hidden(" best") if is_best else "", class_="best")
        if is_best
        else phrase(value, element("span", " ●", class_="plain-mark", aria_hidden="true")),
        element("span", f" ± {error:.{digits}f}", class_="error") if shows else "",
    )
    return element(
        "span", shown, title=f"{row.value:.6g} ± {row.error:.1g}, {row.kind}, {row.n:,} cells"
    )


def _everything(found: pd.DataFrame) -> Html:
    """Return the whole table."""
    columns = [
        Column("latent"), Column("fold", "right"), Column("cells of"), Column("metric"), Column("by"),
        Column("value", "right"), Column("error", "right"), Column("kind"), Column("cells", "right"),
        Column("method"),
    ]  # fmt: skip
    rows = []
    for row in found.itertuples():
        level = "" if math.isnan(row.confidence) else f" at {row.confidence:.0%}"
        undefined = math.isnan(row.value)
        rows.append(
            [
                element("code", row.space),
                row.fold,
                row.split,
                row.metric,
                row.of,
                "undefined" if undefined else f"{row.value:.6g}",
                "" if undefined or math.isnan(row.error) else f"{row.error:.1g}",
                "" if undefined else f"{row.kind}{level}",
                "" if math.isnan(row.n) else f"{int(row.n):,}",
                row.method,
            ]
        )
    note = paragraph("The same as ", element("code", "scores.csv"), " of the run; in Python:")
    return phrase(
        note,
        command("medl_scale.Run.load(RUN).scores.table"),
        table(columns, rows, caption="Every figure."),
    )

"""On what data: sizes, cells of every batch and type, how they were split, where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medl_scale.report.markup import (
    Column,
    Html,
    definitions,
    details,
    element,
    joined,
    paragraph,
    phrase,
    table,
)
from medl_scale.report.page import Section
from medl_scale.report.sections.missing import Missing, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = ["DataFacts", "data_section"]

MOST_BATCHES = 200
MOST_LABELS = 30
STRONGEST_SHADE = 45
"""Per cent of the accent in the shade of a batch's only type: text on it stays readable."""


@dataclass(frozen=True, eq=False)
class DataFacts:
    """What a run was made from."""

    path: str | None
    """Where the atlas lay; None for one in memory."""
    n_obs: int
    n_vars: int
    n_batches: int
    batch_key: str
    labels_key: str | None
    provenance: Mapping[str, Any]
    """As the manifest of the atlas holds it; may be empty."""
    fold: int
    counts: pd.DataFrame | Missing
    """Cells of every batch (rows) and type (columns; one column without labels)."""
    splits: pd.DataFrame | None
    """Cells of every batch (rows) in `train`, `val` and `test` of the fold."""


def data_section(facts: DataFacts) -> Section:
    """Return the section on the data."""
    body = [_overview(facts)]
    if isinstance(facts.counts, Missing):
        body.append(missing(facts.counts))
    else:
        body.append(element("h3", "Cells of every batch"))
        body.append(_composition(facts, facts.counts))
        body.append(_absent(facts))
    if facts.provenance:
        body += [element("h3", "Where the data come from"), _origin(facts.provenance)]
    return Section("data", "The data", joined(body))


def _overview(facts: DataFacts) -> Html:
    """Return sizes and keys."""
    pairs: list[tuple[object, object]] = [
        ("Cells", f"{facts.n_obs:,}"),
        ("Genes", f"{facts.n_vars:,}"),
        (
            "Batches",
            phrase(f"{facts.n_batches:,}, from obs column ", element("code", facts.batch_key)),
        ),
    ]
    if facts.labels_key is None:
        pairs.append(
            (
                "Cell types",
                phrase(
                    "none given; add them with ",
                    element("code", "medl-scale prepare --labels-key COLUMN"),
                ),
            )
        )
    else:
        n = "" if isinstance(facts.counts, Missing) else f"{facts.counts.shape[1]:,}, "
        pairs.append(
            ("Cell types", phrase(n, "from obs column ", element("code", facts.labels_key)))
        )
    pairs.append(("Atlas", element("code", facts.path) if facts.path else "an AnnData in memory"))
    return definitions(pairs)


def _composition(facts: DataFacts, counts: pd.DataFrame) -> Html:
    """Return the table of batches, the largest first, by types, the most frequent first."""
    by_batch = counts.sum(axis=1).sort_values(ascending=False, kind="stable")
    by_label = counts.sum(axis=0).sort_values(ascending=False, kind="stable")
    batches, labels = by_batch.index[:MOST_BATCHES], by_label.index[:MOST_LABELS]
    has_labels = facts.labels_key is not None
    splits = facts.splits
    columns = [Column(facts.batch_key), Column("cells", "right"), Column("share", "right")]
    groups = [("", 3)]
    if splits is not None:
        columns += [Column(name, "right") for name in ("train", "val.", "test")]
        groups.append((f"split of fold {facts.fold}", 3))
    if has_labels:
        columns += [Column(str(label), "right") for label in labels]
        groups.append((f"cells by {facts.labels_key}", len(labels)))
    n_obs = max(1, int(by_batch.sum()))
    rows = []
    for batch in batches:
        n = int(by_batch[batch])
        row: list[object] = [str(batch), f"{n:,}", f"{n / n_obs:.1%}"]
        if splits is not None:
            row += [f"{int(splits.loc[batch, name]):,}" for name in ("train", "val", "test")]
        if has_labels:
            row += [_shaded(int(counts.loc[batch, label]), n) for label in labels]
        rows.append(row)
    rest = []
    if len(by_batch) > len(batches):
        rest.append(f"{len(by_batch) - len(batches):,} smaller batches")
    if has_labels and len(by_label) > len(labels):
        rest.append(f"{len(by_label) - len(labels):,} rarer types")
    said = "Darker cells hold a larger share of their batch." if has_labels else ""
    left_out = f" Not listed: {' and '.join(rest)}." if rest else ""
    return table(
        columns, rows, caption=f"{said}{left_out}".strip() or "The largest first.", groups=groups,
    )  # fmt: skip


def _shaded(n: int, of: int) -> Html:
    """Return a number of cells with its share of the batch as a shade; the share is in its tip."""
    if not n:
        return element("span", "0", class_="muted")
    share = n / max(1, of)
    return element(
        "span",
        f"{n:,}",
        class_="shade",
        style=f"--share: {share * STRONGEST_SHADE:.0f}%",
        title=f"{share:.1%} of the batch",
    )


def _absent(facts: DataFacts) -> Html:
    """Return how many pairs of batch and type there are no cells of."""
    counts = facts.counts
    if isinstance(counts, Missing) or facts.labels_key is None:
        return Html("")
    empty = int((counts == 0).to_numpy().sum())
    if not empty:
        return paragraph("Every type occurs in every batch.")
    return paragraph(
        f"{empty:,} of {counts.size:,} pairs of batch and type have no cells: how such a type would "
        "look in such a batch is known only from what the model has learnt of both."
    )


def _origin(provenance: Mapping[str, Any]) -> Html:
    """Return inputs, and what was removed."""
    cells, genes = provenance.get("n_cells_removed", {}), provenance.get("n_genes_removed", {})
    config = provenance.get("config", {})
    pairs: list[tuple[object, object]] = []
    inputs = [
        phrase(
            element("code", one["place"]),
            f": {one['n_obs']:,} cells \N{MULTIPLICATION SIGN} {one['n_vars']:,} genes",
        )
        for one in provenance.get("inputs", [])
    ]
    if inputs:
        shown = joined(inputs[:5], Html("<br>"))
        more = element("span", f" and {len(inputs) - 5:,} more inputs") if len(inputs) > 5 else ""
        pairs.append(("Inputs", phrase(shown, more)))
    if cells:
        pairs.append(
            (
                "Cells removed",
                (
                    f"{sum(cells.values()):,} of {provenance['n_cells_in']:,}: "
                    f"{cells['too_few_genes']:,} with too few genes, {cells['no_counts_left']:,} without "
                    "a count in the genes that stay"
                ),
            )
        )
    if genes:
        pairs.append(
            (
                "Genes left out",
                (
                    f"{sum(genes.values()):,} of {provenance['n_genes_in']:,}: {genes['too_few_cells']:,} in "
                    f"too few cells, {genes['less_variable']:,} less variable"
                ),
            )
        )
    if "date" in provenance:
        pairs.append(("Prepared", provenance["date"]))
    if config:
        listed = definitions(
            (element("code", name), "none" if value is None else str(value))
            for name, value in config.items()
        )
        pairs.append(("Settings", details("of prepare", listed)))
    return definitions(pairs)

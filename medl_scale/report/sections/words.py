"""What the words of the report mean, and how to cite."""

from __future__ import annotations

from medl_scale.report.markup import Html, definitions, element, joined, paragraph
from medl_scale.report.page import Section

__all__ = ["words_section"]

WORDS = (
    ("Batch", "Cells that were handled together: a donor, a sample, a protocol. Not a step of training."),
    ("Latent", "The few numbers that a model keeps of each cell; in obsm of the atlas, as X_medl_me."),
    ("Fold, split", "Cells are dealt into parts. In fold k, part k tests, the next validates, the others train."),
    ("Fixed effects", "What is common to all batches: what a cell is."),
    ("Random effects", "What each batch adds, drawn towards none: a scale and a shift per batch and unit."),
    ("As if", "A cell decoded under the effects of another batch: how the model says it would look there."),
    ("Credible interval", "Where the model believes an effect to lie. It is narrower than the scatter of measured counts."),
    ("Genomap", "An image of a cell in which every gene has its pixel; neighbouring pixels are genes that go together."),
    ("Exact, certified, estimated", "A score of all cells up to rounding; within a bound that is proven; within an interval of stated confidence."),
    ("iLISI, cLISI", "How many batches, or types, a cell's neighbours are of."),
    ("Silhouette", "How much nearer a cell is to its own group than to the next: 1 is apart, 0 is mixed."),
    ("Noise floor", "The difference that two samples of the same cells show: no prediction can be expected to do better."),
)  # fmt: skip
PAPER = "https://doi.org/10.1038/s41467-026-72666-4"


def words_section(version: str) -> Section:
    """Return the section of words and citations."""
    body = [
        element("h3", "Words"),
        definitions(WORDS),
        element("h3", "To cite"),
        paragraph(f"The software: medl-scale, version {version} (BSD-3-Clause)."),
        paragraph(
            "The methods ",
            element("code", "fe"),
            ", ",
            element("code", "fec"),
            " and ",
            element("code", "re"),
            " are those of scMEDAL: ",
            element(
                "a", "Nature Communications (2026), doi:10.1038/s41467-026-72666-4", href=PAPER
            ),
            ", and of MEDL before it (2024). The joint model ",
            element("code", "me"),
            " and all code are medl-scale's own.",
        ),
    ]
    return Section("words", "Words, and how to cite", joined(body))


def footer(version: str, written: str) -> Html:
    """Return the last lines of the page."""
    return paragraph(
        f"Written by medl-scale {version} on {written}. This page asks nothing of the network."
    )

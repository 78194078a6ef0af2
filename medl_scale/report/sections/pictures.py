"""Pictures: UMAPs of the latents, what forests confuse, how far batches lie from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medl_scale.report.markup import Html, details, figure, joined, paragraph
from medl_scale.report.page import Section
from medl_scale.report.sections.missing import Missing, missing
from medl_scale.report.umaps import umaps_html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medl_scale.report.umaps import UmapPicture

__all__ = ["Drawn", "confusion_section", "distances_section", "umaps_section"]


@dataclass(frozen=True)
class Drawn:
    """A picture in SVG with its words."""

    title: str
    caption: str
    svg: Html


def umaps_section(pictures: Sequence[UmapPicture] | Missing) -> Section:
    """Return the section with a UMAP of each latent."""
    title = "The latents as pictures"
    if isinstance(pictures, Missing):
        return Section("umaps", title, missing(pictures))
    said = paragraph(
        "A latent without batches mixes the colours of batches and keeps those of types apart. Pictures "
        "persuade more than they prove: the scores above are of the latents themselves."
    )
    return Section("umaps", title, joined([said, umaps_html(pictures)]))


def confusion_section(drawn: Sequence[Drawn] | Missing) -> Section:
    """Return the section with what forests take for what, the first in full and the others folded."""
    said = "Cells on the outlined diagonal are told rightly; beside it stands what a forest takes them for."
    return _drawings("confusion", "Which types are confused", said, drawn)


def distances_section(drawn: Sequence[Drawn] | Missing) -> Section:
    """Return the section with distances between batches, the first model in full."""
    said = "How differently batches move the same cells; batches that move them alike are joined first."
    return _drawings("distances", "Which batches are alike", said, drawn)


def _drawings(name: str, title: str, said: str, drawn: Sequence[Drawn] | Missing) -> Section:
    """Return a section of pictures."""
    if isinstance(drawn, Missing):
        return Section(name, title, missing(drawn))
    body = [paragraph(said)]
    for place, one in enumerate(drawn):
        picture = figure(one.svg, one.caption, wide=True)
        body.append(picture if place == 0 else details(one.title, picture))
    return Section(name, title, joined(body))

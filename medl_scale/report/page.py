"""The page itself: sections under their headings, with contents, themes and a style of its own.

One file that asks for nothing: styles, script and pictures lie in it, and a content security policy
forbids the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from medl_scale.errors import ConfigError
from medl_scale.report.markup import Html, element, escaped, joined
from medl_scale.report.theme import theme_css
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["Section", "page_html", "write_page"]

_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_ID = re.compile(r"[a-z][a-z0-9-]*")
# Before anything is shown, so that a page does not flash in the other theme.
_FIRST = (
    "try { const chosen = localStorage.getItem('medl-scale-theme'); "
    "if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset.theme = chosen; "
    "} catch { /* Some browsers keep nothing for files. */ }"
)


@dataclass(frozen=True)
class Section:
    """A part of the page that the contents list."""

    id: str
    """Lower-case letters, digits and hyphens; links lead to `#id`."""
    title: str
    body: Html
    """What stands under the heading, itself with headings from `h3` on."""


def page_html(title: str, lead: Html, sections: Sequence[Section], footer: Html) -> Html:
    """Return a whole page.

    Parameters
    ----------
    title
        Heading and name of the page.
    lead
        What stands before the first section.
    sections
        The parts, in order.
    footer
        What stands at the end.

    Raises
    ------
    ConfigError
        If two sections share an id, or one cannot be an id.
    """
    ids = [section.id for section in sections]
    wrong = [name for name in ids if not _ID.fullmatch(name) or ids.count(name) > 1]
    if wrong:
        raise ConfigError(
            "Sections need ids of their own, of lower-case letters, digits and hyphens; got "
            f"{', '.join(map(repr, wrong))} in {ids}. Rename them."
        )
    links = [
        element("li", element("a", section.title, href=f"#{section.id}")) for section in sections
    ]
    head = joined(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<link rel="icon" href="data:,">'),
            element("title", title),
            element("style", Html(theme_css() + _asset("page.css"))),
            element("script", Html(_FIRST)),
        ],
        Html("\n"),
    )
    toggle = element(
        "button", "Dark theme", type="button", id="theme", hidden=True, aria_pressed="false"
    )
    nav = element(
        "nav",
        element("details", element("summary", "Contents"), element("ol", *links), open=True),
        id="contents",
        aria_label="Contents",
    )
    parts = [
        element(
            "section",
            element("h2", section.title, id=f"{section.id}-title"),
            section.body,
            id=section.id,
            aria_labelledby=f"{section.id}-title",
        )
        for section in sections
    ]
    body = joined(
        [
            element("a", "Skip to the report", href="#report", class_="skip"),
            element("header", element("div", element("h1", title), lead), toggle),
            element(
                "div", nav, element("main", *parts, id="report", tabindex="-1"), class_="columns"
            ),
            element("footer", footer),
            element("script", Html(_asset("page.js"))),
        ],
        Html("\n"),
    )
    return Html(
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    )


def write_page(page: Html, output: str | os.PathLike[str]) -> Path:
    """Write a page, whole or not at all; what is there is replaced.

    Raises
    ------
    ConfigError
        If the name does not end in `.html`.
    StoreError
        If writing fails, for instance because the disk is full.
    """
    path = Path(output)
    if path.suffix not in {".html", ".htm"}:
        raise ConfigError(
            f"A report is written as OUT.html; got {path.name!r}. Give the output that suffix."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as scratch:
        scratch.write_text(escaped(page), encoding="utf-8")
    return path


def _asset(name: str) -> str:
    """Return a file that lies beside this module."""
    return (files("medl_scale.report") / "assets" / name).read_text(encoding="utf-8")

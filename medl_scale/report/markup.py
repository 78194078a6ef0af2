"""HTML that is safe by construction: whatever is not `Html` already is escaped where it is put in."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Column",
    "Html",
    "command",
    "definitions",
    "details",
    "element",
    "escaped",
    "figure",
    "hidden",
    "image",
    "items",
    "joined",
    "nothing",
    "paragraph",
    "phrase",
    "table",
    "told",
    "warning",
]

# Characters that HTML does not allow, and half characters that no encoding can write.
_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)

_TAG = re.compile(r"<[^>]*>")


class Html(str):
    """Markup that may be put into a page as it is."""

    __slots__ = ()


@dataclass(frozen=True)
class Column:
    """The head of a table's column."""

    title: str | Html
    align: Literal["left", "right"] = "left"
    hint: str = ""
    """Shown where the pointer rests on the title, and read to those who use a screen reader."""


def escaped(value: object) -> Html:
    """Return a value as text that a page shows as it is; `Html` is left alone."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_FORBIDDEN.sub("\ufffd", str(value)), quote=True))


def joined(parts: Iterable[object], between: object = "") -> Html:
    """Return values, escaped, one after the other."""
    return Html(escaped(between).join(escaped(part) for part in parts))


def phrase(*parts: object) -> Html:
    """Return what follows each other in a line, escaped."""
    return joined(parts)


def told(message: object) -> Html:
    """Return a message of an error or a warning, what stands between backticks as code."""
    if isinstance(message, Html):
        return message
    parts = str(message).split("`")
    return joined(element("code", part) if place % 2 else part for place, part in enumerate(parts))


def nothing(why: str) -> Html:
    """Return a dash where a table has no value, with the reason in its tip."""
    return element("span", "\N{EN DASH}", class_="muted", title=why)


def element(name: str, *content: object, **attributes: object) -> Html:
    """Return an element with its content.

    Attributes that are None or False are left out, True stands without a value; a trailing `_` of a
    name is dropped and others become `-`: `element("th", "donor", scope="row", class_="wide")`.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        written.append(f" {attribute}" if value is True else f' {attribute}="{escaped(value)}"')
    return Html(f"<{name}{''.join(written)}>{joined(content)}</{name}>")


def paragraph(*content: object, class_: str | None = None) -> Html:
    """Return a paragraph."""
    return element("p", *content, class_=class_)


def hidden(text: object) -> Html:
    """Return text that only screen readers meet."""
    return element("span", text, class_="unseen")


def items(lines: Iterable[object]) -> Html:
    """Return an unordered list; empty for no lines."""
    entries = [element("li", line) for line in lines]
    return element("ul", *entries) if entries else Html("")


def definitions(pairs: Iterable[tuple[object, object]]) -> Html:
    """Return a list of terms, each with what it is."""
    rows = [element("div", element("dt", term), element("dd", meaning)) for term, meaning in pairs]
    return element("dl", *rows)


def details(summary: object, *content: object) -> Html:
    """Return content that is folded away until it is asked for."""
    return element("details", element("summary", summary), *content)


def command(*lines: str) -> Html:
    """Return shell commands, a line each."""
    text = "\n".join(lines)
    return element("pre", element("code", text), class_="command", tabindex="0")


def warning(*content: object) -> Html:
    """Return a paragraph that stands out, and says so in words."""
    return element("p", element("strong", "Note. "), *content, class_="warning", role="note")


def figure(content: object, caption: object, *, id_: str | None = None, wide: bool = False) -> Html:
    """Return a picture with its caption; a wide one scrolls inside itself."""
    shown = _scrolled(content, caption) if wide else escaped(content)
    return element("figure", shown, element("figcaption", caption), id=id_)


def image(png: bytes, alt: str, *, class_: str | None = None) -> Html:
    """Return a PNG picture that lies in the page itself."""
    data = base64.b64encode(png).decode("ascii")
    attributes = f' class="{escaped(class_)}"' if class_ else ""
    return Html(f'<img{attributes} src="data:image/png;base64,{data}" alt="{escaped(alt)}">')


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[object]],
    *,
    caption: object,
    groups: Sequence[tuple[str, int]] | None = None,
    head: bool = True,
    class_: str | None = None,
) -> Html:
    """Return a table that scrolls inside itself.

    Parameters
    ----------
    columns
        The heads.
    rows
        A value for each column; text is escaped, `Html` is not.
    caption
        What the table is, above it.
    groups
        Titles over several columns each, with their number, from the left; "" over one that has none.
    head
        The first value of a row is its head.
    """
    heads = []
    if groups:
        spans = [
            element("th", title, colspan=n, scope="colgroup" if title else None, class_="group")
            if title
            else element("td", colspan=n)
            for title, n in groups
        ]
        heads.append(element("tr", *spans))
    heads.append(element("tr", *(_head(column) for column in columns)))
    body = []
    for row in rows:
        cells = []
        for place, (column, value) in enumerate(zip(columns, row, strict=True)):
            right = "num" if column.align == "right" else None
            is_head = head and place == 0
            cells.append(
                element("th", value, scope="row", class_=right)
                if is_head
                else element("td", value, class_=right)
            )
        body.append(element("tr", *cells))
    made = element(
        "table",
        element("caption", caption),
        element("thead", *heads),
        element("tbody", *body),
        class_=class_,
    )
    return _scrolled(made, caption)


def _head(column: Column) -> Html:
    """Return the head of a column."""
    hint = hidden(f" ({column.hint})") if column.hint else ""
    return element(
        "th",
        column.title,
        hint,
        scope="col",
        class_="num" if column.align == "right" else None,
        title=column.hint or None,
    )


def _scrolled(content: object, caption: object) -> Html:
    """Return content in a box of its own that the keyboard can scroll, called by its caption."""
    name = Html(_TAG.sub("", escaped(caption)))
    return element("div", content, class_="scroll", tabindex="0", role="group", aria_label=name)

"""The interactive what-if viewer: a fragment of a page that works from a file, with no network.

The fragment is native form elements, four images of genes and a table; `assets/viewer.js` fills them
from data that `viewer_data` packs, `assets/viewer.css` takes the page's colours.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from medl_scale.report.viewer_data import pack

if TYPE_CHECKING:
    from medl_scale.report.viewer_data import ViewerData

__all__ = ["viewer_html", "viewer_page"]

_PAGE_STYLE = (
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem }"
)


def viewer_html(data: ViewerData) -> str:
    """Return the viewer as a fragment of HTML, with its own style and script; one fits in a page.

    Its ids and classes start with `medl-viewer`. It takes the page's `--ink`, `--paper`, `--muted`,
    `--line` and `--accent`, and has colours of its own without them. What is chosen is kept in the
    page's address, after `#what-if?`.
    """
    assets = resources.files("medl_scale.report") / "assets"
    return Template((assets / "viewer.html").read_text(encoding="utf-8")).substitute(
        style=(assets / "viewer.css").read_text(encoding="utf-8"),
        script=(assets / "viewer.js").read_text(encoding="utf-8"),
        data=pack(data),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in data.notes),
        units=escape(data.units),
    )


def viewer_page(
    data: ViewerData, *, title: str = "What if this cell came from another batch?"
) -> str:
    """Return a page of its own that holds nothing but the viewer."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_PAGE_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f"{viewer_html(data)}\n</main>\n</body>\n</html>\n"
    )

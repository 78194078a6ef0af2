"""Colours of the report: one palette for light and one for dark, as CSS variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DARK", "LIGHT", "theme_css"]

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f4f6f8",
    "ink": "#1b1f24",
    "muted": "#57606a",
    "line": "#d5dbe1",
    "accent": "#0b5a9e",
    "train": "#3b86bb",
    "val": "#b84600",
    "warn-ink": "#6f3f00",
    "warn-paper": "#fff5e0",
}
DARK = {
    "paper": "#14171b",
    "panel": "#1d2126",
    "ink": "#e6e9ed",
    "muted": "#a6afba",
    "line": "#384049",
    "accent": "#82bbf2",
    "train": "#6fb3e6",
    "val": "#f29a63",
    "warn-ink": "#f3c987",
    "warn-paper": "#2c2516",
}
"""The same names on dark paper. `train` and `val` are blue and vermilion in both, which colour-blind
readers tell apart; text keeps a contrast of 4.5 and lines of charts one of 3 (WCAG AA)."""


def theme_css() -> str:
    """Return rules that set the variables: by the system's theme, by the reader's choice, light in print."""
    light, dark = _variables(LIGHT, "light"), _variables(DARK, "dark")
    return (
        f":root {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {dark} }} }}\n"
        f":root[data-theme=dark] {{ {dark} }}\n"
        f"@media print {{ :root:root:root {{ {light} }} }}\n"
    )


def _variables(colours: Mapping[str, str], scheme: str) -> str:
    """Return the declarations of one palette."""
    listed = " ".join(f"--{name}: {colour};" for name, colour in colours.items())
    return f"color-scheme: {scheme}; {listed}"

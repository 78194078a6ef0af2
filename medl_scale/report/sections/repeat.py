"""The commands that make a run again."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from medl_scale.config import PrepareConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["fit_command", "prepare_command"]

# The one setting that has no option.
FILE_ONLY = ("target_sum",)
FLAGS = ("batch_from_file",)


def prepare_command(provenance: Mapping[str, Any], atlas: str) -> list[str]:
    """Return the lines that prepare an atlas again; empty if its inputs are not on disk.

    Parameters
    ----------
    provenance
        As the manifest of the atlas holds it.
    atlas
        Where it is to lie.
    """
    places = [one.get("place") for one in provenance.get("inputs", [])]
    config = provenance.get("config", {})
    if not places or not config or any(not place or place.startswith("<") for place in places):
        return []
    defaults = {field.name: field.default for field in dataclasses.fields(PrepareConfig)}
    options, in_file = [], []
    for name, value in config.items():
        if value == defaults.get(name, dataclasses.MISSING):
            continue
        if name in FILE_ONLY:
            in_file.append(f"{name} = {value}")
        elif name in FLAGS:
            options.append(_option(name))
        else:
            # No top genes, as a number: all of them.
            options.append(f"{_option(name)} {shlex.quote(str(0 if value is None else value))}")
    lines = (
        [f"# with a file settings.toml that holds [prepare] {', '.join(in_file)}"]
        if in_file
        else []
    )
    options += ["--config settings.toml"] if in_file else []
    words = ["medl-scale prepare", *map(shlex.quote, places), "-o", shlex.quote(atlas), *options]
    return [*lines, " ".join(words)]


def fit_command(atlas: str | None, settings: str, output: str) -> list[str]:
    """Return the line that fits again with the settings in a file."""
    words = ["medl-scale fit", shlex.quote(atlas or "atlas.zarr"), "-o", shlex.quote(output)]
    return [" ".join([*words, "--config", shlex.quote(settings)])]


def _option(name: str) -> str:
    """Return a setting as an option of the command line."""
    return f"--{name.replace('_', '-')}"

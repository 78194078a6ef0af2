"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.errors import ConfigError

__all__ = [
    "BatchKey",
    "ConfigFile",
    "LabelsKey",
    "LogJson",
    "Overwrite",
    "PrintConfig",
    "Quiet",
    "Verbose",
    "as_bytes",
    "as_names",
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="One line an epoch.")]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Progress as one JSON object a line, on standard error.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")]
BatchKey = Annotated[
    str | None, typer.Option(help="Column of obs with the batch (donor, sample, protocol).")
]
LabelsKey = Annotated[str | None, typer.Option(help="Column of obs with cell types.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings; options on the command line win."),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings as TOML and stop.")
]


def as_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names in comma-separated text."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def as_bytes(text: str | None, option: str) -> int | None:
    """Return bytes from text such as 2GiB or 500MB, which an option was given; None if it was not."""
    if text is None:
        return None
    factors = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
    lowered = text.strip().lower()
    unit = next((name for name in factors if lowered.endswith(name)), "")
    try:
        return int(float(lowered.removesuffix(unit)) * factors.get(unit, 1))
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{option} must be a number of bytes with an optional unit such as 2GiB; got {text!r}."
        ) from error

"""Where a store lies: a path on a file system, or the URL of a place that fsspec reaches.

A place is text. `file://` is a path at once, and has all guarantees of one. What lies at a place is
asked in `store.access`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from medl_scale.errors import ConfigError

__all__ = ["absolute", "as_place", "is_url", "join", "local_path", "name_of"]

# `Path("s3://bucket")` is "s3:/bucket"; a drive of Windows has one letter.
_LOST_SLASH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_LOCAL = re.compile(r"^(?:file|local):(?://|(?=/))")


def as_place(ref: str | os.PathLike[str]) -> str:
    """Return a path or a URL as text, with the slash that `pathlib` takes from URLs.

    Examples
    --------
    >>> as_place("file:///data/atlas.zarr"), as_place(Path("s3://bucket/atlas.zarr"))
    ('/data/atlas.zarr', 's3://bucket/atlas.zarr')
    """
    text = os.fspath(ref)
    if _LOCAL.match(text):
        return _LOCAL.sub("", text)
    text = _LOST_SLASH.sub(r"\1://", text)
    return text.rstrip("/") if "://" in text else text


def absolute(ref: str | os.PathLike[str]) -> str:
    """Return where processes with another working folder find a place."""
    place = as_place(ref)
    return place if "://" in place else str(Path(place).resolve())


def is_url(ref: object) -> bool:
    """Say whether something is the URL of a place that is no path."""
    return isinstance(ref, str | os.PathLike) and "://" in as_place(ref)


def name_of(ref: str | os.PathLike[str]) -> str:
    """Return the last part of a place."""
    place = as_place(ref)
    return place.rsplit("/", 1)[-1] if is_url(place) else Path(place).name


def join(ref: str | os.PathLike[str], *names: str) -> str:
    """Return a place below another."""
    place = as_place(ref)
    return "/".join((place, *names)) if is_url(place) else str(Path(place, *names))


def local_path(ref: str | os.PathLike[str], what: str) -> Path:
    """Return the path of an output that cannot lie at a URL.

    Parameters
    ----------
    what
        What is written, such as `A run`.

    Raises
    ------
    ConfigError
        If it is a URL.
    """
    place = as_place(ref)
    if is_url(place):
        raise ConfigError(
            f"{what} is written to a folder, not to a URL; got {place}. Choose a path on a file system, "
            "one that all workers share where there are several machines."
        )
    return Path(place)

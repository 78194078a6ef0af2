"""The error of a name that is not there: it lists those that are, and the nearest."""

from __future__ import annotations

import difflib

from medl_scale.errors import DataError

__all__ = ["no_such"]

_LISTED = 30


def no_such(what: str, name: str, names: list[str], place: str, option: str) -> DataError:
    """Return the error of `name`, a `what` such as "layer" chosen by `option`, not in `place`."""
    near = difflib.get_close_matches(name, names, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(repr(other) for other in names[:_LISTED]) or "none"
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return DataError(
        f"{place} has no {what} {name!r}. There are: {listed}{more}.{guess} "
        f"Choose one with {option}."
    )

"""Packages that only some kinds of clusters need."""

from __future__ import annotations

from importlib.util import find_spec

from medl_scale.errors import MissingExtraError

__all__ = ["need_extra"]


def need_extra(module: str, extra: str) -> None:
    """Raise unless a module can be imported, without importing it.

    Raises
    ------
    MissingExtraError
        With the line that installs it.
    """
    if find_spec(module) is None:
        raise MissingExtraError(
            f"A cluster of this kind needs the package {module.replace('_', '-')}, which is not "
            f"installed. Install it with: pip install 'medl-scale[{extra}]'"
        )

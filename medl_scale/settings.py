"""Settings as text: TOML files in and out, and nested values into checked dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    import os

__all__ = ["build", "merge", "read_sections", "read_toml", "to_toml"]

SECTIONS = ("prepare", "fit", "evaluate")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the values of a TOML file.

    Raises
    ------
    ConfigError
        If the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"The settings file {path} does not exist. Write one with --print-config."
        ) from error
    except OSError as error:
        raise ConfigError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def read_sections(path: str | os.PathLike[str] | None) -> dict[str, dict[str, Any]]:
    """Return the settings of each command in a TOML file, empty ones for None.

    Raises
    ------
    ConfigError
        If the file is missing, is not TOML, or has other sections.
    """
    found = {} if path is None else read_toml(path)
    for name, values in found.items():
        if name not in SECTIONS or not isinstance(values, dict):
            raise ConfigError(
                f"{path} holds '{name}', which is no section of settings. Sections: "
                f"{', '.join(f'[{section}]' for section in SECTIONS)}."
            )
    return {name: {} for name in SECTIONS} | found


def to_toml(**sections: Any) -> str:
    """Return dataclasses as TOML, one section each; values that are None are left out."""
    import tomli_w

    return tomli_w.dumps({name: _plain(value) for name, value in sections.items()})


def build[T](kind: type[T], values: Mapping[str, Any], *, place: str) -> T:
    """Return a (nested) settings dataclass from plain values.

    Raises
    ------
    ConfigError
        If a name is unknown (the known ones are listed) or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"[{place}] must be a section of settings; got {values!r}.")
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"'{name}' is not a setting of [{place}].{meant} Settings: {', '.join(known)}."
            )
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            found[name] = build(typing.cast("type[Any]", hint), value, place=name)
        else:
            found[name] = _converted(value, hint, f"{place}.{name}")
    try:
        return kind(**found)
    except TypeError as error:
        raise ConfigError(f"[{place}] lacks a setting: {error}.") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` that are not None laid on top, section by section."""
    merged = dict(base)
    for name, value in over.items():
        if isinstance(value, dict):
            below = merged.get(name, {})
            # What is no section is left for `build` to refuse.
            merged[name] = merge(below, value) if isinstance(below, dict) else below
        elif value is not None:
            merged[name] = value
    return merged


def _plain(value: Any) -> Any:
    """Return dataclasses as dictionaries without None, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _converted(value: Any, hint: Any, name: str, words: tuple[str, ...] = ()) -> Any:
    """Return a TOML value as the type a field asks for, or as one of `words`, or say what it should be."""
    if value in words:
        return value
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        first, *others = [one for one in typing.get_args(hint) if one is not type(None)]
        words = tuple(word for other in others for word in typing.get_args(other))
        return None if value is None else _converted(value, first, name, words)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(item, typing.get_args(hint)[0], name) for item in value)
    if not isinstance(value, bool):
        # NumPy's numbers, and integers where any number will do.
        if hint is int and isinstance(value, numbers.Integral):
            return int(value)
        if hint is float and isinstance(value, numbers.Real):
            return float(value)
    plain = {int: int, float: float, str: str, bool: bool}.get(hint)
    if origin is typing.Literal:
        plain = str
    wrong = plain is not None and type(value) is not plain
    if wrong or (origin is tuple and not isinstance(value, list | tuple)):
        wanted = " or ".join([plain.__name__ if plain else "list", *map(repr, words)])
        raise ConfigError(f"{name} must be of type {wanted}; got {value!r}.")
    return value

"""What a killed fit continues from: one file, replaced atomically."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import StoreError
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    State = Mapping[str, NDArray[Any]]

__all__ = ["read_arrays", "read_checkpoint", "write_arrays", "write_checkpoint"]

_RECORD = "record.json"
# What NumPy and zipfile were seen to raise for files with flipped bits or a missing end.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


def write_checkpoint(path: Path, states: Mapping[str, State], record: Mapping[str, Any]) -> None:
    """Write named engine states and a JSON-like record of the loop's position."""
    arrays = {f"{group}/{name}": v for group, state in states.items() for name, v in state.items()}
    write_arrays(path, arrays, record)


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, Any]]:
    """Return what `write_checkpoint` was given."""
    arrays, record = read_arrays(path)
    states: dict[str, dict[str, NDArray[Any]]] = {}
    for key, value in arrays.items():
        group, name = key.split("/", 1)
        states.setdefault(group, {})[name] = value
    return states, record


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], record: Mapping[str, Any]) -> None:
    """Write arrays by name and a JSON-like record into one file, atomically."""
    # Names are kept beside the record, because a damaged directory of the file hides arrays silently.
    content = json.dumps({"names": sorted(arrays), "record": record})
    text = np.frombuffer(content.encode(), np.uint8)
    # An open file, because `savez` would add a suffix to a path and miss the scratch name.
    with atomic_file(path) as scratch, scratch.open("wb") as file:
        np.savez(file, **{_RECORD: text}, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what `write_arrays` was given.

    Raises
    ------
    StoreError
        If the file is damaged.
    """
    with path.open("rb") as stream:
        try:
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            content = json.loads(arrays.pop(_RECORD).tobytes())
            names, record = content["names"], content["record"]
        except _DAMAGE as error:
            raise _damaged(path, str(error)) from error
    if names != sorted(arrays):
        raise _damaged(path, f"it holds {len(arrays)} of {len(names)} arrays")
    return arrays, record


def _damaged(path: Path, found: str) -> StoreError:
    """Return the error for a file that cannot be used."""
    return StoreError(f"{path} is damaged: {found}. Remove it and fit again.")

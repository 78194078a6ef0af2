"""The size of every file of a finished part of a store, kept in its attributes.

Zarr reads a missing chunk as zeros: without this record, a store that lost files in a copy would
train on them. Rewriting the part drops its attributes and with them the seal.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["broken_files", "seal"]

_ATTRIBUTE = "medl_file_bytes"


def seal(group: Path) -> None:
    """Record the size of every data file below the Zarr v3 group `group`."""
    sizes = {
        file.relative_to(group).as_posix(): file.stat().st_size
        for file in sorted(group.rglob("*"))
        if file.is_file() and file.name != "zarr.json"
    }
    document = json.loads((group / "zarr.json").read_text())
    document["attributes"][_ATTRIBUTE] = sizes
    (group / "zarr.json").write_text(json.dumps(document))


def broken_files(group: Path) -> list[str]:
    """Return the files that are missing or shorter than when `group` was sealed."""
    document = json.loads((group / "zarr.json").read_text())
    sizes = document.get("attributes", {}).get(_ATTRIBUTE, {})
    return [name for name, size in sizes.items() if _size(group / name) < size]


def _size(file: Path) -> int:
    """Return the size of a file in bytes, -1 where there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return -1

"""The size of every file of a finished part of a store, kept in its attributes.

Zarr reads a missing chunk as zeros: without this record, a store that lost files in a copy would
train on them. Rewriting the part drops its attributes and with them the seal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medl_scale.store.access import file_sizes, read_file
from medl_scale.store.places import is_url

if TYPE_CHECKING:
    import os

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


def broken_files(group: str | os.PathLike[str]) -> list[str]:
    """Return the files that are missing or shorter than when `group` was sealed."""
    metadata = read_file(group, "zarr.json")
    if metadata is None:
        raise FileNotFoundError(f"{group} has no zarr.json")
    sizes = json.loads(metadata).get("attributes", {}).get(_ATTRIBUTE, {})
    if is_url(group):
        # One request lists a thousand objects.
        found = file_sizes(group) if sizes else {}
        return [name for name, size in sizes.items() if found.get(name, -1) < size]
    return [name for name, size in sizes.items() if _size(Path(group, name)) < size]


def _size(file: Path) -> int:
    """Return the size of a file in bytes, -1 where there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return -1

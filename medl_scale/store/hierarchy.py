"""Changes to a Zarr v3 hierarchy on disk that a crash leaves either undone or done."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import zarr

from medl_scale.errors import StoreError
from medl_scale.store.atomic import atomic_file, replace_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["drop_consolidated_metadata", "ensure_group", "folders_to_store", "scratch_beside"]


def ensure_group(folder: Path, scratch: Path) -> None:
    """Make `folder` a Zarr group, which anndata reads as a dict, unless it is one already."""
    if (folder / "zarr.json").exists():
        return
    encoding = {"encoding-type": "dict", "encoding-version": "0.1.0"}
    fresh = Path(tempfile.mkdtemp(dir=scratch)) / folder.name
    zarr.create_group(fresh, zarr_format=3, attributes=encoding)
    if folder.exists():
        with atomic_file(folder / "zarr.json") as metadata:
            shutil.copyfile(fresh / "zarr.json", metadata)
    else:
        replace_directory(fresh, folder)


def drop_consolidated_metadata(store: Path) -> None:
    """Rewrite the root's metadata without the copy of all others', where it holds one."""
    metadata = json.loads((store / "zarr.json").read_text())
    if metadata.pop("consolidated_metadata", None) is not None:
        with atomic_file(store / "zarr.json") as scratch:
            scratch.write_text(json.dumps(metadata, indent=2))


def folders_to_store(target: Path) -> list[Path]:
    """Return the folders above `target`, outermost first, from one named `*.zarr`; else none."""
    above = list(target.parents)
    for place, folder in enumerate(above):
        if folder.suffix == ".zarr":
            return above[place::-1]
    return []


@contextmanager
def scratch_beside(store: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `store`, outside it so that a crash leaves nothing in it.

    Its name is one that `atomic.sweep_leftovers` removes.
    """
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f"{store.name}.medl-tmp-", dir=store.parent))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except StoreError:
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StoreError(
            f"The disk is full while writing latents to {store}; what was there before is "
            "unchanged. Free some space or choose another output."
        ) from error

"""Writing to object storage, where nothing can be renamed: metadata go first and come last.

An object appears whole or not at all, but several do not appear together. What is written here is
therefore made on this machine first. While its objects are put in place, the one that makes it a
store, a group or an array (`zarr.json`) is away: others see the old thing, none, or the new one.
"""

from __future__ import annotations

import errno
import glob
import json
import tempfile
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from medl_scale.errors import ConfigError, MedlError, OutputExistsError, StoreError
from medl_scale.store.access import (
    exists,
    file_sizes,
    filesystem,
    has_file,
    named_errors,
    reaching,
    read_file,
    zarr_store,
)
from medl_scale.store.places import join, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medl_scale.progress import Progress

__all__ = [
    "check_upload",
    "consolidate",
    "local_scratch",
    "put_group",
    "remove_consolidated",
    "replace_part",
    "uploaded_directory",
]

_METADATA = "zarr.json"
_UNFINISHED = ".medl-tmp-upload"
_FILES_AT_ONCE = 32


@contextmanager
def uploaded_directory(url: str, *, overwrite: bool, progress: Progress) -> Iterator[Path]:
    """Yield an empty folder on this machine; when the block ends well, it is uploaded to `url`.

    An older store there stays as it is until the block has ended. Then it is removed, object by
    object, and for as long as the upload takes there is none.

    Parameters
    ----------
    url
        Where the store goes.
    overwrite
        Whether a store that is there may be replaced.
    progress
        Where progress goes.

    Raises
    ------
    OutputExistsError, ConfigError
        As `check_upload`.
    StoreError
        If the URL cannot be written, which is tried before the block; or if the upload fails, after
        which no store is there.
    """
    check_upload(url, overwrite=overwrite)
    mark, name = _mark(url)
    system, _ = filesystem(url)
    try:
        with reaching(url):
            system.pipe_file(mark, b"medl-scale is writing the store beside this object.\n")
    except FileNotFoundError as error:
        raise StoreError(
            f"{url} cannot be written: {error}. Make the bucket first, or choose another output."
        ) from error
    try:
        with local_scratch(url) as scratch:
            folder = scratch / name
            folder.mkdir()
            yield folder
            _consolidate(str(folder))
            _upload(folder, url, progress)
    finally:
        # As long as it is there, what an interrupted upload left may be replaced.
        with suppress(Exception):
            if not _is_half(url):
                system.rm_file(mark)


def check_upload(url: str, *, overwrite: bool) -> None:
    """Raise unless a store may be written to a URL.

    Raises
    ------
    OutputExistsError
        If a store is there and `overwrite` is false, or something that is no store.
    ConfigError
        If the URL names a bucket and no place in it.
    StoreError
        If it cannot be reached.
    """
    _, root = filesystem(url)
    if "/" not in root.strip("/") and not root.startswith("/"):
        raise ConfigError(
            f"{url} is a whole bucket. Name a place in it for the store, such as {url}/atlas.zarr."
        )
    if any(has_file(url, marker) for marker in (_METADATA, ".zgroup")):
        if not overwrite:
            raise OutputExistsError(f"{url} exists already. Choose another output or overwrite it.")
    elif exists(url) and not _is_half(url):
        raise OutputExistsError(
            f"{url} exists and is not a Zarr store; it is not replaced. Choose another output."
        )


@contextmanager
def local_scratch(url: str) -> Iterator[Path]:
    """Yield a scratch folder on this machine for what is to be uploaded to `url`.

    Raises
    ------
    StoreError
        If its disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix="medl-upload-", ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)
    except MedlError:
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StoreError(
            f"The disk of {tempfile.gettempdir()} is full; what goes to {url} is made there first. "
            "Free some space, or name another folder in the environment variable TMPDIR."
        ) from error


def replace_part(url: str, name: str, folder: Path) -> None:
    """Put a Zarr array or group on this machine in the place of one in a store.

    From the first request to the last there is none for those who ask; a writer that dies in between
    leaves none.

    Parameters
    ----------
    url
        The store.
    name
        Path of the array or group in it.
    folder
        The array or group on this machine.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    part = join(url, name)
    with named_errors(part):
        system, root = filesystem(part)
        if has_file(part, _METADATA):
            system.rm_file(f"{root}/{_METADATA}")
        _remove(system, [f"{root}/{old}" for old in file_sizes(part)])
        files = _files(folder)
        for group in (files[:-1], files[-1:]):
            _put(system, folder, root, group)


def put_group(url: str, name: str) -> None:
    """Make a group in a store that anndata reads as a dict, unless there is one."""
    if has_file(url, f"{name}/{_METADATA}"):
        return
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"encoding-type": "dict", "encoding-version": "0.1.0"},
    }
    _write_document(url, f"{name}/{_METADATA}", document)


def remove_consolidated(url: str) -> bool:
    """Rewrite a store's root without the copy of all metadata; say whether it held one."""
    document = json.loads(read_file(url, _METADATA) or b"{}")
    if document.pop("consolidated_metadata", None) is None:
        return False
    _write_document(url, _METADATA, document)
    return True


def consolidate(url: str) -> None:
    """Copy all metadata of a store into its root, where they are read with one request."""
    with named_errors(url):
        _consolidate(zarr_store(url, read_only=False))


def _consolidate(store: Any) -> None:
    """Copy all metadata into the root."""
    with warnings.catch_warnings():
        # Zarr warns that other readers may not know it; anndata and Zarr itself do.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(store, zarr_format=3)


def _upload(folder: Path, url: str, progress: Progress) -> None:
    """Upload a store in the place of what is there; leave nothing if that fails."""
    files = _files(folder)
    with named_errors(url):
        system, root = filesystem(url)
        try:
            if has_file(url, _METADATA):
                system.rm_file(f"{root}/{_METADATA}")
            _remove(system, [f"{root}/{old}" for old in file_sizes(url)])
            with progress.step(f"Uploading to {url}", len(files), "objects") as advance:
                for start in range(0, len(files) - 1, _FILES_AT_ONCE):
                    some = files[start : min(start + _FILES_AT_ONCE, len(files) - 1)]
                    _put(system, folder, root, some)
                    advance(len(some))
                _put(system, folder, root, files[-1:])
                advance(1)
        except BaseException:
            with suppress(Exception):
                if not has_file(url, _METADATA):
                    _remove(system, [f"{root}/{some}" for some in file_sizes(url)])
            raise


def _files(folder: Path) -> list[str]:
    """Return all files below a folder; its own metadata last."""
    names = set(file_sizes(folder)) - {_METADATA}
    return [*sorted(names), _METADATA]


def _put(system: Any, folder: Path, root: str, names: Sequence[str]) -> None:
    """Upload some files, side by side."""
    if names:
        system.put([str(folder / name) for name in names], [f"{root}/{name}" for name in names])


def _remove(system: Any, paths: Sequence[str]) -> None:
    """Remove objects, many with one request where the storage can."""
    plain = [path for path in paths if not glob.has_magic(path)]
    if plain:
        system.rm(plain)
    # A name with a bracket would be taken for a pattern.
    for path in set(paths) - set(plain):
        system.rm_file(path)


def _write_document(url: str, name: str, document: dict[str, Any]) -> None:
    """Write JSON to an object of a store."""
    with named_errors(url):
        system, root = filesystem(url)
        system.pipe_file(f"{root}/{name}", json.dumps(document, indent=2).encode())


def _mark(url: str) -> tuple[str, str]:
    """Return the object beside a store that says it is being written, and the store's name."""
    return f"{filesystem(url)[1]}{_UNFINISHED}", name_of(url)


def _is_half(url: str) -> bool:
    """Say whether what is at a URL was left by an upload that did not end."""
    with named_errors(url):
        system, _ = filesystem(url)
        marked = bool(system.exists(_mark(url)[0]))
    return marked and not has_file(url, _METADATA) and exists(url)

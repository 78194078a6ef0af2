"""Writes that a crash leaves either undone or done, for files and for whole folders."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medl_scale.errors import OutputExistsError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["atomic_directory", "atomic_file", "replace_directory", "sweep_leftovers"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_FLUSHES_AT_ONCE = 8
_LEFTOVER_MARK = ".medl-tmp-"


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a scratch path beside `path`; when the block ends well, it becomes `path`.

    Raises
    ------
    StoreError
        If writing fails, for instance because the disk is full; `path` then is as it was.
    """
    target = Path(path)
    scratch = _scratch_beside(target)
    try:
        with _named_os_errors(target):
            yield scratch
            _flush_to_disk(scratch)
            scratch.replace(target)
            _flush_to_disk(target.parent)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty scratch folder beside `path`; when the block ends well, it becomes `path`.

    Raises
    ------
    OutputExistsError
        If `path` exists and `overwrite` is false.
    StoreError
        If writing fails, for instance because the disk is full; `path` then is as it was.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists already. Choose another output or overwrite it.")
    scratch = _scratch_beside(target)
    try:
        with _named_os_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch.mkdir()
            yield scratch
            replace_directory(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Put the folder `source` in the place of `target`, in one step where the system can.

    Linux swaps two folders in one call. Elsewhere the old folder is renamed aside first, and a
    crash between the two renames leaves it there under a name that `sweep_leftovers` restores.
    """
    folders = [(Path(folder), names) for folder, _, names in os.walk(source)]
    # Side by side they share the waits for the disk: many small files take a fifth of the time.
    with ThreadPoolExecutor(_FLUSHES_AT_ONCE) as pool:
        list(pool.map(_flush_to_disk, (path / name for path, names in folders for name in names)))
        list(pool.map(_flush_to_disk, (path for path, _ in folders)))
    if not target.exists():
        source.rename(target)
    elif target.is_dir() and _exchange(source, target):
        shutil.rmtree(source, ignore_errors=True)
    else:
        aside = target.with_name(f"{target.name}{_LEFTOVER_MARK}old")
        target.rename(aside)
        source.rename(target)
        shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink()
    _flush_to_disk(target.parent)


def sweep_leftovers(
    folder: str | os.PathLike[str], *, of: str | None = None, older_than_s: float = 0.0
) -> None:
    """Remove what crashed writers left in `folder`, and restore what they had put aside.

    Parameters
    ----------
    of
        Only what was left in writing the entry of this name.
    older_than_s
        Only what was last changed so many seconds ago: others may be writing.
    """
    name = "*" if of is None else glob.escape(of)
    newest = time.time() - older_than_s
    for entry in Path(folder).glob(f"{name}{_LEFTOVER_MARK}*"):
        original = entry.with_name(entry.name.split(_LEFTOVER_MARK)[0])
        if entry.name.endswith("old") and not original.exists():
            entry.rename(original)
        elif older_than_s and entry.stat().st_mtime > newest:
            continue
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _scratch_beside(target: Path) -> Path:
    """Return a fresh name in the folder of `target`, so that a rename stays on one file system."""
    return target.with_name(f"{target.name}{_LEFTOVER_MARK}{uuid.uuid4().hex[:12]}")


@contextmanager
def _named_os_errors(target: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a `StoreError` that names the output."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(
                f"The disk is full while writing {target}; what was there before is unchanged. "
                "Free some space or choose another output.",
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise StoreError(
                f"{target} cannot be written: {error.strerror}. Choose another output."
            ) from error
        raise


def _flush_to_disk(path: Path) -> None:
    """Ask the system to bring a file or folder to disk, so that a rename cannot overtake it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder; ENOSPC and EIO must not be swallowed.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step (renameat2, Linux); say whether the system could."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    result = renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    )
    return bool(result == 0)

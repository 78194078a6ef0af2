"""Where a prepared atlas goes: what may be replaced, and a folder that becomes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from medl_scale.errors import ConfigError, OutputExistsError
from medl_scale.store.atomic import atomic_directory, sweep_leftovers
from medl_scale.store.places import as_place, is_url
from medl_scale.store.remote import uploaded_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from anndata import AnnData

    from medl_scale.progress import Progress

__all__ = ["check_output", "output_folder"]


def output_folder(
    target: str, progress: Progress, *, overwrite: bool
) -> AbstractContextManager[Path]:
    """Return what yields an empty folder and makes it the store at a path or a URL."""
    if is_url(target):
        return uploaded_directory(target, overwrite=overwrite, progress=progress)
    sweep_leftovers(Path(target).parent, of=Path(target).name)
    return atomic_directory(target, overwrite=overwrite)


def check_output(place: str, inputs: Sequence[str | os.PathLike[str] | AnnData]) -> None:
    """Raise if replacing the output would destroy an input, or a folder that is no store."""
    paths = [as_place(source) for source in inputs if isinstance(source, str | os.PathLike)]
    for path in filter(is_url, paths):
        raise ConfigError(
            f"Counts are prepared from files; {path} is a URL. Download it and give its path: it is read "
            "three times."
        )
    if is_url(place):
        return
    target = Path(place)
    if target.resolve() in (Path(path).resolve() for path in paths):
        raise ConfigError(f"The output {target} is also an input. Choose another output.")
    store = any((target / marker).exists() for marker in ("zarr.json", ".zgroup"))
    if target.exists() and not store and not (target.is_dir() and not any(target.iterdir())):
        raise OutputExistsError(
            f"{target} exists and is not a Zarr store; it is not replaced. Choose another output."
        )

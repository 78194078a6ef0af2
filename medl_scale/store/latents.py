"""Latents on disk: written by row index whatever the order of arrival, whole or not at all.

Rows are gathered in a scratch file beside the store, counted, turned into a Zarr array, and only
then put in place, in one step. Provenance travels in the attributes of the array, so a latent and
its provenance cannot part; `uns["medl_scale_latents"]` of an atlas is a copy of them for readers of
AnnData, and is made anew at every write. At a URL nothing can be renamed: `store.remote` says what
others then see while a latent is replaced.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from medl_scale.errors import AtlasError, DataError, LatentsIncompleteError, StoreError
from medl_scale.store.access import (
    folders_in,
    many_requests,
    named_errors,
    open_array,
    open_group,
    reaching,
    read_file,
)
from medl_scale.store.atomic import replace_directory
from medl_scale.store.gather import gather
from medl_scale.store.hierarchy import (
    drop_consolidated_metadata,
    ensure_group,
    folders_to_store,
    scratch_beside,
)
from medl_scale.store.latent_provenance import (
    PROVENANCE,
    UNS_KEY,
    copy_of_provenance,
    latent_attributes,
)
from medl_scale.store.places import as_place, is_url, join, name_of
from medl_scale.store.remote import (
    consolidate,
    local_scratch,
    put_group,
    remove_consolidated,
    replace_part,
)
from medl_scale.store.seal import broken_files

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from medl_scale.store.gather import Rows

    type FloatArray = NDArray[np.float32]

__all__ = [
    "read_latent",
    "read_latent_array",
    "read_latent_provenance",
    "write_latent",
    "write_latent_array",
]

_WRITTEN = "medl_written"


def write_latent(
    path: str | os.PathLike[str],
    key: str,
    blocks: Iterable[tuple[Rows, FloatArray]],
    *,
    n_latent: int,
    provenance: Mapping[str, Any],
) -> None:
    """Write a latent of every cell into `obsm[key]` of an atlas.

    Parameters
    ----------
    path
        An AnnData Zarr v3 store, on disk or at a URL.
    key
        Name in `obsm`, such as `X_medl_fe`. An existing latent of this name is replaced; after a
        crash the old or the new one is there. At a URL others find the old one, none, or the new one,
        never a mixture, and after a crash it may be none.
    blocks
        Pairs of rows, (m,) int or a slice, and values, (m, n_latent) float32, in any order; every
        row exactly once.
    n_latent
        Width of the latent.
    provenance
        Where the latent comes from: strings, numbers, lists and mappings of these.

    Raises
    ------
    AtlasError
        If `path` is not an AnnData Zarr v3 store.
    DataError
        If a block has rows that do not exist or came before, another shape than its rows ask for,
        or values that are not finite.
    LatentsIncompleteError
        If rows are missing after the last block.
    StoreError
        If writing fails, for instance because the disk is full.
    """
    place = as_place(path)
    n_obs = _count_cells(place)
    if not key or key.startswith(".") or "/" in key:
        raise DataError(f"An obsm key is a plain name such as 'X_medl_fe'; got {key!r}. Rename it.")
    if is_url(place):
        _write_to_url(place, key, blocks, (n_obs, n_latent), provenance)
        return
    store = Path(place).resolve()
    with scratch_beside(store) as scratch:
        array = gather(
            scratch,
            blocks,
            shape=(n_obs, n_latent),
            attributes=latent_attributes(provenance),
            name=f"obsm[{key!r}] of {store}",
        )
        # Its consolidated metadata would go on describing the old array.
        drop_consolidated_metadata(store)
        ensure_group(store / "obsm", scratch)
        replace_directory(array, store / "obsm" / key)
        _copy_provenance_to_uns(store, scratch)


def write_latent_array(
    path: str | os.PathLike[str],
    blocks: Iterable[tuple[Rows, FloatArray]],
    *,
    n_obs: int,
    n_latent: int,
    provenance: Mapping[str, Any],
) -> None:
    """Write a latent of every cell as a Zarr array of its own.

    Parameters
    ----------
    path
        The array, such as `latents.zarr/fe/fold_0` in a run; the folders above it, up to one whose
        name ends in `.zarr`, become groups.
    n_obs
        Number of cells.
    blocks, n_latent, provenance
        As in `write_latent`, and so are the errors.
    """
    target = Path(path).resolve()
    folders = folders_to_store(target)
    store = folders[0] if folders else target
    store.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(store) as scratch:
        array = gather(
            scratch,
            blocks,
            shape=(n_obs, n_latent),
            attributes=latent_attributes(provenance),
            name=str(target),
        )
        for folder in folders:
            ensure_group(folder, scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_directory(array, target)


def read_latent(path: str | os.PathLike[str], key: str) -> FloatArray:
    """Return `obsm[key]` of an atlas, (n_obs, n_latent) float32.

    Raises
    ------
    LatentsIncompleteError
        If the atlas has no such latent.
    StoreError
        If files of it are missing or too short.
    """
    return read_latent_array(join(path, "obsm", key))


def read_latent_array(path: str | os.PathLike[str]) -> FloatArray:
    """Return a latent written by `write_latent_array`, (n_obs, n_latent) float32.

    Raises
    ------
    LatentsIncompleteError
        If there is none at `path`.
    StoreError
        If files of it are missing or too short, or it was replaced while it was read.
    """
    array = _open_array(path)
    with named_errors(path):
        broken = broken_files(path)
    if broken:
        raise StoreError(
            f"The latent {path} is truncated: {len(broken):,} of its files are missing or too "
            f"short, such as {broken[0]}. Copy it again, or encode the cells again."
        )
    with named_errors(path), many_requests(path):
        values = np.asarray(array[:], dtype=np.float32)
    if is_url(path) and json.loads(read_file(path, "zarr.json") or b"{}").get("attributes") != dict(
        array.attrs
    ):
        raise StoreError(f"The latent {path} was replaced while it was read. Read it again.")
    return values


def read_latent_provenance(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Any]:
    """Return the provenance of `obsm[key]` of an atlas, or of the array at `path`.

    Raises
    ------
    LatentsIncompleteError
        If there is no such latent.
    """
    target = as_place(path) if key is None else join(path, "obsm", key)
    provenance: Any = _open_array(target).attrs.get(PROVENANCE, {})
    return dict(provenance)


def _count_cells(store: str) -> int:
    """Return the number of cells of an AnnData Zarr v3 store."""
    try:
        with reaching(store):
            # Consolidated metadata could be stale.
            root = open_group(store, zarr_format=3, use_consolidated=False)
            obs: Any = root["obs"]
            index: Any = obs[obs.attrs["_index"]]
            # pandas' own strings are stored as values and a mask.
            index = index["values"] if isinstance(index, zarr.Group) else index
            return int(index.shape[0])
    except (FileNotFoundError, KeyError) as error:
        raise AtlasError(
            f"Latents go into an AnnData Zarr v3 store; {store} is none ({error}). "
            "Give the path of a prepared atlas."
        ) from error


def _open_array(path: str | os.PathLike[str]) -> zarr.Array[Any]:
    """Open a latent for reading."""
    place = as_place(path)
    try:
        with reaching(place):
            return open_array(place)
    except FileNotFoundError as error:
        name, above = name_of(place), place.rpartition("/")[0] or "."
        found = folders_in(above)
        raise LatentsIncompleteError(
            f"There is no latent {name!r} in {above}; found: "
            f"{', '.join(map(repr, found)) or 'none'}. Fit the model first, or choose one of these."
        ) from error


def _write_to_url(
    url: str,
    key: str,
    blocks: Iterable[tuple[Rows, FloatArray]],
    shape: tuple[int, int],
    provenance: Mapping[str, Any],
) -> None:
    """Write a latent into an atlas at a URL, made on this machine first."""
    # Tells a reader that what it opened has been replaced since.
    attributes = latent_attributes(provenance) | {_WRITTEN: uuid.uuid4().hex}
    with local_scratch(url) as scratch:
        array = gather(
            scratch, blocks, shape=shape, attributes=attributes, name=f"obsm[{key!r}] of {url}"
        )
        # It would go on describing the old array.
        was_consolidated = remove_consolidated(url)
        put_group(url, "obsm")
        replace_part(url, f"obsm/{key}", array)
        copy = copy_of_provenance(url, scratch)
        put_group(url, "uns")
        replace_part(url, f"uns/{UNS_KEY}", copy)
        if was_consolidated:
            consolidate(url)


def _copy_provenance_to_uns(store: Path, scratch: Path) -> None:
    """Rebuild `uns["medl_scale_latents"]` of an atlas on disk."""
    copy = copy_of_provenance(str(store), scratch)
    ensure_group(store / "uns", scratch)
    replace_directory(copy, store / "uns" / UNS_KEY)

"""Dense matrices of an AnnData on disk, filled row by row: as large as the disk, not as memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr
from zarr.codecs import BloscCodec

from medl_scale.errors import ConfigError, OutputExistsError
from medl_scale.store.atomic import atomic_directory, atomic_file
from medl_scale.store.hierarchy import drop_consolidated_metadata
from medl_scale.store.places import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData

__all__ = ["check_dense_output", "dense_store"]

_ENCODING = {"encoding-type": "array", "encoding-version": "0.2.0"}


def check_dense_output(output: Path, *, overwrite: bool) -> None:
    """Raise unless an AnnData may be written to a path: by its suffix, and what is there.

    Raises
    ------
    ConfigError, OutputExistsError
    """
    local_path(output, "Output")
    if output.suffix not in {".h5ad", ".zarr"}:
        raise ConfigError(f"Output is written to OUT.h5ad or OUT.zarr; got {output.name!r}.")
    if output.exists() and not overwrite:
        raise OutputExistsError(f"{output} exists already. Choose another -o, or add --overwrite.")


@contextmanager
def dense_store(
    output: Path, frame: AnnData, layers: Sequence[str], *, chunk_rows: int, overwrite: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the matrices of an AnnData on disk, to be filled; it is there when the block ends well.

    Parameters
    ----------
    output
        A path ending in `.zarr` (Zarr v3) or `.h5ad`.
    frame
        Its obs, var and uns; no X.
    layers
        Names of matrices beside X.
    chunk_rows
        Rows of a Zarr chunk: who fills a multiple of it at a time writes each chunk once.

    Yields
    ------
    Arrays (n_obs, n_vars) float32 by name, `X` first.

    Raises
    ------
    ConfigError, OutputExistsError
        If it may not be written there.
    StoreError
        If writing fails; what was there is then unchanged.
    """
    check_dense_output(output, overwrite=overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    places = {"X": "X"} | {name: f"layers/{name}" for name in layers}
    if output.suffix == ".h5ad":
        with atomic_file(output) as scratch:
            frame.write_h5ad(scratch)
            with h5py.File(scratch, "r+") as file:
                _vacate(file)
                yield {name: _hdf5_array(file, at, frame.shape) for name, at in places.items()}
    else:
        with atomic_directory(output, overwrite=overwrite) as folder:
            frame.write_zarr(folder)
            root = zarr.open_group(folder, mode="r+")
            _vacate(root)
            yield {
                name: _zarr_array(root, at, frame.shape, chunk_rows) for name, at in places.items()
            }
            # It would go on describing a store without these.
            drop_consolidated_metadata(folder)


def _vacate(root: Any) -> None:
    """Remove the mark of a missing X."""
    if "X" in root:
        del root["X"]


def _hdf5_array(file: h5py.File, place: str, shape: tuple[int, int]) -> Any:
    """Return a new dataset as AnnData knows it."""
    array = file.create_dataset(place, shape, np.float32)
    array.attrs.update(_ENCODING)
    return array


def _zarr_array(root: zarr.Group, place: str, shape: tuple[int, int], chunk_rows: int) -> Any:
    """Return a new array as AnnData knows it."""
    array = root.create_array(
        place,
        shape=shape,
        dtype=np.float32,
        chunks=(max(1, min(chunk_rows, shape[0])), max(1, shape[1])),
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
    )
    array.attrs.update(_ENCODING)
    return array

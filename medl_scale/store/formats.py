"""Opening an input by what it is: AnnData in HDF5, Zarr or memory, 10x HDF5, 10x mtx folders.

Each function returns an `Input`; how its rows are read is left to `store.readers`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr

from medl_scale.errors import DataError, StoreError
from medl_scale.store.atlas import is_prepared
from medl_scale.store.choices import no_such
from medl_scale.store.embeddings import embeddings_of
from medl_scale.store.places import as_place, is_url
from medl_scale.store.readers import (
    CsrMatrix,
    DenseMatrix,
    Input,
    Matrix,
    SlicedMatrix,
    reading,
)
from medl_scale.store.tenx import is_mtx_folder, open_10x_h5, open_mtx
from medl_scale.store.transpose import Entries, csr_on_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

__all__ = ["open_input"]

_KINDS = (
    "a .h5ad file, an AnnData .zarr store, a 10x .h5 file, or a 10x folder with matrix.mtx(.gz), "
    "barcodes.tsv(.gz) and features.tsv(.gz) or genes.tsv(.gz)"
)
_COLUMN_ENTRIES = 2**22


def open_input(
    source: str | os.PathLike[str] | AnnData, *, number: int, layer: str | None, scratch: Path
) -> Input:
    """Open one input.

    Parameters
    ----------
    source
        A path, or an AnnData in memory.
    number
        Its place among the inputs, from 1: names an AnnData, and its scratch files.
    layer
        Layer to read instead of `X`.
    scratch
        Folder for matrices that must be turned from columns to rows; its owner removes it.

    Raises
    ------
    StoreError
        If it does not exist, is truncated or damaged.
    DataError
        If it is of no known kind, has no such layer, or has been prepared already.
    """
    if not isinstance(source, str | os.PathLike):
        return _open_memory(source, number, layer)
    if is_url(source):
        raise DataError(
            f"Counts are read from files; {as_place(source)} is a URL. Download it and give its path."
        )
    path = Path(as_place(source))
    if path.name in {"matrix.mtx", "matrix.mtx.gz"}:
        path = path.parent
    if not path.exists():
        raise StoreError(f"The input {path} does not exist. Give {_KINDS}.")
    if is_prepared(path):
        raise DataError(
            f"{path} is a prepared atlas already. Give the counts that it was made from."
        )
    folder = scratch / f"rows_{number}"
    if is_mtx_folder(path):
        _no_layers(path, layer)
        return open_mtx(path, folder)
    if path.is_dir():
        return _open_zarr(path, layer, folder)
    with reading(str(path)):
        if not h5py.is_hdf5(path):
            if path.suffix in {".h5ad", ".h5"}:
                raise StoreError("it is not an HDF5 file")
            raise DataError(f"{path} is of no kind that can be read. Give {_KINDS}.")
        file = h5py.File(path, "r")
        if "obs" in file and "var" in file:
            opened = _open_anndata(file, path, layer, folder)
        else:
            _no_layers(path, layer)
            opened = open_10x_h5(file, path)
    opened.close = file.close
    return opened


def _open_memory(adata: AnnData, number: int, layer: str | None) -> Input:
    """Return an AnnData in memory as an input."""
    if is_prepared(adata):
        raise DataError("This AnnData is a prepared atlas already. Give the original counts.")
    if layer is not None and layer not in adata.layers:
        names = list(filter(None, adata.layers))
        raise no_such("layer", layer, names, f"AnnData {number}", "--layer")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise DataError(f"AnnData {number} has no X. Name the layer that holds the counts.")
    obs, var = adata.obs.copy(), adata.var.copy()
    obsm = embeddings_of(adata.obsm)
    return Input(f"AnnData {number}", f"input{number}", obs, var, SlicedMatrix(matrix), obsm=obsm)


def _open_zarr(path: Path, layer: str | None, folder: Path) -> Input:
    """Return an AnnData Zarr store, of version 2 or 3, as an input."""
    if not any((path / marker).is_file() for marker in ("zarr.json", ".zgroup")):
        raise DataError(f"The folder {path} is of no kind that can be read. Give {_KINDS}.")
    with reading(str(path)):
        root = zarr.open_group(path, mode="r")
        if "obs" not in root or "var" not in root:
            raise StoreError("it has no obs or no var")
        return _open_anndata(root, path, layer, folder)


def _open_anndata(root: Any, path: Path, layer: str | None, folder: Path) -> Input:
    """Return an AnnData on disk as an input."""
    from anndata.io import read_elem

    layers = list(root["layers"]) if "layers" in root else []
    if layer is not None and layer not in layers:
        raise no_such("layer", layer, layers, str(path), "--layer")
    key = "X" if layer is None else f"layers/{layer}"
    if key not in root:
        raise DataError(f"{path} has no X. Name the layer that holds the counts.")
    matrix = _matrix(root[key], folder)
    obs, var = read_elem(root["obs"]), read_elem(root["var"])
    obsm = embeddings_of(root["obsm"]) if "obsm" in root else {}
    return Input(str(path), path.stem, obs, var, matrix, obsm=obsm)


def _matrix(element: Any, folder: Path) -> Matrix:
    """Return the matrix that an element holds, by its encoding."""
    if isinstance(element, h5py.Dataset | zarr.Array):
        return DenseMatrix(element)
    attributes = dict(element.attrs)
    # Files from before anndata 0.7 have the second names.
    encoding = str(attributes.get("encoding-type", attributes.get("h5sparse_format", "")))
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    if encoding not in {"csr_matrix", "csc_matrix", "csr", "csc"} or shape is None:
        raise StoreError(f"its matrix has the encoding {encoding!r}, neither CSR, CSC nor dense")
    n_obs, n_vars = int(shape[0]), int(shape[1])
    arrays = element["data"], element["indices"], element["indptr"]
    if encoding.startswith("csr"):
        return CsrMatrix(*arrays, (n_obs, n_vars))
    columns = CsrMatrix(*arrays, (n_vars, n_obs))
    n_entries = int(columns.indptr[-1])
    return csr_on_disk(_by_column(columns), (n_obs, n_vars), n_entries, columns.dtype, folder)


def _by_column(columns: CsrMatrix) -> Iterator[Entries]:
    """Yield the entries of a matrix stored by columns: its transpose, read by rows."""
    start = 0
    while start < columns.shape[0]:
        # As many columns as stay below the bound; a single one may exceed it.
        limit = columns.indptr[start] + _COLUMN_ENTRIES
        stop = max(start + 1, int(np.searchsorted(columns.indptr, limit, "right")) - 1)
        block = columns.read(slice(start, stop))
        genes = np.repeat(np.arange(start, stop, dtype=np.int32), np.diff(block.indptr))
        yield Entries(block.indices, genes, block.data)
        start = stop


def _no_layers(path: Path, layer: str | None) -> None:
    """Raise if a layer is asked of a 10x output."""
    if layer is not None:
        raise DataError(f"{path} is a 10x output, which has no layer {layer!r}. Leave --layer out.")

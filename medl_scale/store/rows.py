"""An AnnData store that grows by blocks of cells, on disk as Zarr v3 or HDF5.

Owns the layout of such a store; memory is a few chunks, however many cells there are. The prepared
atlas, whose layout serves training, is written elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import zarr
from zarr.codecs import BloscCodec

from medl_scale.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = ["RowBlock", "RowWriter"]

type Group = zarr.Group | Any
"""A Zarr or an HDF5 group; h5py has no types."""

_CHUNK = 65_536
_CHUNKS_A_SHARD = 16
_COMPRESSOR = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")


class RowBlock(NamedTuple):
    """Some cells: CSR counts and their annotation."""

    data: NDArray[np.uint16]
    """(nnz,) counts."""
    indices: NDArray[np.int32]
    """(nnz,) gene of each count, ascending within a cell."""
    row_sizes: NDArray[np.int64]
    """(m,) counts a cell."""
    names: NDArray[Any]
    """(m,) str, names of the cells."""
    codes: Mapping[str, NDArray[np.int32]]
    """Per categorical column, (m,) codes."""
    numbers: Mapping[str, NDArray[np.float32]]
    """Per numeric column, (m,) values."""


class RowWriter:
    """Writes cells block by block; `finish` completes the store.

    Parameters
    ----------
    root
        Empty root group of the store.
    var_names
        (n_vars,) names of the genes.
    levels
        Categorical columns of `obs` and their levels.
    numbers
        Numeric (float32) columns of `obs`.
    index_dtype
        Type of column indices and row pointers alike: SciPy fails on two.
    """

    def __init__(
        self,
        root: Group,
        var_names: Sequence[str],
        *,
        levels: Mapping[str, Sequence[str]],
        numbers: Sequence[str] = (),
        index_dtype: DTypeLike = np.int32,
    ) -> None:
        self._root = root
        self._n_vars = len(var_names)
        self._n_obs = 0
        self._nnz = 0
        _encode(root, "anndata", "0.1.0")
        self._x = _group(root, "X", "csr_matrix", "0.1.0")
        self._data = _Column(self._x, "data", np.uint16, encoding=None, in_shards=True)
        self._indices = _Column(self._x, "indices", index_dtype, encoding=None, in_shards=True)
        self._indptr = _Column(self._x, "indptr", index_dtype, encoding=None)
        self._indptr.append(np.zeros(1, dtype=index_dtype))
        self._most = int(np.iinfo(index_dtype).max)

        obs = _frame(root, "obs", [*levels, *numbers])
        self._names = _Column(obs, "_index", str, encoding="string-array")
        self._codes = {}
        for column, column_levels in levels.items():
            group = _group(obs, column, "categorical", "0.2.0")
            group.attrs["ordered"] = False
            _write(group, "categories", np.array(column_levels, dtype=object))
            self._codes[column] = _Column(group, "codes", _code_dtype(len(column_levels)))
        self._numbers = {column: _Column(obs, column, np.float32) for column in numbers}
        self._var = _frame(root, "var", [])
        _write(self._var, "_index", np.array(var_names, dtype=object))

    def append(self, block: RowBlock) -> None:
        """Add cells after those already written."""
        ends = self._nnz + np.cumsum(block.row_sizes)
        if ends.size and ends[-1] > self._most:
            raise StoreError(
                f"{ends[-1]:,} entries are more than the {self._most:,} that the row pointers count. "
                "Write them with int64 indices."
            )
        self._data.append(block.data)
        self._indices.append(block.indices)
        self._indptr.append(ends)
        self._names.append(block.names)
        for column, codes in block.codes.items():
            self._codes[column].append(codes)
        for column, values in block.numbers.items():
            self._numbers[column].append(values)
        self._nnz += int(block.row_sizes.sum())
        self._n_obs += block.row_sizes.size

    def finish(
        self,
        *,
        var: Mapping[str, NDArray[Any]],
        varm: Mapping[str, NDArray[Any]],
        uns: Mapping[str, Any],
    ) -> None:
        """Write what is still held, the genes' annotation and `uns`; nothing may be added after."""
        arrays = [self._data, self._indices, self._indptr, self._names]
        for array in (*arrays, *self._codes.values(), *self._numbers.values()):
            array.flush()
        shape = (self._n_obs, self._n_vars)
        self._x.attrs["shape"] = list(shape)
        for column, values in var.items():
            _write(self._var, column, values)
        _set_column_order(self._var, list(var))
        _write(self._root, "varm", dict(varm))
        _write(self._root, "uns", dict(uns))
        for empty in ("layers", "obsm", "obsp", "varp"):
            _write(self._root, empty, {})


class _Column:
    """A one-dimensional array that grows at its end, whole chunks (or shards) at a time.

    Arrays with a value per count lie in shards, where there are any: else chunks of 10 million
    cells would be a hundred thousand files.
    """

    def __init__(
        self,
        group: Group,
        name: str,
        dtype: Any,
        *,
        encoding: str | None = "array",
        in_shards: bool = False,
    ) -> None:
        self._held: list[NDArray[Any]] = []
        self._n_held = 0
        is_text = dtype is str
        self._step = _CHUNK * _CHUNKS_A_SHARD if in_shards else _CHUNK
        if isinstance(group, zarr.Group):
            self._array: Any = group.create_array(
                name,
                shape=(0,),
                chunks=(_CHUNK,),
                dtype=dtype,
                shards=(self._step,) if in_shards else None,
                compressors="auto" if is_text else _COMPRESSOR,
            )
        else:
            self._array = group.create_dataset(
                name,
                shape=(0,),
                maxshape=(None,),
                chunks=(_CHUNK,),
                dtype=h5py.string_dtype() if is_text else dtype,
                compression=None if is_text else "lzf",
                shuffle=None if is_text else True,
            )
        if encoding is not None:
            _encode(self._array, encoding, "0.2.0")

    def append(self, values: NDArray[Any]) -> None:
        """Hold `values`, and write as many whole steps as are held."""
        self._held.append(values)
        self._n_held += values.size
        if self._n_held >= self._step:
            self._write(self._n_held // self._step * self._step)

    def flush(self) -> None:
        """Write everything held."""
        self._write(self._n_held)

    def _write(self, n: int) -> None:
        """Write the first `n` values held."""
        if n == 0:
            return
        values = np.concatenate(self._held)
        start = self._array.shape[0]
        self._array.resize((start + n,))
        self._array[start : start + n] = values[:n]
        self._held = [values[n:].copy()]
        self._n_held -= n


def _encode(node: Any, kind: str, version: str) -> None:
    """Mark a group or array with the kind anndata reads it as."""
    node.attrs["encoding-type"] = kind
    node.attrs["encoding-version"] = version


def _group(parent: Group, name: str, kind: str, version: str) -> Any:
    """Create a group of one of anndata's kinds."""
    group = parent.create_group(name)
    _encode(group, kind, version)
    return group


def _frame(parent: Group, name: str, columns: list[str]) -> Any:
    """Create the group of a data frame whose index is the array `_index`."""
    group = _group(parent, name, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    _set_column_order(group, columns)
    return group


def _set_column_order(frame: Group, columns: list[str]) -> None:
    """Say which columns a data frame has, in order."""
    # HDF5 attributes hold arrays, Zarr's are JSON.
    order: Any = np.array(columns, dtype=h5py.string_dtype())
    frame.attrs["column-order"] = list(columns) if isinstance(frame, zarr.Group) else order


def _write(parent: Group, name: str, value: Any) -> None:
    """Write a small element as anndata does."""
    from anndata.io import write_elem

    write_elem(parent, name, value)


def _code_dtype(n_levels: int) -> type[np.signedinteger[Any]]:
    """Smallest signed integer type that holds the codes of `n_levels` levels and -1."""
    for dtype in (np.int8, np.int16):
        if n_levels <= np.iinfo(dtype).max:
            return dtype
    return np.int32

"""The two places rows come from: a prepared store, read by annbatch, and memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, override

import numpy as np
import zarr
from scipy import sparse

from medl_scale.errors import AtlasError, StoreError
from medl_scale.store.access import many_requests, named_errors, zarr_store
from medl_scale.store.atlas import describe
from medl_scale.store.places import as_place, is_url
from medl_scale.store.shard_indices import StoreWithIndices
from medl_scale.stream.cache import CachedSource
from medl_scale.stream.contract import CsrRows, Source
from medl_scale.stream.runs import row_numbers

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from medl_scale.store.atlas import AtlasRef

__all__ = ["DiskSource", "MemorySource", "open_source"]

_ZARRS = "zarrs.ZarrsCodecPipeline"


def open_source(ref: AtlasRef, *, cache_memory: int = 0) -> Source:
    """Open a prepared atlas for reading rows.

    Parameters
    ----------
    ref
        A prepared store on disk or at a URL, or a prepared AnnData in memory.
    cache_memory
        Bytes of decoded rows to keep; of no use, and ignored, for an AnnData in memory. It matters
        most for a URL, where every row that is kept saves requests to a server.

    Raises
    ------
    AtlasError
        If `ref` is not a prepared atlas.
    StoreError
        If the store is damaged, or out of reach.
    """
    describe(ref)
    if not isinstance(ref, str | os.PathLike):
        return MemorySource(ref.X)
    source = DiskSource(ref)
    return CachedSource(source, cache_memory) if cache_memory > 0 else source


class DiskSource(Source):
    """CSR rows of an AnnData Zarr store, on disk or at a URL.

    Notes
    -----
    annbatch reads, with zarrs as codec pipeline on disk. zarrs knows files only, so that Zarr's own
    pipeline reads from URLs: it asks for what all runs need at once, joins requests for neighbouring
    chunks, and finds the shards' indices in memory after the first time. annbatch's `Loader` is asked for the rows directly, at
    the point where its iterator asks too: that iterator goes on to make a SciPy matrix (which
    widens 16-bit columns) and to copy rows out of it. That takes about 20 % of the time for runs
    of 256 rows and 33 % for runs of 1,024, and `densify` needs neither. `_index_datasets` is not
    public: annbatch is pinned below 0.4, and the tests compare every row with what was written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from annbatch import Loader
        from anndata.io import sparse_dataset
        from zarr.core.sync import sync

        self.path = as_place(path)
        self._sync = sync
        pipeline = zarr.config.get("codec_pipeline.path") if is_url(self.path) else _ZARRS
        with self._named_errors(), zarr.config.set({"codec_pipeline.path": pipeline}):
            matrix = sparse_dataset(_opened(self.path)["X"])
            self._loader: Any = Loader(preload_to_gpu=False).add_dataset(matrix)
            # Opens the arrays now, while the codec pipeline is set, and reads indptr whole.
            sync(self._loader._ensure_sparse_cache())
            arrays = self._loader._sparse_dataset_elem_cache[0]
        self.n_obs, self.n_vars = map(int, matrix.shape)
        self._check(arrays)

    @override
    def _read(self, runs: list[slice]) -> CsrRows:
        rows = row_numbers(runs)
        if rows.size == 0:
            arrays = self._loader._sparse_dataset_elem_cache[0]
            no_data, no_indices = (np.empty(0, a.dtype) for a in (arrays.data, arrays.indices))
            return CsrRows(no_data, no_indices, np.zeros(1, np.int64))
        with self._named_errors(), many_requests(self.path):
            found = self._sync(self._loader._index_datasets(OrderedDict({0: rows})))
        data, indices, indptr = found.elems
        return CsrRows(data, indices, indptr.astype(np.int64, copy=False))

    @override
    def close(self) -> None:
        self._loader = None

    def _check(self, arrays: Any) -> None:
        """Raise unless the lengths of the store's three arrays agree."""
        indptr = arrays.indptr
        stored = {int(arrays.data.shape[0]), int(arrays.indices.shape[0])}
        rising = indptr[0] == 0 and bool(np.all(indptr[1:] >= indptr[:-1]))
        if indptr.size != self.n_obs + 1 or not rising or stored != {int(indptr[-1])}:
            raise StoreError(
                f"The matrix of {self.path} is damaged: its rows and its values do not agree in "
                "number. Copy the store again, or prepare it again."
            )

    def _named_errors(self) -> AbstractContextManager[None]:
        """Turn what a damaged or unreachable store raises into a `StoreError` that names it."""
        return named_errors(self.path)


def _opened(place: str) -> zarr.Group:
    """Open a store whose matrix will be read again and again, and does not change meanwhile."""
    store = zarr_store(place)
    kept = store if isinstance(store, str) else StoreWithIndices(store)
    return zarr.open_group(kept, mode="r")


class MemorySource(Source):
    """CSR rows of a matrix in memory."""

    def __init__(self, matrix: Any) -> None:
        if isinstance(matrix, np.ndarray):
            matrix = sparse.csr_array(matrix)
        if not sparse.issparse(matrix):
            raise AtlasError(
                f"X must be a sparse matrix or an array in memory; found {type(matrix).__name__}. "
                "Use adata.to_memory(), or give the path of a prepared store."
            )
        self._matrix: Any = matrix.tocsr()
        self.n_obs, self.n_vars = map(int, matrix.shape)

    @override
    def close(self) -> None:
        self._matrix = None

    @override
    def _read(self, runs: list[slice]) -> CsrRows:
        data, indices, indptr = self._matrix.data, self._matrix.indices, self._matrix.indptr
        limits = [slice(int(indptr[rows.start]), int(indptr[rows.stop])) for rows in runs]
        lengths = np.concatenate([np.diff(indptr[rows.start : rows.stop + 1]) for rows in runs])
        begins = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(lengths, out=begins[1:])
        if len(limits) == 1:
            return CsrRows(data[limits[0]], indices[limits[0]], begins)
        return CsrRows(
            np.concatenate([data[limit] for limit in limits]),
            np.concatenate([indices[limit] for limit in limits]),
            begins,
        )

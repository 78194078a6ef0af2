"""The small elements of an AnnData, in a store or in memory: manifest, obs columns and names.

Reads Zarr attributes and arrays directly: importing anndata would take longer than the reading.
The matrix is left to `stream`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast, override

import numpy as np
import zarr

from medl_scale.errors import AtlasError, StoreError
from medl_scale.store.access import exists, has_file, named_errors, open_group
from medl_scale.store.places import as_place, join
from medl_scale.store.seal import broken_files

if TYPE_CHECKING:
    import os
    from contextlib import AbstractContextManager
    from typing import Literal

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["MANIFEST_KEY", "Categorical", "DiskElements", "Elements", "MemoryElements"]

MANIFEST_KEY = "medl_scale"


class Categorical(NamedTuple):
    """A column of few values: `levels[codes]`, code -1 where missing."""

    codes: NDArray[np.integer[Any]]
    levels: list[str]


class Elements(ABC):
    """What can be asked of an AnnData without touching its matrix."""

    place: str
    """How errors call it."""

    @abstractmethod
    def manifest(self) -> Mapping[str, Any] | None:
        """Return `uns["medl_scale"]`, or None where there is none."""

    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return (n_obs, n_vars), after seeing that the matrix is whole."""

    @abstractmethod
    def categorical(self, key: str) -> Categorical:
        """Return a column of obs by its values."""

    @abstractmethod
    def numbers(self, key: str) -> NDArray[Any]:
        """Return a numeric column of obs, (n_obs,)."""

    @abstractmethod
    def names(self, axis: Literal["obs", "var"]) -> NDArray[np.object_]:
        """Return the names of cells or genes, str."""

    def changed(self, what: str) -> AtlasError:
        """Return the error of an atlas that no longer fits its manifest."""
        return AtlasError(f"{self.place} was changed since it was prepared: {what}. Prepare anew.")


class MemoryElements(Elements):
    """Elements of an AnnData in memory."""

    def __init__(self, adata: AnnData) -> None:
        self.adata = adata
        self.place = "This AnnData"

    @override
    def manifest(self) -> Mapping[str, Any] | None:
        manifest = self.adata.uns.get(MANIFEST_KEY)
        return manifest if isinstance(manifest, Mapping) else None

    @override
    def shape(self) -> tuple[int, int]:
        return int(self.adata.n_obs), int(self.adata.n_vars)

    @override
    def categorical(self, key: str) -> Categorical:
        import pandas as pd

        column = pd.Categorical(self._column(key))
        return Categorical(np.asarray(column.codes), [str(level) for level in column.categories])

    @override
    def numbers(self, key: str) -> NDArray[Any]:
        return np.asarray(self._column(key))

    @override
    def names(self, axis: Literal["obs", "var"]) -> NDArray[np.object_]:
        return np.asarray(getattr(self.adata, f"{axis}_names"), dtype=object)

    def _column(self, key: str) -> Any:
        """Return a column of obs."""
        if key not in self.adata.obs:
            raise self.changed(f"it has no obs[{key!r}]")
        return self.adata.obs[key]


class DiskElements(Elements):
    """Elements of an AnnData Zarr v3 store, on disk or at a URL."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.place = self.path = as_place(path)
        self.root = self._open()

    @override
    def manifest(self) -> Mapping[str, Any] | None:
        with self._named_errors():
            group = self.root.get(f"uns/{MANIFEST_KEY}")
            if not isinstance(group, zarr.Group):
                return None
            return {name: array[()] for name, array in group.arrays()}

    @override
    def shape(self) -> tuple[int, int]:
        for name in ("X", "obs", "var"):
            self._check_seal(name)
        shape = cast("list[int]", self.root["X"].attrs["shape"])
        return int(shape[0]), int(shape[1])

    @override
    def categorical(self, key: str) -> Categorical:
        column = self._column(key)
        with self._named_errors():
            if isinstance(column, zarr.Group) and "codes" in column:
                levels = _strings(column["categories"])
                return Categorical(_read(column["codes"]), [str(level) for level in levels])
            values, codes = np.unique(_strings(column), return_inverse=True)
            return Categorical(codes, [str(value) for value in values])

    @override
    def numbers(self, key: str) -> NDArray[Any]:
        column = self._column(key)
        with self._named_errors():
            return _read(column)

    @override
    def names(self, axis: Literal["obs", "var"]) -> NDArray[np.object_]:
        with self._named_errors():
            group = self.root[axis]
            return _strings(cast("zarr.Group", group)[str(group.attrs["_index"])])

    def _open(self) -> zarr.Group:
        """Open the store for reading."""
        advice = f"Make one with `medl-scale prepare {self.path} -o atlas.zarr --batch-key ...`."
        if not has_file(self.path, "zarr.json"):
            if not exists(self.path):
                raise AtlasError(f"{self.path} does not exist. Give the place of a prepared atlas.")
            raise AtlasError(f"{self.path} is not a prepared atlas: no Zarr v3 store. {advice}")
        with self._named_errors():
            return open_group(self.path, zarr_format=3)

    def _column(self, key: str) -> zarr.Group | zarr.Array[Any]:
        """Return a column of obs."""
        with self._named_errors():
            column = self.root.get(f"obs/{key}")
        if column is None:
            raise self.changed(f"it has no obs[{key!r}]")
        return column

    def _check_seal(self, name: str) -> None:
        """Raise if files that were there when the atlas was written are missing or shorter."""
        with self._named_errors():
            broken = broken_files(join(self.path, name))
        if broken:
            listed = ", ".join(f"{name}/{file}" for file in broken[:3])
            raise StoreError(
                f"The store {self.path} is truncated: {len(broken):,} of its files are missing or "
                f"too short, such as {listed}. Copy it again, or prepare it again."
            )

    def _named_errors(self) -> AbstractContextManager[None]:
        """Turn what a damaged or unreachable store raises into a `StoreError` that names it."""
        return named_errors(self.path)


def _read(array: Any) -> NDArray[Any]:
    """Return a whole Zarr array."""
    return np.asarray(array[:])


def _strings(member: Any) -> NDArray[np.object_]:
    """Return an array of strings, stored plainly or beside a mask of missing values."""
    values = _read(member["values"] if isinstance(member, zarr.Group) else member)
    return np.array([str(value) for value in values], dtype=object)

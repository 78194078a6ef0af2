"""What any AnnData says of its cells beside their counts: the columns of obs, the embeddings in obsm.

The matrix is never opened, so that scoring an atlas costs no more than its latents.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr

from medl_scale.errors import DataError, StoreError
from medl_scale.store.access import exists, has_file, named_errors, open_group
from medl_scale.store.choices import no_such
from medl_scale.store.embeddings import embeddings_of
from medl_scale.store.places import as_place, is_url
from medl_scale.store.readers import check_chunks, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["Annotations"]


class Annotations:
    """Columns and embeddings of an AnnData: `.h5ad`, `.zarr`, `.zarr` at a URL, or in memory.

    Parameters
    ----------
    source
        A path, a URL, or an AnnData.

    Raises
    ------
    StoreError
        If there is nothing at a place, or it is truncated, damaged or out of reach.
    DataError
        If it holds no AnnData.
    """

    def __init__(self, source: str | os.PathLike[str] | AnnData) -> None:
        self.source = source
        self.place = as_place(source) if isinstance(source, str | os.PathLike) else "The AnnData"
        with self._opened() as root:
            self.obs: pd.DataFrame = _frame(root)
            self.widths = {
                key: int(array.shape[1]) for key, array in embeddings_of(_obsm(root)).items()
            }
            """Columns of each embedding, by its key in obsm."""

    def column(self, key: str, option: str) -> pd.Series:
        """Return a column of obs.

        Raises
        ------
        DataError
            If there is none of this name; those there are get listed.
        """
        if key not in self.obs:
            raise no_such("obs column", key, [str(name) for name in self.obs], self.place, option)
        return self.obs[key]

    def embedding(self, key: str, option: str = "--use-rep") -> NDArray[Any]:
        """Return `obsm[key]`, (n_obs, d) as stored.

        Raises
        ------
        DataError
            If there is no matrix of numbers of this name; those there are get listed.
        StoreError
            If it is truncated.
        """
        if key not in self.widths:
            raise no_such("embedding in obsm", key, sorted(self.widths), self.place, option)
        with self._opened() as root:
            array = _obsm(root)[key]
            check_chunks(array)
            return np.asarray(array[...])

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Yield the AnnData, or its root on disk."""
        if not isinstance(self.source, str | os.PathLike):
            yield self.source
            return
        if not exists(self.place):
            raise StoreError(
                f"{self.place} does not exist. Give an AnnData .h5ad or .zarr, or a run."
            )
        if is_url(self.place):
            if not any(has_file(self.place, marker) for marker in ("zarr.json", ".zgroup")):
                raise DataError(
                    f"{self.place} is no AnnData .zarr store, which is what is read from URLs. "
                    "Download it, and give its path."
                )
            with named_errors(self.place):
                yield open_group(self.place)
            return
        path = Path(self.place)
        with reading(str(path)):
            if path.is_dir():
                if not any((path / marker).is_file() for marker in ("zarr.json", ".zgroup")):
                    raise DataError(
                        f"The folder {path} is neither an AnnData .zarr store nor a run."
                    )
                yield zarr.open_group(path, mode="r")
            elif h5py.is_hdf5(path):
                with h5py.File(path, "r") as file:
                    yield file
            else:
                raise DataError(f"{path} is neither an AnnData .h5ad nor an AnnData .zarr store.")


def _frame(root: Any) -> pd.DataFrame:
    """Return obs."""
    from anndata import AnnData
    from anndata.io import read_elem

    if isinstance(root, AnnData):
        return root.obs
    if "obs" not in root:
        raise StoreError("it has no obs")
    frame: pd.DataFrame = read_elem(root["obs"])
    return frame


def _obsm(root: Any) -> Any:
    """Return obsm, unread."""
    if hasattr(root, "obsm"):
        return root.obsm
    return root.get("obsm", {})

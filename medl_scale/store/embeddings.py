"""Embeddings that inputs bring along (`obsm`), carried into the atlas in its own order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import zarr
    from numpy.typing import NDArray

    from medl_scale.progress import Progress
    from medl_scale.store.inputs import Inputs

__all__ = ["embeddings_of", "write_embeddings"]

ROWS = 65_536


def embeddings_of(obsm: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an `obsm` is a matrix of numbers: arrays in memory or on disk, unread.

    Data frames and sparse matrices are none.
    """
    arrays = {key: obsm[key] for key in obsm}
    return {
        key: array
        for key, array in arrays.items()
        if hasattr(array, "dtype")
        and not hasattr(array, "tocsr")
        and len(array.shape) == 2
        and np.dtype(array.dtype).kind in "fiu"
    }


def write_embeddings(
    root: zarr.Group, inputs: Inputs, cells: NDArray[np.int64], progress: Progress
) -> None:
    """Write to `obsm` of an atlas the embeddings that all inputs have, with one width.

    Parameters
    ----------
    root
        The atlas.
    cells
        (n_rows,), which cell of the inputs each row of the atlas is.

    Notes
    -----
    One embedding at a time is in memory, as float32.
    """
    from anndata.io import write_elem

    per_input = [one.obsm for one in inputs.inputs]
    for key in sorted(set().union(*per_input)):
        arrays = [obsm[key] for obsm in per_input if key in obsm]
        widths = {array.shape[1] for array in arrays}
        if len(arrays) < len(per_input) or len(widths) > 1:
            progress.note(f"obsm['{key}'] is left out: not every input has it with one width.")
            continue
        everything = np.concatenate([np.asarray(array[...], np.float32) for array in arrays])
        chunks = (min(len(cells), ROWS), everything.shape[1])
        write_elem(root["obsm"], key, everything[cells], dataset_kwargs={"chunks": chunks})

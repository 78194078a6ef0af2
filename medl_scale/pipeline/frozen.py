"""The embedding that replaces the encoder of `me` (`fe_rep`): read from an atlas as training read it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import DataError
from medl_scale.store.access import named_errors, open_group

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medl_scale.pipeline.run import Run
    from medl_scale.store.atlas import Atlas, AtlasRef
    from medl_scale.train.fitted import FittedNetwork

    type Floats = NDArray[np.float32]

__all__ = ["FrozenLatents", "frozen_latents"]

BLOCK_ROWS = 65_536


class FrozenLatents:
    """Latents of an atlas' cells from elsewhere, standardised over the train split as in training.

    Parameters
    ----------
    array
        (n_obs, n_latent), in memory or on disk.
    train
        Rows of the train split.
    """

    def __init__(self, array: Any, train: tuple[slice, ...]) -> None:
        self._array = array
        n_rows, total = 0, np.zeros(array.shape[1])
        for block in self._read(train):
            n_rows += len(block)
            total += block.sum(axis=0, dtype=np.float64)
        mean = total / n_rows
        squares = np.zeros(array.shape[1])
        for block in self._read(train):
            squares += np.square(block - mean).sum(axis=0)
        sd = np.sqrt(squares / n_rows)
        sd[sd == 0.0] = 1.0
        self._mean, self._sd = mean.astype(np.float32), sd.astype(np.float32)

    def of(self, rows: NDArray[np.int64]) -> Floats:
        """Return the latents of some rows of the atlas, (m, n_latent) float32."""
        select = getattr(self._array, "oindex", self._array)
        return self._standardised(np.asarray(select[rows, :], np.float32))

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the latents of all rows, a block at a time."""
        for start in range(0, self._array.shape[0], BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, self._array.shape[0]))
            yield rows, self._standardised(np.asarray(self._array[rows], np.float32))

    def _standardised(self, values: Floats) -> Floats:
        """Return raw values as the model reads them."""
        if not np.isfinite(values).all():
            raise DataError(
                "The embedding that replaces the encoder (fe_rep) must be finite numbers; some cells "
                "have NaN or infinity. Give an embedding of every cell."
            )
        return (values - self._mean) / self._sd

    def _read(self, parts: tuple[slice, ...]) -> Iterator[Floats]:
        """Yield raw values of some rows, a block at a time."""
        for part in parts:
            for start in range(part.start, part.stop, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, part.stop)
                yield np.asarray(self._array[start:stop], np.float32)


def frozen_latents(
    run: Run, ref: AtlasRef, atlas: Atlas, model: FittedNetwork, fold: int
) -> FrozenLatents | None:
    """Return the latents that a model decodes in place of its own; None if it has an encoder.

    Raises
    ------
    DataError
        If the atlas lacks the embedding, or has another of its name.
    """
    n_latent = model.frozen_latent
    if n_latent is None:
        return None
    key, place = run.config.fe_rep, atlas.path or "the AnnData"
    found: Any
    if isinstance(ref, str | os.PathLike):
        with named_errors(ref):
            group: Any = open_group(ref)
            found = group.get("obsm", {})
    else:
        found = ref.obsm
    names = sorted(found.keys())
    if key not in names:
        listed = ", ".join(map(repr, names)) or "none"
        raise DataError(
            f"Model '{model.name}' of {run.path} decodes the embedding {key!r} (fe_rep) and has no "
            f"encoder: the cells need it in obsm of {place}, which has: {listed}. Add it, made by the "
            "method that made it for the run, or give the atlas that the run was made from."
        )
    array = found[key]
    if tuple(array.shape) != (atlas.n_obs, n_latent):
        raise DataError(
            f"The embedding {key!r} of {place} has shape {tuple(array.shape)}; model '{model.name}' of "
            f"{run.path} decodes ({atlas.n_obs:,}, {n_latent}). Give the atlas that the run was made "
            "from."
        )
    return FrozenLatents(array, atlas.split(fold).train)

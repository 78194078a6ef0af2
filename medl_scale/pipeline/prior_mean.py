"""Cells of an atlas encoded as if their batch were unknown: random effects at the prior mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.pipeline.cells import stream_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.store.atlas import AtlasRef
    from medl_scale.train.fitted import FittedModel

__all__ = ["encode_at_prior_mean"]

_BLOCK_ROWS = 4096
_UNKNOWN = -1


def encode_at_prior_mean(
    model: FittedModel, ref: AtlasRef, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the latent of some cells under no batch's effects.

    Parameters
    ----------
    model
        With one latent.
    ref
        The prepared atlas.
    rows
        (m,) cells, sorted; only stretches of rows that hold some are read.

    Returns
    -------
    (m, n_latent) float32.
    """
    ((key, n_latent),) = model.latent_sizes().items()
    found = np.empty((len(rows), n_latent), np.float32)
    if not len(rows):
        return found
    done = 0
    with stream_cells(ref, rows, model.vocabulary.transform, _BLOCK_ROWS) as made:
        for block in made:
            unknown = np.full(len(block.rows), _UNKNOWN, np.int32)
            found[done : done + len(block.rows)] = model.encode(block.x, unknown)[key]
            done += len(block.rows)
    return found

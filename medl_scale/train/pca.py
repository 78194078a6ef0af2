"""The PCA baseline: exact principal components of the train split from one streamed pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.stream.minibatches import blocks
from medl_scale.train.fitted import FittedPca

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from medl_scale.store.atlas import Columns, Split
    from medl_scale.stream.contract import Source
    from medl_scale.train.fitted import Vocabulary

__all__ = ["fit_pca"]

BLOCK_ROWS = 4096


def fit_pca(
    source: Source,
    columns: Columns,
    split: Split,
    vocabulary: Vocabulary,
    mean: NDArray[np.float32],
    n_latent: int,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> FittedPca:
    """Return the principal components of the train rows.

    Parameters
    ----------
    mean
        (n_vars,) mean of the transformed train values.
    n_latent
        Components to keep.
    advance
        Called with the number of cells seen.

    Raises
    ------
    ConfigError
        If there are fewer genes or train cells than components.

    Notes
    -----
    The covariance is gathered in float64 from blocks centred at the mean, and decomposed exactly:
    n_vars x n_vars numbers whatever the number of cells. Signs are fixed by making the largest
    loading of each component positive.
    """
    n_cells = sum(rows.stop - rows.start for rows in split.train)
    if n_latent > min(source.n_vars, n_cells):
        raise ConfigError(
            f"n_latent must be at most {min(source.n_vars, n_cells)} for PCA of {n_cells:,} train "
            f"cells x {source.n_vars:,} genes; got {n_latent}."
        )
    n_batches = len(vocabulary.batch_levels)
    scatter = np.zeros((source.n_vars, source.n_vars))
    sums = np.zeros((n_batches, source.n_vars))
    counts = np.zeros(n_batches)
    with blocks(source, columns, list(split.train), vocabulary.transform, BLOCK_ROWS) as found:
        for block in found:
            centred = block.x - mean
            scatter += centred.T @ centred
            np.add.at(counts, block.batch_codes, 1.0)
            order = np.argsort(block.batch_codes, kind="stable")
            present, starts = np.unique(block.batch_codes[order], return_index=True)
            sums[present] += np.add.reduceat(centred[order].astype(np.float64), starts, axis=0)
            advance(len(block.rows))
    shift = sums.sum(axis=0) / n_cells
    covariance = scatter / n_cells - np.outer(shift, shift)
    _, vectors = np.linalg.eigh(covariance)
    components = vectors[:, ::-1][:, :n_latent]
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(n_latent)])
    centres = (sums / np.maximum(counts, 1.0)[:, None]) @ components
    return FittedPca(mean, components.astype(np.float32), centres.astype(np.float32), vocabulary)

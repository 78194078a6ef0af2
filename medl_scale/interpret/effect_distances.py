"""How far batches are from each other by what their random effects do to cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medl_scale.interpret.moves import moves_of

if TYPE_CHECKING:
    from medl_scale.interpret.effects import OutputEffects

__all__ = ["effect_distances"]

_BLOCK_VALUES = 1 << 20


def effect_distances(effects: OutputEffects) -> pd.DataFrame:
    """Return how differently every two batches move the same cells in a model's output layer.

    Parameters
    ----------
    effects
        Of `output_effects`.

    Returns
    -------
    (n_batches, n_batches) symmetric: the root mean square, over genes and cells, of the difference of
    moves at the posterior mean, in s.d. of the gene.

    Notes
    -----
    A cell that is h before the effects moves by shift + scale * h. Over cells of mean m and s.d. s the
    squared difference of two batches is (d shift + m d scale)^2 + (s d scale)^2, so no cell is
    read. Effects of hidden layers, and with them what depends on the cell type, are not part of it.
    """
    n_batches, n_genes = len(effects.batches), len(effects.genes)
    squares = np.zeros((n_batches, n_batches))
    step = max(1, _BLOCK_VALUES // n_batches)
    for start in range(0, n_genes, step):
        moves = moves_of(effects, np.arange(start, min(start + step, n_genes)))
        both = np.concatenate([moves.move, moves.stretch], axis=1)
        norms = np.square(both).sum(axis=1)
        squares += norms[:, None] + norms - 2.0 * (both @ both.T)
    squares = np.maximum(squares + squares.T, 0.0) / (2 * n_genes)
    np.fill_diagonal(squares, 0.0)
    names = list(effects.batches)
    return pd.DataFrame(np.sqrt(squares), names, names)

"""Mean expression of groups of cells under other batches, without decoding a cell to its genes.

The output layer is affine, so the mean of what it makes is what it makes of the mean of its input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.interpret.folded import fold_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from medl_scale.train.fitted import FittedNetwork

    type Floats = NDArray[np.float32]
    type Codes = NDArray[np.int32]
    type Integers = NDArray[np.int64]

__all__ = ["AsIfMeans"]


class AsIfMeans:
    """Means of groups of cells as if from each of some batches, cells streaming by.

    Parameters
    ----------
    model
        A network with random effects, which are taken at their posterior means.
    groups, targets
        (n_moves,) group that is moved and batch that it is moved to.
    latents
        Returns the latents of cells by their rows, where the model does not encode them itself.

    Notes
    -----
    A network whose encoder reads the batch has it switched there too, as published.
    """

    def __init__(
        self,
        model: FittedNetwork,
        groups: Integers,
        targets: Integers,
        latents: Callable[[Integers], Floats] | None = None,
    ) -> None:
        self._model = model
        self._decoder = fold_decoder(model)
        self._targets = targets
        self._latents = latents
        order = np.argsort(groups, kind="stable")
        found, first = np.unique(groups[order], return_index=True)
        parts = np.split(order, first[1:]) if len(order) else []
        self._moves_of = dict(zip(found.tolist(), parts, strict=True))
        self._n = np.zeros(len(groups), np.int64)
        self._hidden = np.zeros((len(groups), self._decoder.output.kernel.shape[0]))

    def add(self, x: Floats, own: Codes, groups: Integers, rows: Integers) -> None:
        """Take in cells, (m, n_vars) as the model sees them, with own batches, groups and rows."""
        switches = bool(self._model.network.encoder_effects)
        latent = None
        if not switches:
            encode = self._model.engine.encode
            latent = encode(x, own) if self._latents is None else self._latents(rows)
        for group in np.unique(groups).tolist():
            cells = np.flatnonzero(groups == group)
            for move in self._moves_of.get(group, ()):
                target = int(self._targets[move])
                own_latent = (
                    self._model.engine.encode(x[cells], np.full(len(cells), target, np.int32))
                    if latent is None
                    else latent[cells]
                )
                hidden = self._decoder.hidden(own_latent, target)
                self._hidden[move] += hidden.sum(axis=0, dtype=np.float64)
                self._n[move] += len(cells)

    def mean(self, move: int) -> NDArray[np.float64]:
        """Return (n_vars,) mean expression of a group under a batch, in the model's units."""
        output, target = self._decoder.output, int(self._targets[move])
        # In the kernel's precision: to widen the kernel costs more than the product.
        hidden = (self._hidden[move] / self._n[move]).astype(np.float32)
        expression = hidden @ output.kernel * output.scale[target] + output.shift[target]
        return np.asarray(expression * self._model.vocabulary.transform.scale, np.float64)

"""Mean and variance of the expression of some cells as if they came from each of several batches.

The expression of a cell is never kept: either its squares are summed block by block, or, where there
are many cells, the covariance of the last hidden activations is, from which the output layer, being
affine, gives the variance of every gene.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from medl_scale.interpret.folded import FoldedDecoder

    type Floats = NDArray[np.float32]

__all__ = ["GroupMoments", "group_moments"]


class GroupMoments(NamedTuple):
    """Of log-normalised expression over the cells of one group, by target batch."""

    mean: Floats
    """(n_targets, n_vars)."""
    variance: Floats
    """(n_targets, n_vars), between cells, of the cells there are (divided by n)."""


def group_moments(
    decoder: FoldedDecoder,
    chunks: Callable[[], Iterable[Floats]],
    n_cells: int,
    targets: Sequence[int],
) -> GroupMoments:
    """Decode a group of cells under each target batch, and return the moments over its cells.

    Parameters
    ----------
    decoder
        Of a trained network.
    chunks
        Returns the group's latents, (m, n_latent) float32 at a time; called once a target, by
        several threads.
    n_cells
        Cells that the chunks hold together, >= 1.
    targets
        Codes of the target batches.

    Notes
    -----
    With H activations and G genes, decoding costs n * H * G multiplications; the covariance and what
    it gives, n * H^2 / 2 + H^2 * G. The second is taken where it is less. Both are exact but for
    float32 rounding. Targets are shared out among numba's number of threads, each multiplying alone:
    threads of BLAS that wait for one another would take the cores from whoever else works.
    """
    from threadpoolctl import threadpool_limits

    kernel = decoder.output.kernel
    width, n_vars = kernel.shape
    variance_of = _by_output
    if n_cells * (n_vars - width // 2) > width * n_vars:
        variance_of = _by_covariance

    def one(target: int) -> tuple[Floats, Floats]:
        hidden = (decoder.hidden(latent, target) for latent in chunks())
        return variance_of(hidden, kernel, n_cells)

    with threadpool_limits(1, user_api="blas"):
        hidden_mean, variance = map(np.stack, zip(*in_threads(one, targets), strict=True))
        mean = hidden_mean @ kernel
    rows = np.asarray(targets)
    scale = decoder.output.scale[rows]
    mean *= scale
    mean += decoder.output.shift[rows]
    return GroupMoments(mean, np.maximum(variance, 0.0) * np.square(scale))


def _by_output(blocks: Iterable[Floats], kernel: Floats, n_cells: int) -> tuple[Floats, Floats]:
    """Return the mean of activations and the variance of what the kernel makes of them, decoded."""
    centred = _Centred(blocks, len(kernel))
    squares = np.zeros(kernel.shape[1])
    for block in centred:
        output = block @ kernel
        squares += np.einsum("ng,ng->g", output, output)
    offset = centred.total / n_cells
    variance = squares / n_cells - np.square(offset @ kernel)
    return (centred.centre + offset).astype(np.float32), variance.astype(np.float32)


def _by_covariance(blocks: Iterable[Floats], kernel: Floats, n_cells: int) -> tuple[Floats, Floats]:
    """Return the same by the covariance of the activations."""
    centred = _Centred(blocks, len(kernel))
    products = np.zeros((len(kernel), len(kernel)))
    for block in centred:
        products += block.T @ block
    offset = centred.total / n_cells
    covariance = (products / n_cells - np.outer(offset, offset)).astype(np.float32)
    variance = np.einsum("hg,hg->g", covariance @ kernel, kernel)
    return (centred.centre + offset).astype(np.float32), variance


class _Centred:
    """Blocks less the mean of the first, so that little is lost in the difference of squares."""

    def __init__(self, blocks: Iterable[Floats], width: int) -> None:
        self.centre = np.zeros(width, np.float32)
        self.total = np.zeros(width)
        """Sum of what came, less the centre, so far."""
        self._blocks = blocks

    def __iter__(self) -> Iterator[Floats]:
        for place, block in enumerate(self._blocks):
            if place == 0:
                self.centre = block.mean(axis=0)
            own = block - self.centre
            self.total += own.sum(axis=0, dtype=np.float64)
            yield own

"""A minibatch that several processes hold: what each must ask of the others.

Every loss term is a mean over cells. A process computes it over its own cells, and the engine weighs
it by their share of the minibatch: the sum over processes is then the mean over all cells, and so is
its gradient. Only what is not linear in such means goes through here: moments, and counts of cells
that not every process knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Tensor = Any

__all__ = ["Across", "moments"]


@dataclass(frozen=True)
class Across:
    """What a process knows of the others during one training step."""

    total: Callable[[Tensor], Tensor]
    """Sum of a float32 tensor over processes; gradients flow through it. All must call it alike."""
    weight: Tensor
    """Scalar: own cells over those of all processes."""
    n_labelled: Tensor
    """Scalar: cells of all processes that have a label."""

    def mean(self, own: Tensor) -> Tensor:
        """Return the mean over all cells from that over the own ones."""
        return self.total(own * self.weight)


def moments(x: Tensor, across: Across | None, centre: Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over the cells of all processes.

    Parameters
    ----------
    x
        (m, width) of the own cells.
    across
        The other processes, or None.
    centre
        (width,) values near the mean, the same on all processes. The variance is a difference of
        squares from it, and loses the fewer digits the nearer it is.
    """
    from keras import ops

    mean, variance = ops.moments(x, axes=[0])
    if across is None:
        return mean, variance
    offset = mean - centre
    # (2, width) in one sum: each is a wait for the slowest process.
    both = across.mean(ops.stack([offset, variance + ops.square(offset)]))
    return centre + both[0], both[1] - ops.square(both[0])

"""What the TensorFlow engine does differently where several processes share a minibatch.

A process computes the gradient of its cells' share of the objective; the sum over processes is that
of the whole, and every process applies it to its own copy of the weights. Random effects are not part
of the graph: their gradients travel after it, one row for each batch present (`HostEffects.summed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from medl_scale.models.across import Across

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medl_scale.train.collective_tensorflow import TensorFlowPeers
    from medl_scale.train.engine import Feeds

    Tensor = Any

__all__ = ["Part", "Reduction", "part_of"]


class Part(NamedTuple):
    """A process's part of a minibatch, as its graph reads it."""

    weight: Tensor
    """Scalar: own cells over all."""
    n_labelled: Tensor
    """Scalar: labelled cells of all processes."""
    asks_to_stop: Tensor
    """Scalar: 1 if this process was told to end."""


def part_of(feeds: Feeds) -> Part | None:
    """Return the part that feeds are, or None for a whole minibatch."""
    import tensorflow as tf

    share = feeds.share
    if share is None:
        return None
    return Part(
        tf.constant(len(feeds.batch_codes) / len(share.batch_codes), tf.float32),
        tf.constant(share.n_labelled, tf.float32),
        tf.constant(share.asks_to_stop, tf.float32),
    )


@dataclass(frozen=True)
class Reduction:
    """The sums over processes in one step's graph."""

    peers: TensorFlowPeers
    part: Part

    @property
    def across(self) -> Across:
        """What networks ask of the other processes."""
        return Across(self.peers.total, self.part.weight, self.part.n_labelled)

    def gradients(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of the whole minibatch."""
        return self.peers.totals(own)

    def step(self, own: Sequence[Tensor], terms: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return gradients of all, and terms with the count of those who ask to stop.

        Parameters
        ----------
        own
            Gradients of the weights, of this process's share of the objective.
        terms
            (n_terms,) means over its cells.
        """
        import tensorflow as tf

        told = tf.concat([terms * self.part.weight, self.part.asks_to_stop[None]], axis=0)
        *summed, told = self.peers.totals([*own, told])
        return summed, told

"""What the TensorFlow engine does differently where several processes share a minibatch.

A process computes the gradient of its cells' share of the objective; the sum over processes is that
of the whole, and every process applies it to its own copy of the weights. Random effects travel as
one row for each batch present, whatever the number of cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.models.across import Across

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from medl_scale.train.collective_tensorflow import TensorFlowPeers
    from medl_scale.train.effects import EffectDraw
    from medl_scale.train.engine import Feeds

    Tensor = Any

__all__ = ["Part", "Reduction", "part_of", "summed_draw"]

ROW_BUCKET = 64
"""Rows of random effects are padded to a multiple of this, so that few graphs are made."""


class Part(NamedTuple):
    """A process's part of a minibatch, as its graph reads it."""

    weight: Tensor
    """Scalar: own cells over all."""
    n_labelled: Tensor
    """Scalar: labelled cells of all processes."""
    asks_to_stop: Tensor
    """Scalar: 1 if this process was told to end."""
    rows: Tensor
    """(m,) int32: place of each cell's batch among those present anywhere."""


def part_of(feeds: Feeds, draw: EffectDraw | None) -> tuple[Part | None, int]:
    """Return the part that feeds are, None for a whole minibatch, and how many effect rows travel."""
    import tensorflow as tf

    share = feeds.share
    if share is None:
        return None, 0
    n_rows = 0
    places = np.zeros(0, np.int32)
    if draw is not None:
        present = draw.present.rows
        places = np.searchsorted(present, feeds.batch_codes).astype(np.int32)
        n_rows = -(-len(present) // ROW_BUCKET) * ROW_BUCKET
    part = Part(
        tf.constant(len(feeds.batch_codes) / len(share.batch_codes), tf.float32),
        tf.constant(share.n_labelled, tf.float32),
        tf.constant(share.asks_to_stop, tf.float32),
        tf.constant(places),
    )
    return part, n_rows


def summed_draw(
    draw: EffectDraw, gradients: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> tuple[EffectDraw, dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
    """Return a draw and its gradients as `HostEffects.update` takes them, one row a batch."""
    n_rows = len(draw.present.rows)
    cut = {layer: (scale[:n_rows], shift[:n_rows]) for layer, (scale, shift) in gradients.items()}
    return replace(draw, present=draw.present.summed()), cut


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

    def step(
        self,
        own: Sequence[Tensor],
        effects: Mapping[str, tuple[Tensor, Tensor]],
        terms: Tensor,
        n_rows: int,
    ) -> tuple[list[Tensor], dict[str, tuple[Tensor, Tensor]], Tensor]:
        """Return gradients, effect gradients by row, and terms with the count of those who ask to stop.

        Parameters
        ----------
        own
            Gradients of the weights, of this process's share of the objective.
        effects
            Per layer the gradients of its cells' (scale, shift), (m, width) each.
        terms
            (n_terms,) means over its cells.
        n_rows
            Rows that the effects' gradients are summed into.
        """
        import tensorflow as tf

        rows = [
            tf.math.unsorted_segment_sum(gradient, self.part.rows, n_rows)
            for pair in effects.values()
            for gradient in pair
        ]
        told = tf.concat([terms * self.part.weight, self.part.asks_to_stop[None]], axis=0)
        *summed, told = self.peers.totals([*own, *rows, told])
        pairs = iter(summed[len(own) :])
        by_layer = {layer: (next(pairs), next(pairs)) for layer in effects}
        return summed[: len(own)], by_layer, told

"""The terms that objectives are made of; each a mean over the cells of a minibatch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medl_scale.models.across import Across

    Tensor = Any

__all__ = ["between_batch_trace", "cross_entropy", "gaussian_kl", "mean_squared_error"]

LOG_PROBABILITY_FLOOR = math.log(1e-7)
"""Keras clips softmax probabilities at 1e-7 before the logarithm."""


def mean_squared_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the squared error averaged over cells *and* genes.

    Notes
    -----
    The papers' formula sums over genes; their code averages, and the published weights belong to
    the average.
    """
    from keras import ops

    return ops.mean(ops.square(reconstruction - x))


def cross_entropy(logits: Tensor, codes: Tensor, across: Across | None = None) -> Tensor:
    """Return the categorical cross-entropy of (m, n_classes) logits, in nats.

    Cells with a negative code (unlabelled) do not count; without any labelled cell the loss is 0.
    Where codes may be negative, `across` tells how many other processes have labelled.

    Notes
    -----
    Each cell's loss is bounded at -log(1e-7), and has no gradient beyond, as in the papers' code:
    it keeps an objective from which this term is subtracted bounded below.
    """
    from keras import ops

    known = ops.cast(codes >= 0, logits.dtype)
    log_probabilities = ops.maximum(ops.log_softmax(logits), LOG_PROBABILITY_FLOOR)
    index = ops.expand_dims(ops.maximum(codes, 0), -1)
    picked = ops.take_along_axis(log_probabilities, index, axis=-1)[:, 0]
    total = -ops.sum(picked * known)
    if across is None:
        return total / ops.maximum(ops.sum(known), 1.0)
    # The engine will weigh this by the share of cells, which is not the share of labelled ones.
    return total / (ops.maximum(across.n_labelled, 1.0) * across.weight)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)), summed over units, averaged over cells."""
    from keras import ops

    per_unit = ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance
    return 0.5 * ops.mean(ops.sum(per_unit, axis=1))


def between_batch_trace(
    latent: Tensor, batch_codes: Tensor, n_batches: int, across: Across | None = None
) -> Tensor:
    """Return trace(between-batch covariance @ inverse covariance) of (m, d) latents.

    A closed-form linear adversary: 0 when all batch means agree, at most d.
    """
    from keras import ops

    n_latent = latent.shape[1]
    mean = ops.mean(latent, axis=0)
    centred = latent - (mean if across is None else across.mean(mean))
    scatter = ops.matmul(ops.transpose(centred), centred)
    sizes = ops.segment_sum(ops.ones_like(latent[:, :1]), batch_codes, num_segments=n_batches)
    sums = ops.segment_sum(centred, batch_codes, num_segments=n_batches)
    if across is not None:
        scatter = across.total(scatter)
        both = across.total(ops.concatenate([sums, sizes], axis=1))
        sums, sizes = both[:, :n_latent], both[:, n_latent:]
    n_cells = ops.sum(sizes)
    covariance = scatter / n_cells + 1e-4 * ops.eye(n_latent)
    # (n_batches, d): batch means weighted by the root of their share of the minibatch
    weighted = sums / ops.sqrt(ops.maximum(sizes, 1.0) * n_cells)
    solved = ops.solve(covariance, ops.transpose(weighted))
    return ops.sum(weighted * ops.transpose(solved))

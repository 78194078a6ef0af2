"""Random effects as TensorFlow Probability distributions: the only module that speaks to TFP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medl_scale.errors import MissingExtraError
from medl_scale.models.variational import PRIOR_SCALE

if TYPE_CHECKING:
    from medl_scale.models.variational import EffectTable

__all__ = ["posterior", "prior"]


def posterior(table: EffectTable, batch_code: int) -> Any:
    """Return the posterior of one batch's scales and shifts in one layer.

    Returns
    -------
    `tfp.distributions.Independent` of normals with event shape (2, width): scales, then shifts.
    """
    tfd = _distributions()
    normal = tfd.Normal(table.loc[:, batch_code], table.scale[:, batch_code])
    return tfd.Independent(normal, reinterpreted_batch_ndims=2)


def prior(width: int) -> Any:
    """Return the prior of one batch's scales and shifts in a layer, event shape (2, width)."""
    import numpy as np

    tfd = _distributions()
    zeros = np.zeros((2, width), np.float32)
    return tfd.Independent(tfd.Normal(zeros, PRIOR_SCALE), reinterpreted_batch_ndims=2)


def _distributions() -> Any:
    """Return `tfp.distributions`, or say how to get it."""
    try:
        import tensorflow_probability

        # It looks for TensorFlow when it is first asked for anything.
        return tensorflow_probability.distributions
    except ImportError as error:
        raise MissingExtraError(
            "Posteriors as distributions need TensorFlow Probability. "
            "Install it: pip install tensorflow tensorflow-probability tf-keras"
        ) from error

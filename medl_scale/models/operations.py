"""What networks compute with: the operations of Keras, or a few of them in NumPy.

A trained network predicts on NumPy arrays without its framework being loaded, which would take longer
than most predictions do. The networks are written once, and ask here by what their values are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    type Floats = NDArray[np.float32]

__all__ = ["operations_for"]

_SELU_SCALE = np.float32(1.0507009873554805)
_SELU_FLOOR = np.float32(1.0507009873554805 * 1.6732632423543772)


class _NumpyOperations:
    """Those operations of `keras.ops` that prediction needs, on float32 arrays."""

    clip = staticmethod(np.clip)
    matmul = staticmethod(np.matmul)
    take = staticmethod(np.take)
    transpose = staticmethod(np.transpose)

    @staticmethod
    def rsqrt(x: Floats) -> Floats:
        """Return 1 / sqrt(x)."""
        return np.reciprocal(np.sqrt(x))

    @staticmethod
    def selu(x: Floats) -> Floats:
        """Return scale * x above 0, scale * alpha * (exp(x) - 1) below."""
        below = np.minimum(x, np.float32(0.0))
        np.expm1(below, out=below)
        below *= _SELU_FLOOR
        above = np.maximum(x, np.float32(0.0))
        above *= _SELU_SCALE
        above += below
        return above


_NUMPY = _NumpyOperations()


def operations_for(values: Iterable[Any], *, training: bool = False) -> Any:
    """Return `keras.ops`; for prediction its stand-in, if all of the values are NumPy arrays."""
    if not training and all(isinstance(value, np.ndarray) for value in values):
        return _NUMPY
    from keras import ops

    return ops

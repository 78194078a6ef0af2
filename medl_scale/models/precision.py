"""How matrix products of a training step are rounded; everything else is float32 in any case.

Weights, moments, statistics, activations between products, losses and random effects stay float32, so
that a checkpoint does not know in which precision it was trained.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    Tensor = Any

__all__ = ["ProductPrecision", "product", "products_in"]

type ProductPrecision = Literal["float32", "bf16"]

_precision: ContextVar[ProductPrecision] = ContextVar("product_precision", default="float32")


@contextmanager
def products_in(precision: ProductPrecision) -> Iterator[None]:
    """Let the products of graphs that are traced in this block round to a precision."""
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def product(ops: Any, a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, float32, by `keras.ops` or its stand-in.

    With `bf16` both factors and the result are rounded to 8 bits of mantissa; the sum between them
    is the hardware's, float32 on GPUs. So are the products of the gradient.
    """
    if _precision.get() == "float32":
        return ops.matmul(a, b)
    rounded = ops.matmul(ops.cast(a, "bfloat16"), ops.cast(b, "bfloat16"))
    return ops.cast(rounded, "float32")

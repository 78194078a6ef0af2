"""The grid that genes are laid on: its shape, and which of its pixels are in use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["grid_shape", "pixels_from_centre", "squared_radii"]


def grid_shape(n_genes: int, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (rows, columns) of a grid for `n_genes`: `shape` if it has room, else nearly a square.

    Raises
    ------
    ConfigError
        If there are fewer than two genes, or `shape` has too few pixels.
    """
    if n_genes < 2:
        raise ConfigError(f"A genomap needs at least 2 genes; got {n_genes}. Choose more genes.")
    columns = math.ceil(math.sqrt(n_genes))
    least = (math.ceil(n_genes / columns), columns)
    if shape is None:
        return least
    if min(shape) < 1 or shape[0] * shape[1] < n_genes:
        raise ConfigError(
            f"The grid must have a pixel for each of {n_genes:,} genes; got {shape[0]} x {shape[1]}. "
            f"Choose at least {least[0]} x {least[1]}, or leave the shape out."
        )
    return shape


def pixels_from_centre(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return all pixels, flat, from the centre outwards; the corners come last."""
    return np.argsort(squared_radii(shape), kind="stable")


def squared_radii(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return every pixel's squared distance from the pixel (rows // 2, columns // 2), (pixels,).

    That pixel is the published centre; where a side is even it lies half a pixel off the true one.
    """
    rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    squares: NDArray[np.int64] = (rows - shape[0] // 2) ** 2 + (columns - shape[1] // 2) ** 2
    return squares

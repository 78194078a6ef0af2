"""The nearest cells seen so far: a heap ordered by distance and then by row, so that ties have one answer."""

from __future__ import annotations

from typing import Any

import numba

__all__ = ["NO_ROW", "is_nearer", "offer", "sort_heap"]

NO_ROW = 2**63 - 1
"""Row of a place in the heap that no cell holds yet; its squared distance is infinite."""


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def is_nearer(square: Any, row: Any, other_square: Any, other_row: Any) -> Any:
    """Tell whether a cell comes before another one: by distance, then by row."""
    return square < other_square or (square == other_square and row < other_row)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def offer(squares: Any, rows: Any, square: Any, row: Any) -> None:
    """Put a cell in the place of the farthest one, squares[0], and restore the heap.

    The caller has seen that it is nearer.
    """
    _sink(squares, rows, squares.size, square, row)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def sort_heap(squares: Any, rows: Any) -> None:
    """Sort a heap in place, the nearest cell first."""
    for last in range(squares.size - 1, 0, -1):
        square, row = squares[last], rows[last]
        squares[last], rows[last] = squares[0], rows[0]
        _sink(squares, rows, last, square, row)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sink(squares: Any, rows: Any, size: Any, square: Any, row: Any) -> None:
    """Fill the hole at the top of a heap of `size` cells."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and is_nearer(squares[child], rows[child], squares[right], rows[right]):
            child = right
        if not is_nearer(square, row, squares[child], rows[child]):
            break
        squares[hole], rows[hole] = squares[child], rows[child]
        hole = child
    squares[hole], rows[hole] = square, row

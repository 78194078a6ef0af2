"""Threads of this process, for kernels that let go of the interpreter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numba

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["in_threads"]


def in_threads[T, R](function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return what a function gives for each item, in their order; numba's setting is the number of threads.

    Unlike numba's own parallel loops this compiles in no time, and hands the next item to whichever
    thread is free.
    """
    n_threads = min(numba.get_num_threads(), len(items))
    if n_threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))

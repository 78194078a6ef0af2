"""Work shared out among threads, each of which does its part alone.

The loops here are short: threads that part and meet again for each would wait for one another longer
than they work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

from medl_scale.evaluate.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["in_single_threads"]


def in_single_threads[T, R](function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return what a function gives for each item; what it calls runs on the thread that calls it."""

    def alone(item: T) -> R:
        n_threads = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return function(item)
        finally:
            numba.set_num_threads(n_threads)

    return list(in_threads(alone, items))

"""Calls that run side by side in threads of this process, their results in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["in_lanes"]


def in_lanes[T, R](function: Callable[[T], R], items: Sequence[T], n_lanes: int) -> Iterator[R]:
    """Yield what a function gives for each item, in their order, at most a few ahead of the reader.

    Each lane multiplies matrices alone: threads of BLAS that wait for one another would take the cores
    from the other lanes.
    """
    n_lanes = min(n_lanes, len(items))
    if n_lanes <= 1:
        yield from map(function, items)
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_lanes) as pool:
        ahead = deque(pool.submit(function, item) for item in items[: 2 * n_lanes])
        for item in items[2 * n_lanes :]:
            yield ahead.popleft().result()
            ahead.append(pool.submit(function, item))
        while ahead:
            yield ahead.popleft().result()

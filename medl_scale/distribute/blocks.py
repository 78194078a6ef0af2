"""Blocks of one large computation, carried to the workers of a Dask client.

The counterpart of `evaluate.blocks.map_here`: the same calls, results in the same order.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from medl_scale.errors import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client, Future

    from medl_scale.evaluate.blocks import BlockMap

__all__ = ["map_on_client"]

_MAX_DEATHS = 3
_NO_WORKER_S = 120.0
# Blocks sent ahead per worker, so that none waits for the results of others to be collected.
_AHEAD = 2


def map_on_client(client: Client) -> BlockMap:
    """Return a `BlockMap` whose calls run on the workers of a client.

    What all calls share is sent to each worker once. A block whose worker dies is computed again, at
    most twice.

    Raises
    ------
    WorkerLostError
        When the map is used: if a block's worker died three times, or no worker is left.
    """

    def map_blocks[S, I, R](
        function: Callable[[S, I], R], shared: S, items: Sequence[I]
    ) -> Iterator[R]:
        yield from _Blocks(client, function, shared, items).results()

    return map_blocks


class _Blocks:
    """The blocks of one call, some of them on their way."""

    def __init__(
        self, client: Client, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]
    ) -> None:
        self.client = client
        self.function = function
        self.shared = shared
        self.items = items
        self.sent: Future | None = None
        self.deaths = [0] * len(items)

    def results(self) -> Iterator[Any]:
        """Yield the result of every item, in order."""
        self._send_shared()
        ahead: deque[tuple[int, Future]] = deque()
        following = 0
        while ahead or following < len(self.items):
            while following < len(self.items) and len(ahead) < self._most_ahead():
                ahead.append((following, self._submit(following)))
                following += 1
            number, future = ahead.popleft()
            yield self._result(number, future)

    def _most_ahead(self) -> int:
        """Return how many blocks may be on their way."""
        n_threads: int = sum(self.client.nthreads().values())
        return max(1, _AHEAD * n_threads)

    def _send_shared(self) -> None:
        """Send what all calls share to every worker."""
        _wait_for_worker(self.client)
        (self.sent,) = self.client.scatter([self.shared], broadcast=True, hash=False)

    def _submit(self, number: int) -> Future:
        """Send one item."""
        return self.client.submit(
            self.function,
            self.sent,
            self.items[number],
            key=f"{self.function.__name__}-{number}-{time.monotonic_ns()}",
            pure=False,
        )

    def _result(self, number: int, future: Future) -> Any:
        """Return the result of a block, computing it again if its worker died."""
        from concurrent.futures import CancelledError

        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        while True:
            try:
                return future.result()
            except (KilledWorker, FutureCancelledError, CancelledError) as error:
                self.deaths[number] += 1
                if self.deaths[number] >= _MAX_DEATHS:
                    raise WorkerLostError(
                        f"Block {number + 1} of {len(self.items)} was lost {_MAX_DEATHS} times with its "
                        "worker: killed, or out of memory. Run fewer workers, or give each more memory."
                    ) from error
                # What was sent may have gone with the worker that held it.
                self._send_shared()
                future = self._submit(number)


def _wait_for_worker(client: Client) -> None:
    """Wait until there is a worker."""
    try:
        client.wait_for_workers(1, timeout=_NO_WORKER_S)
    except TimeoutError as error:
        raise WorkerLostError(
            f"The cluster has no worker, and none came within {_NO_WORKER_S:.0f} s. Start workers, or "
            "leave the client out."
        ) from error

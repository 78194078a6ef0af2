"""Items made ahead of their use by one thread."""

from __future__ import annotations

import threading
import time
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

__all__ = ["Prefetched"]


class _End:
    """What the thread sends last: the error that stopped it, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetched[T]:
    """An iterator over what `items` yields, up to `depth` items ahead of the consumer.

    An error of `items` is raised where the consumer asks for the item it prevented. The thread ends
    when the items do, on `close`, when the `with` block is left, and when nobody refers to the
    iterator any more. With a depth of 0 there is no thread.
    """

    def __init__(self, items: Generator[T], depth: int) -> None:
        self.wait_s = 0.0
        """Seconds that the consumer waited for items so far."""
        self._items = items
        self._queue: SimpleQueue[T | _End] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_over = False
        if depth > 0:
            # The thread must not refer to this object, or it would never be collected.
            self._thread = threading.Thread(
                target=_produce,
                args=(items, self._queue, self._room, self._stop),
                name="medl-prefetch",
                daemon=True,
            )
            weakref.finalize(self, _end, self._room, self._stop)
            self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._is_over:
            raise StopIteration
        started = time.perf_counter()
        try:
            if self._thread is None:
                return next(self._items)
            item = self._queue.get()
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_s += time.perf_counter() - started
        if isinstance(item, _End):
            self.close()
            if item.error is None:
                raise StopIteration
            raise item.error
        self._room.release()
        return item

    def close(self) -> None:
        """End the thread and what makes the items."""
        self._is_over = True
        if self._thread is None:
            self._items.close()
        else:
            _end(self._room, self._stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _end(room: threading.Semaphore, stop: threading.Event) -> None:
    """Tell the thread to end, and wake it if it waits for room."""
    stop.set()
    room.release()


def _produce[T](
    items: Generator[T],
    queue: SimpleQueue[T | _End],
    room: threading.Semaphore,
    stop: threading.Event,
) -> None:
    """Make items while there is room for them."""
    error: BaseException | None = None
    try:
        while True:
            room.acquire()
            if stop.is_set():
                break
            queue.put(next(items))
    except StopIteration:
        pass
    except BaseException as caught:  # noqa: BLE001  the consumer raises it
        error = caught
    finally:
        items.close()
        queue.put(_End(error))

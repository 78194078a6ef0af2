from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import pytest

from medl_scale.stream.prefetch import Prefetched

if TYPE_CHECKING:
    from collections.abc import Generator

DEPTHS = [0, 1, 3]


def threads() -> int:
    return sum(thread.name == "medl-prefetch" for thread in threading.enumerate())


def wait_until_gone() -> bool:
    end = time.monotonic() + 5
    while threads() and time.monotonic() < end:
        time.sleep(0.005)
    return threads() == 0


class Made:
    """Numbers, with a record of what was made and whether the generator was closed."""

    def __init__(self, n: int = 10, *, fails_at: int | None = None, seconds: float = 0) -> None:
        self.n, self.fails_at, self.seconds = n, fails_at, seconds
        self.count = 0
        self.is_closed = False

    def items(self) -> Generator[int]:
        try:
            for i in range(self.n):
                if i == self.fails_at:
                    raise ValueError(f"item {i} cannot be made")
                time.sleep(self.seconds)
                self.count += 1
                yield i
        finally:
            self.is_closed = True


@pytest.mark.parametrize("depth", DEPTHS)
def test_items_come_in_order_and_the_thread_ends_with_them(depth):
    made = Made(20)
    assert list(Prefetched(made.items(), depth)) == list(range(20))
    assert wait_until_gone()
    assert made.is_closed


@pytest.mark.parametrize("depth", DEPTHS)
def test_after_the_end_there_is_nothing_more(depth):
    items = Prefetched(Made(1).items(), depth)
    assert list(items) == [0]
    assert list(items) == []


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_error_reaches_the_consumer_after_the_items_before_it(depth):
    items = Prefetched(Made(fails_at=2).items(), depth)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="item 2 cannot be made") as caught:
        next(items)
    assert any(frame.name == "items" for frame in caught.traceback)
    assert list(items) == []
    assert wait_until_gone()


def use_until_it_fails(items: Prefetched[int]) -> None:
    with items:
        for item in items:
            if item == 3:
                raise KeyError(item)


@pytest.mark.parametrize("depth", DEPTHS)
def test_leaving_the_block_ends_thread_and_generator(depth):
    made = Made(10**6)
    with pytest.raises(KeyError):
        use_until_it_fails(Prefetched(made.items(), depth))
    assert threads() == 0
    assert made.is_closed
    assert made.count <= 4 + depth


@pytest.mark.parametrize("depth", DEPTHS)
def test_closing_twice_or_unused_is_no_error(depth):
    items = Prefetched(Made().items(), depth)
    items.close()
    items.close()
    assert threads() == 0
    assert list(items) == []


def test_the_thread_ends_when_nobody_refers_to_the_iterator():
    made = Made(10**6)
    items = Prefetched(made.items(), 2)
    next(items)
    assert threads() == 1
    del items
    gc.collect()
    assert wait_until_gone()
    assert made.is_closed


def test_no_more_is_made_ahead_than_the_depth():
    made = Made()
    with Prefetched(made.items(), 3) as items:
        next(items)
        end = time.monotonic() + 5
        while made.count < 4 and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.02)
        assert made.count == 4


def test_making_overlaps_with_using():
    made = Made(10, seconds=0.02)
    with Prefetched(made.items(), 2) as items:
        for _ in items:
            time.sleep(0.05)
        # All but the first were made while the consumer was busy.
        assert items.wait_s < 0.15


@pytest.mark.parametrize("depth", [0, 2])
def test_the_time_waited_is_counted(depth):
    items = Prefetched(Made(5, seconds=0.02).items(), depth)
    list(items)
    assert 0.09 < items.wait_s < 1

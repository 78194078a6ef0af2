from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from medl_scale.stream import CachedSource, CsrRows
from medl_scale.stream.contract import Source
from medl_scale.stream.runs import row_numbers
from medl_scale.stream.source import MemorySource

N_OBS = 100
MATRIX = sparse.random_array((N_OBS, 9), density=0.4, format="csr", rng=np.random.default_rng(0))


class Counting(Source):
    """Counts the rows that are read."""

    def __init__(self) -> None:
        self.inner = MemorySource(MATRIX)
        self.n_obs, self.n_vars = self.inner.n_obs, self.inner.n_vars
        self.read: list[int] = []
        self.requests = 0
        self.is_closed = False

    def _read(self, runs: list[slice]) -> CsrRows:
        self.requests += 1
        self.read += row_numbers(runs).tolist()
        return self.inner.fetch(runs)

    def close(self) -> None:
        self.is_closed = True


runs = st.lists(
    st.tuples(st.integers(0, N_OBS), st.integers(0, 40)).map(
        lambda at: slice(at[0], min(at[0] + at[1], N_OBS))
    ),
    max_size=5,
)


@given(st.lists(runs, max_size=6), st.integers(0, 6_000), st.integers(1, 40))
def test_any_budget_gives_the_same_rows_and_is_kept(requests, budget, run_size):
    cached = CachedSource(Counting(), budget, run_size)
    for wanted in requests:
        found, expected = cached.fetch(wanted), MATRIX[row_numbers(wanted)]
        assert np.array_equal(found.data, expected.data)
        assert np.array_equal(found.indices, expected.indices)
        assert np.array_equal(found.indptr, expected.indptr)
        assert cached.cached_bytes <= budget


@given(st.lists(runs, max_size=6), st.integers(1, 40))
def test_with_room_no_row_is_read_twice(requests, run_size):
    counting = Counting()
    cached = CachedSource(counting, 10**6, run_size)
    for wanted in requests:
        cached.fetch(wanted)
    assert len(counting.read) == len(set(counting.read))


def test_a_second_pass_reads_nothing():
    counting = Counting()
    cached = CachedSource(counting, 10**6, 16)
    cached.fetch([slice(0, N_OBS)])
    assert (cached.hits, cached.misses, counting.requests) == (0, 7, 1)
    cached.fetch([slice(50, 60), slice(3, 20)])
    assert (cached.hits, cached.misses, counting.requests) == (3, 7, 1)


def test_a_full_cache_keeps_what_came_first_and_reads_the_rest_exactly():
    counting = Counting()
    cached = CachedSource(counting, 2_000, 20)
    cached.fetch([slice(0, N_OBS)])
    kept = cached.cached_bytes
    assert 0 < kept <= 2_000
    counting.read.clear()
    for _ in range(3):
        cached.fetch([slice(0, 10), slice(85, 90)])
    assert counting.read == [85, 86, 87, 88, 89] * 3
    assert cached.cached_bytes == kept


def test_a_partial_run_fills_its_whole_block_while_there_is_room():
    counting = Counting()
    cached = CachedSource(counting, 10**6, 20)
    cached.fetch([slice(25, 30), slice(33, 35)])
    assert counting.read == list(range(20, 40))


def test_what_is_kept_is_not_a_view_of_what_was_read():
    cached = CachedSource(Counting(), 10**6, 20)
    cached.fetch([slice(0, N_OBS)])
    kept = cached._blocks[0]
    assert all(array.base is None for array in kept)


def test_what_is_asked_for_in_one_call_is_read_in_one_request():
    counting = Counting()
    CachedSource(counting, 1_500, 10).fetch([slice(70, 95), slice(3, 44), slice(71, 72)])
    assert counting.requests == 1


def test_closing_closes_the_source_and_lets_go_of_the_rows():
    counting = Counting()
    with CachedSource(counting, 10**6, 20) as cached:
        cached.fetch([slice(0, 30)])
    assert counting.is_closed
    assert not cached._blocks


def test_an_error_of_the_source_comes_through():
    class Failing(Counting):
        def _read(self, runs: list[slice]) -> CsrRows:
            raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        CachedSource(Failing(), 10**6, 20).fetch([slice(0, 3)])

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medl_scale.errors import ConfigError
from medl_scale.stream.runs import Stretches, row_numbers, sequential_runs

slices = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 60)).map(lambda at: slice(at[0], sum(at))),
    max_size=5,
)


@given(slices, st.integers(1, 50))
def test_blocks_hold_all_rows_in_order_and_only_the_last_is_short(wanted, block_rows):
    blocks = [row_numbers(block) for block in sequential_runs(wanted, block_rows)]
    rows = np.concatenate([np.empty(0, np.int64), *blocks])
    assert np.array_equal(rows, row_numbers(wanted))
    assert {block.size for block in blocks[:-1]} <= {block_rows}
    assert all(0 < block.size <= block_rows for block in blocks)


@given(slices.filter(bool), st.integers(1, 30))
def test_aligned_stretches_hold_all_rows_and_cross_no_border(wanted, run_size):
    runs = Stretches.aligned(wanted, run_size).runs
    assert np.array_equal(row_numbers(runs), row_numbers(wanted))
    assert all(
        rows.start // run_size == max(rows.stop - 1, rows.start) // run_size for rows in runs
    )


@given(slices.filter(bool), st.data())
def test_a_cut_holds_the_rows_between_its_ends(wanted, data):
    sequence = Stretches.aligned(wanted, 7)
    start = data.draw(st.integers(0, sequence.n_rows))
    stop = data.draw(st.integers(start, sequence.n_rows))
    rows = row_numbers(sequence.cut(start, stop).runs)
    assert np.array_equal(rows, row_numbers(wanted)[start:stop])


def test_blocks_without_rows_are_refused():
    with pytest.raises(ConfigError, match="block_rows must be at least 1; got 0"):
        next(sequential_runs([slice(0, 3)], 0))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medl_scale.evaluate.gpu.plan import (
    group_labels,
    kernel_for,
    launch_rows,
    segments_of,
    shards_of,
)

COUNTS = st.lists(st.integers(1, 400), min_size=2, max_size=30)


def starts_of(counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@given(counts=COUNTS, size=st.integers(1, 200))
def test_segments_cover_every_label_once_from_its_start_on(counts, size):
    starts = starts_of(counts)
    segments = segments_of(starts, size)
    labels, begins, sizes = segments.T
    assert begins[0] == 0
    np.testing.assert_array_equal(begins[1:], begins[:-1] + sizes[:-1])
    assert sizes.min() >= 1
    assert sizes.max() <= size
    assert begins[-1] + sizes[-1] == starts[-1]
    np.testing.assert_array_equal((begins - starts[labels]) % size, 0)
    assert np.all(begins + sizes <= starts[labels + 1])


@given(counts=COUNTS, size=st.integers(1, 200), most=st.integers(1, 2000))
def test_shards_are_runs_of_segments_within_the_memory(counts, size, most):
    segments = segments_of(starts_of(counts), size)
    shards = shards_of(segments, most)
    assert [shard.start for shard in shards[1:]] == [shard.stop for shard in shards[:-1]]
    assert (shards[0].start, shards[-1].stop) == (0, len(segments))
    for shard in shards:
        held = segments[shard, 2]
        assert len(held) == 1 or held.sum() <= most


@given(counts=COUNTS, size=st.integers(1, 200), n_groups=st.integers(1, 40))
def test_groups_are_whole_labels_in_order(counts, size, n_groups):
    segments = segments_of(starts_of(counts), size)
    groups = group_labels(segments, n_groups)
    assert (groups[0], groups[-1]) == (0, len(segments))
    assert len(groups) - 1 <= n_groups
    assert np.all(np.diff(groups) > 0)
    inner = groups[1:-1]
    assert np.all(segments[inner, 0] != segments[inner - 1, 0])
    assert groups.dtype == np.int32


def test_groups_have_about_as_many_references_each():
    counts = [1000] * 60
    groups = group_labels(segments_of(starts_of(counts), 64), 7)
    sizes = np.diff(groups) * 1000 / 16
    assert len(sizes) == 7
    assert sizes.max() - sizes.min() <= 1000


@pytest.mark.parametrize("d", [1, 2, 4, 5, 8, 9, 10, 11, 30, 50, 53, 128, 1000])
def test_few_dimensions_are_held_at_once_and_many_come_evenly_in_parts(d):
    kernel = kernel_for(d)
    assert kernel.is_wide == (d > 8)
    assert kernel.padded >= d
    if kernel.is_wide:
        # Two lanes of threads share the dimensions of a part.
        assert kernel.depth % 2 == 0
        assert kernel.padded % kernel.depth == 0
        assert kernel.padded - d <= 5
    else:
        assert kernel.block_rows % kernel.threads == 0
    assert f"-DD={d}" in kernel.options


@pytest.mark.parametrize("n", [10, 1_000_000, 10_000_000, 1_000_000_000])
@pytest.mark.parametrize("d", [2, 50, 5000])
@pytest.mark.parametrize("n_labels", [2, 1000, 10_000_000])
def test_a_launch_takes_whole_blocks_of_bounded_memory(n, d, n_labels):
    kernel = kernel_for(d)
    rows = launch_rows(kernel, n, n_labels)
    assert rows >= kernel.block_rows
    assert rows % kernel.block_rows == 0
    assert rows == kernel.block_rows or rows * d * 20 <= 2**28
    assert rows == kernel.block_rows or rows // kernel.block_rows * n_labels <= 2**28
    assert rows * n <= 2**41 or rows <= 65_536

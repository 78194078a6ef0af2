import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from medl_scale.evaluate.gpu.bounds import labels_in_reach
from medl_scale.evaluate.gpu.silhouette import label_moments
from tests.evaluate.gpu.cells import KINDS, draw_cells, sorted_cells


def reached_and_nearest(kind, n, d, n_labels, seed, block_rows):
    """Return the flags, and for each cell its own and nearest other label from all distances."""
    clusters = sorted_cells(*draw_cells(kind, n, d, n_labels, seed))
    points = clusters.points(slice(None))
    flags = labels_in_reach(
        points,
        clusters.codes,
        clusters.centres,
        label_moments(clusters),
        block_rows=block_rows,
        margin=1e-5,
        slack=1e-13,
        xp=np,
    )
    means = np.add.reduceat(cdist(points, points), clusters.starts[:-1], axis=1) / clusters.counts
    means[np.arange(n), clusters.codes] = np.inf
    return flags, clusters.codes, means.argmin(axis=1)


@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(20, 150),
    d=st.integers(1, 12),
    n_labels=st.integers(2, 9),
    seed=st.integers(0, 10_000),
    block_rows=st.sampled_from([1, 7, 64]),
)
@settings(max_examples=150, deadline=None)
def test_neither_the_own_nor_the_nearest_other_label_is_ever_skipped(
    kind, n, d, n_labels, seed, block_rows
):
    flags, own, nearest = reached_and_nearest(kind, n, d, n_labels, seed, block_rows)
    assert flags.dtype == np.uint8
    assert flags.shape == (-(-n // block_rows), n_labels)
    blocks = np.arange(n) // block_rows
    assert flags[blocks, own].all()
    assert flags[blocks, nearest].all()


@pytest.mark.parametrize("d", [2, 10])
def test_most_labels_of_separate_blobs_are_skipped(d):
    flags, _, _ = reached_and_nearest("blobs", 1500, d, 20, 0, 8)
    assert flags.mean() < 0.5


def test_flags_are_the_same_however_many_blocks_are_held(monkeypatch):
    whole = reached_and_nearest("blobs", 500, 3, 6, 1, 16)[0]
    monkeypatch.setattr("medl_scale.evaluate.gpu.bounds._HELD_VALUES", 1)
    np.testing.assert_array_equal(reached_and_nearest("blobs", 500, 3, 6, 1, 16)[0], whole)

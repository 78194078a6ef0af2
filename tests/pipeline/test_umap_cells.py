"""Which cells are drawn: shares, and none left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.errors import ConfigError
from medl_scale.pipeline.umap_cells import draw_cells


def codes(n, n_batches, n_labels, seed=0):
    rng = np.random.default_rng(seed)
    # Strata of very different sizes, and some cells without a label.
    batches = np.minimum(rng.geometric(0.4, n) - 1, n_batches - 1)
    labels = np.minimum(rng.geometric(0.3, n) - 1, n_labels - 1) - 1
    return batches.astype(np.int32), labels.astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3000),
    n_batches=st.integers(1, 12),
    n_labels=st.integers(1, 9),
    max_cells=st.integers(1, 3000),
    seed=st.integers(0, 5),
)
def test_every_combination_of_batch_and_label_is_drawn_in_its_share(
    n, n_batches, n_labels, max_cells, seed
):
    batches, labels = codes(n, n_batches, n_labels, seed)
    drawn = draw_cells(batches, labels, max_cells, seed)
    whole = np.unique(np.stack([batches, labels]), axis=1, return_counts=True)
    part = np.unique(np.stack([batches, labels])[:, drawn.rows], axis=1, return_counts=True)
    np.testing.assert_array_equal(whole[0], part[0])
    assert drawn.n_strata == whole[0].shape[1]
    assert len(drawn.rows) == min(n, max(max_cells, drawn.n_strata))
    assert (np.diff(drawn.rows) > 0).all()
    rest = (whole[1] - 1) * (len(drawn.rows) - drawn.n_strata) / max(1, n - drawn.n_strata)
    assert (np.abs(part[1] - 1 - rest) < 1 + 1e-9).all()


def test_the_draw_depends_on_the_seed_alone_and_is_told():
    batches, labels = codes(5000, 6, 4)
    one = draw_cells(batches, labels, 1000, 3)
    np.testing.assert_array_equal(one.rows, draw_cells(batches, labels, 1000, 3).rows)
    assert not np.array_equal(one.rows, draw_cells(batches, labels, 1000, 4).rows)
    assert one.in_words("pairs") == (
        f"1,000 of 5,000 cells, drawn at random (seed 3) from each of {one.n_strata} pairs in proportion "
        "to its cells, at least one of each"
    )
    assert draw_cells(batches, labels, 5000, 0).in_words("pairs") == "All 5,000 cells"


def test_no_cells_at_all_cannot_be_asked_for():
    with pytest.raises(ConfigError, match="max_cells must be at least 1; got 0"):
        draw_cells(*codes(10, 2, 2), 0, 0)

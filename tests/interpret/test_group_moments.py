"""Moments of a group are those of its cells, and groups are put together again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.errors import (
    DataError,
)
from medl_scale.interpret.group_moments import group_moments
from medl_scale.interpret.grouping import grouped_latents
from tests.interpret.decoders import random_decoder, rows_of


@settings(max_examples=30, deadline=None)
@given(n_cells=st.integers(1, 60), chunk=st.integers(1, 70), wide=st.booleans())
def test_moments_are_those_of_the_cells_decoded_whichever_way_is_cheaper(n_cells, chunk, wide):
    # Of 40 genes more than 7 cells go by the covariance; 4 genes never do.
    decoder = random_decoder(6, 40 if wide else 4)
    latent = np.random.default_rng(n_cells).normal(size=(n_cells, 4)).astype(np.float32)
    chunks = [part for _, part in rows_of(latent, chunk)]
    found = group_moments(decoder, lambda: iter(chunks), n_cells, [2, 0])
    for place, target in enumerate([2, 0]):
        cells = decoder.expression(latent, target).astype(np.float64)
        np.testing.assert_allclose(found.mean[place], cells.mean(axis=0), atol=2e-5)
        np.testing.assert_allclose(found.variance[place], cells.var(axis=0), rtol=1e-4, atol=1e-4)
    assert found.mean.dtype == found.variance.dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(
    groups=st.lists(st.integers(-1, 4), min_size=1, max_size=40),
    block=st.integers(1, 50),
    most=st.integers(1, 9),
)
def test_latents_come_back_by_group_in_their_order(tmp_path_factory, groups, block, most):
    codes = np.array(groups)
    latent = np.random.default_rng(0).normal(size=(len(codes), 3)).astype(np.float32)
    folder = tmp_path_factory.getbasetemp()
    with grouped_latents(rows_of(latent, block), codes, 5, 3, folder) as sorted_by_group:
        for group in range(5):
            chunks = list(sorted_by_group.chunks(group, most))
            assert all(len(chunk) <= most for chunk in chunks)
            expected = latent[codes == group]
            assert sorted_by_group.counts[group] == len(expected)
            np.testing.assert_array_equal(np.concatenate([*chunks, latent[:0]]), expected)


def test_missing_latents_are_counted(tmp_path):
    latent = np.zeros((6, 3), np.float32)
    with (
        pytest.raises(DataError, match=r"all 6 cells are needed; 4 came\. Finish the run"),
        grouped_latents(rows_of(latent, 2)[:2], np.zeros(6, np.int64), 1, 3, tmp_path),
    ):
        pass

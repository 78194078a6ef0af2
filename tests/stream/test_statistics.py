from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from medl_scale.errors import DataError
from medl_scale.progress import SilentProgress
from medl_scale.store.atlas import Columns
from medl_scale.stream import CachedSource, Transform, blocks, train_statistics
from medl_scale.stream import statistics as module
from medl_scale.stream.source import DiskSource, MemorySource
from tests.stream.conftest import BATCHES, N_OBS, N_VARS

TRAIN = (slice(0, 240), slice(470, N_OBS))
UNSCALED = Transform("counts", 1e4)
PLAIN = Transform("lognorm", 1.0)


def plain_columns(batch_codes: np.ndarray) -> Columns:
    n = batch_codes.size
    return Columns(batch_codes.astype(np.int32), np.full(n, -1, np.int32), np.ones(n, np.float32))


def in_numpy(dense: np.ndarray, codes: np.ndarray, n_batches: int) -> dict:
    dense = dense.astype(np.float64)
    means = [
        dense[codes == b].mean(axis=0) if np.any(codes == b) else np.zeros(dense.shape[1])
        for b in range(n_batches)
    ]
    return {
        "n": dense.shape[0],
        "mean": dense.mean(axis=0),
        "sd": dense.std(axis=0),
        "maximum": dense.max(),
        "batch_n": np.bincount(codes, minlength=n_batches),
        "batch_mean": np.array(means),
    }


def assert_close(found: module.TrainStatistics, expected: dict, rtol: float = 1e-6) -> None:
    for name, value in expected.items():
        assert np.allclose(getattr(found, name), value, rtol=rtol, atol=1e-7), name


@pytest.mark.parametrize("read_rows", [1, 64, 8192])
def test_streamed_statistics_are_those_of_numpy(on_disk, columns, dense, monkeypatch, read_rows):
    monkeypatch.setattr(module, "READ_ROWS", read_rows)
    found = train_statistics(DiskSource(on_disk), columns, TRAIN, UNSCALED, len(BATCHES))
    rows = np.r_[0:240, 470:N_OBS]
    assert_close(found, in_numpy(dense[rows], columns.batch_codes[rows], len(BATCHES)))
    assert found.mean.dtype == found.sd.dtype == found.batch_mean.dtype == np.float32
    assert found.batch_n.dtype == np.int64
    assert found.batch_mean.shape == (len(BATCHES), N_VARS)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1_000))
def test_any_rows_genes_and_batches_agree_with_numpy(n, n_vars, n_batches, seed):
    random = np.random.default_rng(seed)
    dense = random.normal(size=(n, n_vars)) * (random.random((n, n_vars)) < 0.5)
    dense = dense.astype(np.float32)
    codes = random.integers(0, n_batches, n)
    source = MemorySource(dense)
    found = train_statistics(source, plain_columns(codes), [slice(0, n)], PLAIN, n_batches)
    assert_close(found, in_numpy(dense, codes, n_batches), rtol=1e-5)


def test_a_large_mean_costs_no_digits(monkeypatch):
    monkeypatch.setattr(module, "READ_ROWS", 100)
    random = np.random.default_rng(0)
    dense = (1e6 + random.integers(0, 8, (5_000, 3))).astype(np.float32)
    source = MemorySource(dense)
    codes = plain_columns(np.zeros(5_000, int))
    found = train_statistics(source, codes, [slice(0, 5_000)], PLAIN, 1)
    assert np.allclose(found.sd, dense.astype(np.float64).std(axis=0), rtol=1e-6)


def test_the_scale_is_that_of_the_minibatches(counts, columns):
    source, transform = MemorySource(counts), Transform("counts", 1e4, 0.1)
    found = train_statistics(source, columns, TRAIN, transform, len(BATCHES))
    x = np.concatenate([one.x for one in blocks(source, columns, TRAIN, transform, 64)])
    assert found.maximum == x.max()
    assert np.allclose(found.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_a_batch_without_rows_has_zeros(counts, columns):
    found = train_statistics(MemorySource(counts), columns, TRAIN, UNSCALED, 5)
    assert found.batch_n[3:].tolist() == [0, 0]
    assert not found.batch_mean[3:].any()


@pytest.mark.parametrize(("dense", "maximum"), [([[-2.0, -1.0]], -1.0), ([[-2.0, 0.0]], 0.0)])
def test_zeros_that_are_not_stored_count_for_the_maximum(dense, maximum):
    source = MemorySource(np.array(dense, np.float32))
    found = train_statistics(source, plain_columns(np.zeros(1, int)), [slice(0, 1)], PLAIN, 1)
    assert found.maximum == maximum


def test_the_pass_fills_the_cache_for_what_follows(on_disk, columns):
    source = CachedSource(DiskSource(on_disk), 2**30, run_size=16)
    train_statistics(source, columns, TRAIN, UNSCALED, len(BATCHES))
    misses = source.misses
    list(blocks(source, columns, TRAIN, UNSCALED, 100))
    assert source.misses == misses


def test_progress_is_told_of_every_row(counts, columns):
    told = []

    class Told(SilentProgress):
        @contextmanager
        def step(self, name, total, unit="cells"):
            told.append(total)
            yield told.append

    train_statistics(MemorySource(counts), columns, TRAIN, UNSCALED, 3, progress=Told())
    assert told[0] == sum(told[1:]) == 471


def test_an_empty_split_is_refused(counts, columns):
    with pytest.raises(DataError, match="at least one row; the train split is empty"):
        train_statistics(MemorySource(counts), columns, [], UNSCALED, 3)


def test_codes_of_batches_that_do_not_exist_are_refused(counts, columns):
    with pytest.raises(DataError, match="Batch codes must be 0 to 1; found 0 to 2"):
        train_statistics(MemorySource(counts), columns, TRAIN, UNSCALED, 2)


def test_a_bad_value_is_an_error_that_names_the_row(columns):
    values = np.ones((N_OBS, N_VARS), np.float32)
    values[600, 7] = np.inf
    source = MemorySource(sparse.csr_array(values))
    with pytest.raises(DataError, match="row 600 of the atlas holds another"):
        train_statistics(source, columns, TRAIN, UNSCALED, 3)

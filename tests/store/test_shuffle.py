import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.store import shuffle as shuffle_module
from medl_scale.store.shuffle import RowShuffle


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 12), st.integers(1, 9))
def test_rows_come_back_in_the_order_of_their_destinations(seed, n_in, n_vars, n_blocks):
    random = np.random.default_rng(seed)
    matrix = sp.random(n_in, n_vars, 0.4, format="csr", random_state=random)
    matrix.data = np.ceil(matrix.data * 9)
    kept = np.flatnonzero(random.random(n_in) < 0.8)
    if len(kept) == 0:
        kept = np.array([0])
    cells = random.permutation(kept)
    destinations = np.full(n_in, -1)
    destinations[cells] = np.arange(len(cells))
    columns = np.flatnonzero(random.random(n_vars) < 0.7)
    positions = np.full(n_vars, -1, np.int32)
    positions[columns] = np.arange(len(columns), dtype=np.int32)
    wanted = matrix[cells][:, columns]
    with (
        tempfile.TemporaryDirectory() as folder,
        RowShuffle(Path(folder, "s"), len(cells), wanted.nnz, np.uint8, np.uint16) as shuffle,
    ):
        for rows in np.array_split(np.arange(n_in), n_blocks):
            if len(rows):
                shuffle.add(matrix[rows[0] : rows[-1] + 1], destinations[rows], positions)
        pieces = list(shuffle.ranges())
    lengths = np.concatenate([piece.lengths for piece in pieces])
    assert (lengths == np.diff(wanted.indptr)).all()
    assert (np.concatenate([piece.values for piece in pieces]) == wanted.data).all()
    assert (np.concatenate([piece.indices for piece in pieces]) == wanted.indices).all()


@pytest.mark.parametrize("n_rows", [1, 7, 1000])
def test_many_ranges_give_what_one_gives(tmp_path, monkeypatch, n_rows):
    matrix = sp.random(n_rows, 50, 0.3, format="csr", random_state=1)
    destinations = np.random.default_rng(0).permutation(n_rows)
    results = []
    for n_bytes in (2**25, 64):
        monkeypatch.setattr(shuffle_module, "_RANGE_BYTES", n_bytes)
        folder = tmp_path / str(n_bytes)
        with RowShuffle(folder, n_rows, matrix.nnz, np.float32, np.uint16) as shuffle:
            shuffle.add(matrix, destinations, np.arange(50, dtype=np.int32))
            pieces = list(shuffle.ranges())
        assert not any(folder.iterdir())
        results.append([np.concatenate(arrays) for arrays in zip(*pieces, strict=True)])
    assert len(pieces) > 1 or n_rows == 1
    for one, other in zip(*results, strict=True):
        assert (one == other).all()

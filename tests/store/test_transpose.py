import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.store import transpose
from medl_scale.store.transpose import Entries, csr_on_disk


def entries_of(matrix, n_pieces, seed):
    coo = matrix.tocoo()
    order = np.random.default_rng(seed).permutation(coo.nnz)
    for piece in np.array_split(order, n_pieces):
        yield Entries(
            coo.row[piece].astype(np.int32), coo.col[piece].astype(np.int32), coo.data[piece]
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 15), st.integers(1, 7))
def test_entries_in_any_order_become_rows(seed, n_obs, n_vars, n_pieces):
    matrix = sp.random(n_obs, n_vars, 0.3, format="csr", random_state=seed % 2**31)
    with tempfile.TemporaryDirectory() as folder:
        pieces = entries_of(matrix, n_pieces, seed)
        rows = csr_on_disk(pieces, matrix.shape, matrix.nnz, matrix.dtype, Path(folder, "rows"))
        assert (rows.read(slice(0, n_obs)).toarray() == matrix.toarray()).all()
        middle = slice(n_obs // 3, n_obs // 3 + 1)
        assert (rows.read(middle).toarray() == matrix[middle].toarray()).all()


@pytest.mark.parametrize("n_entries", [1, 10, 100])
def test_ranges_of_rows_are_put_together(tmp_path, monkeypatch, n_entries):
    monkeypatch.setattr(transpose, "_RANGE_ENTRIES", n_entries)
    matrix = sp.random(300, 20, 0.2, format="csr", random_state=0)
    pieces = entries_of(matrix, 3, 0)
    rows = csr_on_disk(pieces, matrix.shape, matrix.nnz, matrix.dtype, tmp_path / "rows")
    assert (rows.read(slice(0, 300)).toarray() == matrix.toarray()).all()
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["data", "indices"]

"""Rows made dense on JAX's device are those of the host's kernel, sent there or kept there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medl_scale.stream.chunks import chunked
from medl_scale.stream.contract import CsrRows
from medl_scale.stream.densify import Transform, densify
from medl_scale.train.device_rows import SentRows, dense_on_device, fill_device

jax = pytest.importorskip("jax", reason="JAX is not installed")

ROOT = Path(__file__).resolve().parents[2]
N_ROWS, N_VARS = 60, 90
TRANSFORMS = {
    "counts": Transform("counts", 1e4, 0.3),
    "lognorm": Transform("lognorm", 1e4, 0.3),
}


@pytest.fixture(scope="module")
def stored():
    """Rows of 0 to 90 values, as counts of 8 bits."""
    random = np.random.default_rng(3)
    share = random.random((N_ROWS, 1))
    matrix = (random.random((N_ROWS, N_VARS)) < share) * random.integers(1, 200, (N_ROWS, N_VARS))
    matrix[0], matrix[1] = 0, 7
    lengths = (matrix > 0).sum(axis=1)
    rows, columns = np.nonzero(matrix)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = matrix[rows, columns].astype(np.uint8)
    return CsrRows(data, columns.astype(np.uint16), indptr)


@pytest.fixture(scope="module")
def totals():
    return np.random.default_rng(4).uniform(500, 5000, N_ROWS).astype(np.float32)


def by_host(stored, positions, totals, transform):
    out = np.empty((positions.size, N_VARS), np.float32)
    densify(stored, positions, positions, totals, transform, out)
    return out


def on_device(cells, kept, transform):
    make = jax.jit(lambda cells, kept: dense_on_device(cells, kept, transform, N_VARS))
    return np.asarray(make(cells, kept))


@pytest.mark.parametrize("units", TRANSFORMS)
def test_dense_rows_on_the_device_equal_the_host_s_to_rounding(stored, totals, units):
    transform = TRANSFORMS[units]
    positions = np.random.default_rng(5).permutation(N_ROWS)[:37]
    positions[-1] = 0
    expected = by_host(stored, positions, totals, transform)
    chunks = chunked(stored, positions, positions, totals, transform, N_VARS)
    sent = on_device(SentRows(jax.device_put(chunks)), None, transform)
    np.testing.assert_allclose(sent, expected, rtol=4e-7)
    every = np.arange(N_ROWS)
    blocks = [
        chunked(stored, part, part, totals, transform, N_VARS)
        for part in (every[:20], every[20:21], every[21:])
    ]
    blocks = [
        block._replace(
            data=block.data[: block.counts.sum()], indices=block.indices[: block.counts.sum()]
        )
        for block in blocks
    ]
    filled = fill_device(blocks, 10**6)
    kept = on_device(filled.minibatch(positions), filled.rows, transform)
    np.testing.assert_array_equal(kept, sent)


def test_rows_that_do_not_fit_the_budget_are_not_kept(stored, totals):
    every = np.arange(N_ROWS)
    block = chunked(stored, every, every, totals, TRANSFORMS["counts"], N_VARS)
    n_bytes = block.nbytes + block.counts.nbytes
    assert fill_device(iter([block]), n_bytes - 1) is None
    assert fill_device(iter([block]), n_bytes) is not None
    assert fill_device(iter([]), 10**9) is None


@pytest.mark.slow  # twelve fits compile their steps anew: some two minutes of one core
def test_fits_on_jax_need_no_tensorflow_and_agree_in_every_way_rows_can_come(atlas_path, tmp_path):
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-W", "error", "-m", "tests.train.jax_fits"]
    ended = subprocess.run(
        [*command, str(atlas_path), str(tmp_path), "fe", "re", "me"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for model, ways in json.loads(ended.stdout).items():
        assert len(ways["dense"]) == 5
        for row in range(5):
            for name, value in ways["dense"][row].items():
                # A bias before batch norm has no gradient but rounding, which Adam scales up. Losses
                # in training do not see it; validation does, through the moving mean.
                close = 1e-5 if name.startswith("train_") else 1e-3
                for way in ("sent", "kept"):
                    assert ways[way][row][name] == pytest.approx(value, rel=close), (model, name)
        assert ways["sent"] == ways["kept"], model
        totals = {way: [row["train_total"] for row in ways[way]] for way in ("dense", "bf16")}
        # Eight bits of mantissa.
        assert totals["bf16"] == pytest.approx(totals["dense"], rel=2e-2), model
        assert totals["bf16"] != totals["dense"], model

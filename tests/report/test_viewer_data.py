"""How the viewer's numbers are packed: what is unpacked is what was packed, to the stated step."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib

import numpy as np
import pytest

from medl_scale.errors import DataError
from medl_scale.report.viewer_data import BYTES_OF_NUMBER, pack
from tests.report.test_viewer import CELLS, N_GENES, TARGETS, example


def unpacked(numbers):
    """The numbers of a cell, (2 + 3 * n_targets, n_genes)."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(numbers)), np.uint8)
    low, high = planes.reshape(2, -1).astype(np.uint16)
    return (low + 256 * high).astype(np.uint16).view(np.int16).astype(int).reshape(-1, N_GENES)


@pytest.mark.parametrize("factor", [1.0, 300.0, 1e-4])
def test_numbers_are_kept_to_half_a_step(factor):
    data = example()
    arrays = {name: getattr(data, name) * np.float32(factor)
              for name in ("measured", "own", "as_if", "lower", "upper")}  # fmt: skip
    data = dataclasses.replace(data, **arrays)
    packed = json.loads(pack(data))
    step = packed["step"]
    assert step == {1.0: 0.001, 300.0: 1.0, 1e-4: 0.001}[factor]
    for cell, told in enumerate(packed["cells"]):
        found = unpacked(told["numbers"]) * step
        moves, low, high = found[2:].reshape(len(TARGETS), 3, N_GENES).transpose(1, 0, 2)
        for shown, true in (
            (found[0], data.measured[cell]),
            (found[1], data.own[cell]),
            (found[1] + moves, data.as_if[cell]),
            (moves + low, data.lower[cell]),
            (moves + high, data.upper[cell]),
        ):
            np.testing.assert_allclose(shown, true, atol=0.501 * step, rtol=1e-6)


def test_a_number_takes_about_the_bytes_that_are_stated():
    rng = np.random.default_rng(0)
    n_genes, n_targets = 1000, 5
    own = rng.gamma(0.3, 1.0, (1, n_genes)).astype(np.float32)
    moves = rng.normal(0.0, 0.3, (1, n_targets, n_genes)).astype(np.float32)
    reach = np.abs(rng.normal(0.0, 0.3, moves.shape)).astype(np.float32)
    data = dataclasses.replace(
        example(), gene_names=tuple(map(str, range(n_genes))), pixels=np.arange(n_genes),
        shape=(25, 40), cells=CELLS[:1], targets=tuple("abcde"), has_average=False,
        measured=own, own=own, as_if=own[:, None] + moves, lower=moves - reach, upper=moves + reach,
    )  # fmt: skip
    (cell,) = json.loads(pack(data))["cells"]
    n_numbers = (2 + 3 * n_targets) * n_genes
    assert 0.8 < len(cell["numbers"]) / (n_numbers * BYTES_OF_NUMBER) < 1.0


def test_no_tag_can_start_in_the_data():
    text = pack(example())
    assert "<" not in text
    packed = json.loads(text)
    assert [cell["name"] for cell in packed["cells"]] == [cell.name for cell in CELLS]
    assert packed["targets"] == list(TARGETS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"own": np.zeros((2, N_GENES), np.float32)}, r"'own' of shape \(3, 41\).*got \(2, 41\)"),
        ({"cells": ()}, r"of 0 cells, 4 targets and 41 genes.*Choose at least one"),
        ({"measured": np.full((3, N_GENES), np.nan, np.float32)}, "'measured' has NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_refused(changes, text):
    with pytest.raises(DataError, match=text):
        example(**changes)

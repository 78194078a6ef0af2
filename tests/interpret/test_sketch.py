"""A sketch on disk: whole or not at all, in bounded memory, and what it says of batches."""

from __future__ import annotations

import pickle
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medl_scale.errors import (
    ConfigError,
    DataError,
    OutputExistsError,
    RunError,
    StoreError,
)
from medl_scale.interpret.sketch import Sketch
from medl_scale.interpret.sketch_files import SketchAxes
from medl_scale.interpret.sketching import make_sketch
from medl_scale.progress import SilentProgress
from tests.interpret.decoders import random_decoder


def synthetic(
    tmp_path, n_cells: int, *, width: int = 8, n_vars: int = 60, groups=None, **changes
) -> Sketch:
    """A sketch of noise in the place of latents: 2 types, 3 batches."""
    decoder = random_decoder(width, n_vars)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 6, n_cells) if groups is None else groups

    def noise():
        for start in range(0, n_cells, 500):
            size = min(500, n_cells - start)
            yield slice(start, start + size), rng.normal(size=(size, 4)).astype(np.float32)

    axes = SketchAxes(
        labels=("B", "T"),
        sources=("x", "y", "z"),
        targets=("x", "y", "z"),
        genes=tuple(f"g{i}" for i in range(n_vars)),
        n_cells=np.bincount(codes, minlength=6).reshape(2, 3),
        gene_sd=np.linspace(0.5, 2, n_vars).astype(np.float32),
    )
    options = {"target_codes": range(3), "progress": SilentProgress()} | changes
    return make_sketch(tmp_path / "sketch.zarr", axes, decoder, noise(), codes, **options)


def test_memory_does_not_grow_with_the_number_of_cells(tmp_path):
    peaks = []
    for place, n_cells in enumerate([30_000, 75_000]):
        (tmp_path / str(place)).mkdir()
        # Codes of the cells are the caller's.
        groups = np.random.default_rng(0).integers(0, 6, n_cells)
        tracemalloc.start()
        made = synthetic(tmp_path / str(place), n_cells, groups=groups)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert made.n_cells.to_numpy().sum() == n_cells
    # Latents take 16 bytes a cell, expression 240 a batch.
    assert peaks[1] - peaks[0] < 45_000


def test_a_broken_sketch_leaves_what_was_there(tmp_path):
    first = synthetic(tmp_path, 900)
    before = first.distances("T")
    with pytest.raises(OutputExistsError, match=r"sketch\.zarr exists already"):
        synthetic(tmp_path, 900)
    groups = np.random.default_rng(1).integers(0, 6, 900)
    decoder = random_decoder(8, 60)

    def torn():
        yield slice(0, 500), np.zeros((500, 4), np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sketch(
            first.path, first.axes, decoder, torn(), groups,
            target_codes=range(3), overwrite=True, progress=SilentProgress(),
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["sketch.zarr"]
    pd.testing.assert_frame_equal(Sketch(first.path).distances("T"), before)
    assert synthetic(tmp_path, 1200, overwrite=True).n_cells.to_numpy().sum() == 1200


def test_a_sketch_can_be_moved_and_sent_and_tells_when_files_are_lost(tmp_path):
    made = synthetic(tmp_path, 300)
    moved = Sketch(shutil.move(made.path, tmp_path / "elsewhere.zarr"))
    sent = pickle.loads(pickle.dumps(moved))
    pd.testing.assert_frame_equal(sent.distances(), moved.distances())
    assert "300 cells; 2 types x 3 source x 3 target batches x 60 genes" in repr(moved)
    chunk = moved.path / "mean" / "c" / "1" / "2" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    with pytest.raises(StoreError, match=r"is truncated: 1 of its files .* mean/c/1/2/0/0"):
        Sketch(moved.path)
    with pytest.raises(RunError, match="There is no sketch at"):
        Sketch(made.path)
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    )
    with pytest.raises(RunError, match=r"is not a sketch of format 1: its kind is None"):
        Sketch(tmp_path / "other.zarr")


def test_no_room_on_the_disk_is_told_before_work_begins(tmp_path):
    made = synthetic(tmp_path, 60)
    huge = replace(made.axes, n_cells=np.full((2, 3), 10**15))
    with pytest.raises(ConfigError, match=r"2 types x 3 x 3 batches x 60 genes takes up to .* GB;"):
        make_sketch(
            tmp_path / "b.zarr", huge, random_decoder(8, 60), [], np.zeros(0, np.int64),
            target_codes=range(3), progress=SilentProgress(),
        )  # fmt: skip


def test_distances_are_those_of_the_means_with_batches_weighing_equally(tmp_path):
    made = synthetic(tmp_path, 400)
    in_sd = []
    for source in "xyz":
        means = [made.moments("T", source, target)["mean"].to_numpy() for target in "xyz"]
        in_sd.append(np.array(means) / made.axes.gene_sd)
    expected = [
        [np.sqrt(np.mean([(s[a] - s[b]) ** 2 for s in in_sd])) for b in range(3)] for a in range(3)
    ]
    found = made.distances("T")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert list(found.index) == list(found.columns) == ["x", "y", "z"]
    both = np.sqrt((made.distances("B") ** 2 + found**2) / 2)
    pd.testing.assert_frame_equal(made.distances(), both)
    assert made.dendrogram("T").linkage.shape == (2, 4)


def test_moved_genes_are_differences_of_means_the_largest_first(tmp_path):
    made = synthetic(tmp_path, 400)
    table = made.moved_genes("B", "x", "z")
    own, other = made.moments("B", "x", "x"), made.moments("B", "x", "z")
    assert table["shift_in_sd"].abs().is_monotonic_decreasing
    aligned = table.loc[list(made.axes.genes)]
    np.testing.assert_allclose(aligned["shift"], other["mean"] - own["mean"])
    np.testing.assert_allclose(aligned["shift_in_sd"] * made.axes.gene_sd, aligned["shift"])
    np.testing.assert_allclose(aligned["sd_to"] ** 2, other["variance"])
    pd.testing.assert_frame_equal(made.moved_genes("B", "x", "z", top=5), table[:5])
    # Over all sources, the moments of a mixture in equal parts.
    pooled = made.moved_genes("B", "x", "z", all_sources=True).loc[list(made.axes.genes)]
    parts = [made.moments("B", source, "z") for source in "xyz"]
    mean = np.mean([part["mean"] for part in parts], axis=0)
    squares = np.mean([part["variance"] + part["mean"] ** 2 for part in parts], axis=0)
    np.testing.assert_allclose(pooled["mean_to"], mean)
    np.testing.assert_allclose(pooled["sd_to"] ** 2, squares - mean**2, rtol=1e-5)


def test_what_is_not_there_is_listed(tmp_path):
    groups = np.repeat([0, 1, 4, 5], 30)  # no B from z, no T from x
    made = synthetic(tmp_path, 120, groups=groups)
    assert made.n_cells.loc["T"].tolist() == [0, 30, 30]
    assert not made.moved_genes("T", "x", "y", all_sources=True).isna().to_numpy().any()
    for call, text in {
        lambda: made.moved_genes("NK", "x", "y"): r"no cell type 'NK'\. There are: 'B', 'T'",
        lambda: made.moved_genes("T", "y", "w"): r"no target batch 'w'\. There are: 'x', 'y', 'z'",
        lambda: made.moved_genes("T", "w", "y"): r"no source batch 'w'",
        lambda: made.moved_genes("T", "x", "y"): r"'x' has no cell of type 'T'\..*: 'y', 'z'\..*",
        lambda: made.distances("T", min_cells=31): r"'T' needs 31 cells .* most are 30\. Lower min",
        lambda: made.distances(min_cells=31): r"No type has 31 cells .* most are 30\. Lower min_ce",
    }.items():
        with pytest.raises(DataError, match=text):
            call()

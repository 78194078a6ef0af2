"""Genomaps of a run: one layout for all pictures, and the command that draws them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from medl_scale.errors import DataError
from medl_scale.interpret.genomap import correlations_of, load_layout, save_layout
from medl_scale.pipeline import Run
from medl_scale.pipeline.genomaps import panels_of, run_layout
from medl_scale.store.atlas import describe, obs_names, read_columns
from medl_scale.stream import Transform, blocks, open_source
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(made: tiny.Made, tmp_path: Path) -> Run:
    """A copy of the run, to which a layout may be added."""
    shutil.copytree(made.run, tmp_path / "run")
    return Run(tmp_path / "run")


def test_the_layout_is_learnt_from_train_cells_once_and_kept(run, made, monkeypatch):
    layout = run_layout(run, atlas=made.atlas, progress=False)
    atlas = describe(made.atlas)
    train = atlas.split(0).train
    assert layout.n_cells == sum(rows.stop - rows.start for rows in train)

    # The same in memory, from dense values.
    columns, transform = read_columns(made.atlas), Transform(atlas.input_units, atlas.target_sum)
    with open_source(made.atlas) as source, blocks(source, columns, train, transform, 4096) as read:
        (block,) = read
    within = correlations_of(block.x, block.batch_codes)
    pairs = layout.to_images(np.arange(atlas.n_vars))[0]
    across = np.stack([pairs[:, :-1].ravel(), pairs[:, 1:].ravel()])
    down = np.stack([pairs[:-1].ravel(), pairs[1:].ravel()])
    both = np.concatenate([across, down], axis=1)
    known = both[:, np.isfinite(both).all(axis=0)].astype(int)
    varies = ~layout.is_constant[known].any(axis=0)
    assert layout.objective == pytest.approx(within[tuple(known[:, varies])].mean(), abs=1e-6)

    kept = run.path / "genomaps" / "map2d_fold_0.npz"
    table = pd.read_csv(kept.with_suffix(".csv"))
    assert table["gene"].tolist() == list(layout.gene_names)
    written = kept.stat().st_mtime_ns
    assert run_layout(run, atlas=made.atlas, progress=False).table().equals(layout.table())
    assert kept.stat().st_mtime_ns == written


def test_a_kept_layout_of_other_genes_is_refused(run, made):
    layout = run_layout(run, method="genomap", atlas=made.atlas, progress=False)
    other = type(layout)(
        tuple(reversed(layout.gene_names)), layout.pixels, layout.shape, layout.is_constant,
        layout.method, layout.objective, layout.n_cells,
    )  # fmt: skip
    path = run.path / "genomaps" / "genomap_fold_0.npz"
    save_layout(other, path)
    with pytest.raises(DataError, match=r"not the same in the same order.*or remove the file"):
        run_layout(run, method="genomap", atlas=made.atlas, progress=False)


def test_panels_hold_what_was_measured_reconstructed_and_projected(run, made):
    projected = run.project([3, 1], "all", atlas=made.atlas, progress=False)
    panels = panels_of(projected)
    batches = describe(made.atlas).batch_levels
    n_beside = len(panels.column_titles) - len(batches)
    assert panels.column_titles[:2] == ["original", "ME"]
    assert tuple(panels.column_titles[n_beside:]) == batches
    assert panels.compared == list(range(n_beside, n_beside + len(batches)))
    obs = projected.obs.reset_index(drop=True)
    for cell in range(2):
        of_cell = obs.iloc[cell * len(panels.column_titles) :]
        assert panels.column_titles[panels.own_column[cell]] == of_cell["source_batch"].iloc[0]
        measured = of_cell.index[of_cell["kind"] == "measured"][0]
        assert np.array_equal(panels.values[cell, 0], np.asarray(projected.X)[measured])


def test_the_command_draws_pictures_and_lists_the_genes_that_move(run, made, tmp_path):
    png, svg = tmp_path / "cells.png", tmp_path / "cells.svg"
    (tmp_path / "names.txt").write_text(f"{obs_names(made.atlas)[3]}\n")
    ended = tiny.medl(
        "genomap", run.path, "--cells", tmp_path / "names.txt", "--as-batch", "all", "-o", png,
        "-o", svg, "--atlas", made.atlas, "--label-genes", 4, "--layout", "genomap",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert png.stat().st_size > 10_000
    assert "(own)" in svg.read_text()
    moved = pd.read_csv(tmp_path / "cells_genes.csv")
    assert len(moved) == 4
    assert set(moved["gene"]) <= set(
        load_layout(run.path / "genomaps" / "genomap_fold_0.npz").gene_names
    )
    assert "batches move most: " in ended.out + ended.err


def test_a_run_without_the_model_or_a_bad_suffix_is_one_line(run, made, tmp_path):
    for options, text in (
        (("--as-batch", "all", "-o", tmp_path / "a.gif"), "written as one of '.png'"),
        (("--as-batch", "nobody", "-o", tmp_path / "a.png"), "nobody"),
    ):
        ended = tiny.medl(
            "genomap", run.path, "--cells", "medl_part == 0", "--atlas", made.atlas, *options
        )
        assert ended.code == 2
        assert text in ended.err
        assert "Traceback" not in ended.err
    assert not (run.path / "genomaps").exists()

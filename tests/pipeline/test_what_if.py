"""What the viewer of a run shows: the cells, what becomes of them, and what fits into a page."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from medl_scale import Run
from medl_scale.errors import ConfigError, DataError
from medl_scale.models.network import DataSummary
from medl_scale.pipeline.calibrating import calibration_of
from medl_scale.pipeline.genomaps import run_layout
from medl_scale.pipeline.what_if import LEVEL, N_DRAWS, gather_viewer
from medl_scale.pipeline.what_if_choice import (
    FEWER_INTERVALS,
    FEWEST_TARGETS,
    MOST_TARGETS,
    Extent,
    choose_batches,
    choose_test_cells,
    extent_for,
    notes_on,
)
from medl_scale.report.viewer_data import pack
from medl_scale.store.atlas import describe, obs_names, read_columns

if TYPE_CHECKING:
    from pathlib import Path

BATCHES = ("batch_1", "batch_2", "batch_3", "batch_4")
ARRAYS = ("measured", "own", "as_if", "lower", "upper")


def copy_of(run: Path, folder: Path) -> Run:
    """A copy of a run, to which a layout may be added."""
    shutil.copytree(run, folder)
    return Run(folder)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    return copy_of(made.run, tmp_path_factory.mktemp("viewed") / "run")


@pytest.fixture(scope="module")
def shown(run, made):
    return gather_viewer(run, atlas=made.atlas)


def positions(shown, made):
    names = obs_names(made.atlas).tolist()
    return [names.index(cell.name) for cell in shown.cells]


def test_four_test_cells_of_every_type_come_from_all_its_batches(shown, made):
    atlas, columns = describe(made.atlas), read_columns(made.atlas)
    assert [cell.label for cell in shown.cells] == [
        label for label in atlas.label_levels for _ in range(4)
    ]
    test = atlas.split(0).test
    for row, cell in zip(positions(shown, made), shown.cells, strict=True):
        assert test.start <= row < test.stop
        assert cell.batch == atlas.batch_levels[columns.batch_codes[row]]
        assert cell.label == atlas.label_levels[columns.label_codes[row]]
    for place, first in enumerate(range(0, len(shown.cells), 4)):
        there = columns.batch_codes[test][columns.label_codes[test] == place]
        found = {cell.batch for cell in shown.cells[first : first + 4]}
        assert found == {atlas.batch_levels[code] for code in there}
    assert shown.targets == (*BATCHES, "average")
    assert shown.has_average
    assert len(shown.notes) == 1


def test_values_are_those_of_project_bit_for_bit(run, shown, made):
    rows = positions(shown, made)
    found = run.project(rows, ("all", "average"), atlas=made.atlas, progress=False)
    obs = found.obs.reset_index(drop=True)
    values = np.asarray(found.X)

    def of_kind(kind, model=None):
        chosen = (obs["kind"] == kind) & ((obs["model"] == model) | (model is None))
        return values[chosen.to_numpy()].reshape(len(rows), -1, values.shape[1])

    np.testing.assert_array_equal(shown.measured, of_kind("measured")[:, 0])
    np.testing.assert_array_equal(shown.own, of_kind("reconstruction", "me")[:, 0])
    np.testing.assert_array_equal(shown.as_if, of_kind("as_if"))
    assert shown.gene_names == tuple(found.var_names)


def test_intervals_are_of_differences_and_the_own_batch_differs_by_nothing(run, shown, made):
    own = np.array([BATCHES.index(cell.batch) for cell in shown.cells])
    cells = np.arange(len(own))
    for values in (shown.lower, shown.upper, shown.as_if - shown.own[:, None]):
        assert not values[cells, own].any()
    moves = shown.as_if - shown.own[:, None]
    others = np.ones(moves.shape[:2], np.bool_)
    others[cells, own] = False
    inside = (shown.lower <= moves) & (moves <= shown.upper)
    # The model's answer by the posterior means lies well inside, or the draws are not of this model.
    assert inside[others].mean() > 0.99
    assert (shown.upper > shown.lower)[others].all()

    # As wide as independent batches' intervals say: the variance of a difference is their sum.
    rows = positions(shown, made)
    drawn = run.project(rows, "all", draws=N_DRAWS, level=LEVEL, intervals="model",
                        atlas=made.atlas, progress=False, with_reconstructions=False)  # fmt: skip
    calibration = calibration_of(run, atlas=made.atlas)
    widths = (drawn.layers["upper"] - drawn.layers["lower"]).reshape(len(rows), len(BATCHES), -1)
    expected = np.sqrt(np.square(widths) + np.square(widths[cells, own])[:, None])
    batches = others[:, :-1]
    found = (shown.upper - shown.lower)[:, :-1]
    ratio = np.median(found[batches] / expected[batches])
    assert ratio == pytest.approx(calibration.factor(LEVEL, "difference"), rel=0.1)
    assert calibration.words(LEVEL, "difference") in shown.intervals


def test_the_layout_is_the_run_s(run, shown, made):
    layout = run_layout(run, atlas=made.atlas, progress=False)
    np.testing.assert_array_equal(shown.pixels, layout.pixels)
    assert shown.shape == layout.shape
    assert (run.path / "genomaps" / "map2d_fold_0.npz").exists()


def test_the_same_seed_shows_the_same_and_another_other_cells(run, shown, made):
    again = gather_viewer(run, atlas=made.atlas)
    assert pack(again) == pack(shown)
    other = gather_viewer(run, atlas=made.atlas, cells_per_label=1, seed=1)
    assert len(other.cells) == 3
    assert {cell.name for cell in other.cells} != {cell.name for cell in shown.cells[::4]}


def test_what_does_not_fit_is_left_out_by_rule_and_the_notes_say_so(run, shown, made):
    all_bytes = len(pack(shown))
    small = gather_viewer(run, atlas=made.atlas, max_bytes=20_000)
    assert len(small.cells) == 6
    assert sum(len(cell["numbers"]) for cell in json.loads(pack(small))["cells"]) <= 20_000
    assert len(pack(small)) < all_bytes
    assert np.isfinite(small.lower).all()
    assert "up to 2 of each type" in small.notes[0]
    first = [shown.cells.index(cell) for cell in small.cells]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(small, name), getattr(shown, name)[first])
    with pytest.raises(
        ConfigError, match="for one cell and 4 batches of 80 genes; max_bytes is 100"
    ):
        gather_viewer(run, atlas=made.atlas, max_bytes=100)
    with pytest.raises(ConfigError, match="cells_per_label must be at least 1; got 0"):
        gather_viewer(run, atlas=made.atlas, cells_per_label=0)


def test_where_all_intervals_do_not_fit_those_of_large_moves_are_kept(
    run, shown, made, monkeypatch
):
    monkeypatch.setattr(
        "medl_scale.pipeline.what_if.extent_for", lambda *_: Extent(3, 4, len(BATCHES), 7)
    )
    few = gather_viewer(run, atlas=made.atlas)
    kept = np.isfinite(few.lower)
    assert (kept.sum(axis=-1) == 7).all()
    np.testing.assert_array_equal(kept, np.isfinite(few.upper))
    moves = np.abs(few.as_if - few.own[:, None])
    smallest = np.where(kept, moves, np.inf).min(axis=-1)
    assert (smallest >= np.where(kept, 0, moves).max(axis=-1)).all()
    np.testing.assert_array_equal(few.lower[kept], shown.lower[kept])
    assert "intervals are given for the 7 genes" in few.notes[-1]


def test_re_serves_where_it_is_asked_for_or_there_is_no_me(run, made, tmp_path):
    asked = gather_viewer(run, atlas=made.atlas, model="re", cells_per_label=1)
    # With its layout and the calibration of its intervals.
    other = copy_of(run.path, tmp_path / "run")
    shutil.rmtree(other.path / "models" / "me")
    alone = gather_viewer(other, atlas=made.atlas, cells_per_label=1)
    assert (asked.model, alone.model) == ("re", "re")
    np.testing.assert_array_equal(asked.as_if, alone.as_if)
    shutil.rmtree(other.path / "models" / "re")
    with pytest.raises(
        ConfigError, match=r"random effects, 'me' or 're'; fold 0 of .* has fe, pca"
    ):
        gather_viewer(other, atlas=made.atlas)
    with pytest.raises(ConfigError, match=r"random effects, 'pca'; fold 0 of"):
        gather_viewer(run, atlas=made.atlas, model="pca")


# Which cells and batches.


def test_cells_of_a_label_come_from_different_batches_before_any_gives_a_second():
    labels = np.array([0] * 8 + [1] * 3 + [-1] * 2)
    batches = np.array([0, 0, 0, 0, 0, 0, 1, 2, 1, 1, 1, 2, 2])
    drawn = choose_test_cells(labels, batches, [0, 1, -1], 4, seed=0)
    assert labels[drawn].tolist() == [0] * 4 + [1] * 3 + [-1] * 2
    assert set(batches[drawn[:3]]) == {0, 1, 2}
    assert len(set(drawn.tolist())) == 9
    # A label's draw does not depend on the other labels.
    np.testing.assert_array_equal(choose_test_cells(labels, batches, [1], 4, seed=0), drawn[4:7])
    seen = {tuple(choose_test_cells(labels, batches, [0], 1, seed=seed)) for seed in range(60)}
    assert seen == {(cell,) for cell in range(8)}


def test_of_many_batches_the_largest_and_the_most_distant_are_shown():
    n_batches, n_genes = 10, 4
    batch_n = np.array([5, 90, 5, 80, 5, 5, 70, 0, 5, 5])
    batch_mean = np.zeros((n_batches, n_genes), np.float32)
    batch_mean[1] = 9.0  # already among the largest
    batch_mean[4, 0] = 2.0
    batch_mean[8, 1] = 3.0  # in a gene that scatters more
    batch_mean[5, 3] = 50.0  # in a gene that is constant: no distance
    batch_mean[7] = np.nan  # without train cells
    summary = DataSummary(
        n_obs=270, n_batches=n_batches, n_labels=0, mean=np.zeros(n_genes, np.float32),
        sd=np.array([1, 2, 1, 0], np.float32), batch_n=batch_n, batch_mean=batch_mean,
    )  # fmt: skip
    assert choose_batches(summary, 5).tolist() == [1, 3, 4, 6, 8]
    assert choose_batches(summary, 4).tolist() == [1, 3, 4, 8]
    assert choose_batches(summary, 12).tolist() == list(range(n_batches))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        # labels, cells, batches, genes, bytes
        ((8, 4, 12, 2000, 8_000_000), Extent(8, 4, 12, 2000)),
        ((8, 4, 12, 2000, 4_000_000), Extent(8, 3, 12, 2000)),
        ((21, 4, 18, 3000, 8_000_000), Extent(21, 2, 18, FEWER_INTERVALS)),
        ((8, 4, 147, 1000, 8_000_000), Extent(8, 4, MOST_TARGETS, 1000)),
        ((21, 4, 147, 3000, 6_000_000), Extent(21, 2, 15, FEWER_INTERVALS)),
        ((60, 4, 147, 3000, 8_000_000), Extent(60, 1, 14, FEWER_INTERVALS)),
        ((900, 4, 147, 3000, 8_000_000), Extent(96, 1, FEWEST_TARGETS, FEWER_INTERVALS)),
        ((3, 1, 2, 50, 10**9), Extent(3, 1, 2, 50)),
    ],
)
def test_what_matters_least_is_given_up_first(asked, expected):
    found = extent_for(*asked)
    assert found == expected
    assert found.n_bytes(asked[3]) <= asked[4]


def test_notes_state_each_rule_that_left_something_out():
    assert len(notes_on(Extent(8, 4, 12, 2000), 8, 12, 2000)) == 1
    said = " ".join(notes_on(Extent(71, 1, 8, 200), 900, 147, 3000))
    for text in (
        "the 71 of 900 types with most",
        "8 of 147 batches",
        "the 200 genes that move most",
    ):
        assert text in said


def test_a_fold_without_test_cells_is_refused():
    from medl_scale.pipeline.what_if import _labels_by_size

    assert _labels_by_size(np.array([2, 0, 2, -1, 2, -1], np.int32)) == [2, -1, 0]
    with pytest.raises(DataError, match=r"no test cells to choose from. Choose another fold"):
        _labels_by_size(np.array([], np.int32))

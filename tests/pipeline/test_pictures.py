"""All pictures of a run: what is gathered, what is written, what is missing and why."""

import re
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from medl_scale.pipeline.pictures import PICTURES_FOLDER, gather_pictures, write_pictures
from medl_scale.pipeline.run import Run
from medl_scale.pipeline.scores import (
    COLUMNS,
    CONFUSION_COLUMNS,
    SCORES_FILE,
    Scores,
    confusion_path,
    write_scores,
)


def scores():
    """Scores of two latents, and what forests confuse in two folds."""
    figures = [
        ("X_medl_me", "ASW", "cell_type", 0.5), ("X_pca", "ASW", "cell_type", 0.7),
        ("X_medl_me", "iLISI", "batch", 2.0), ("X_pca", "iLISI", "batch", 1.2),
        ("X_medl_me", "RFAccuracy", "cell_type", 0.9), ("one-hot batch", "RFAccuracy", "cell_type", 0.95),
    ]  # fmt: skip
    table = pd.DataFrame(
        [
            {"space": space, "fold": 0, "split": "test", "metric": metric, "of": of, "value": value,
             "error": 0.0, "kind": "exact", "confidence": np.nan, "n": 10, "method": "", "seconds": 0.0}
            for space, metric, of, value in figures
        ],
        columns=COLUMNS,
    )  # fmt: skip
    confusion = pd.DataFrame(
        [
            ("X_medl_me", 0, "test", "cell_type", "1", "1", 30),
            ("X_medl_me", 1, "test", "cell_type", "1", "NA", 10),
            ("X_medl_me", 0, "test", "cell_type", "NA", "NA", 20),
            ("X_medl_me", 0, "test, unseen batches", "cell_type", "NA", "1", 99),
            ("X_medl_fe + X_medl_re", 0, "test", "cell_type", "NA", "<b>", 1),
            ("X_medl_me", 0, "test", "is ill?", "yes", "no", 4),
        ],
        columns=CONFUSION_COLUMNS,
    )
    return Scores(table, (), (), None, confusion)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "run"
    shutil.copytree(made.run, path)
    write_scores(scores(), path / SCORES_FILE)
    return Run(path)


def test_what_forests_confuse_is_read_back_as_it_was_written(run, tmp_path):
    pd.testing.assert_frame_equal(run.scores.confusion, scores().confusion, check_dtype=False)
    assert confusion_path("a/scores.csv").name == "confusion.csv"
    assert confusion_path("a/cells_scores.csv").name == "cells_confusion.csv"
    assert confusion_path("a/other.csv").name == "other_confusion.csv"
    # Scores from before there was a table of confusion.
    shutil.copy(run.path / SCORES_FILE, tmp_path)
    from medl_scale.pipeline.scores import read_scores

    assert read_scores(tmp_path / SCORES_FILE).confusion.empty


def test_a_confusion_adds_up_folds_and_leaves_unseen_batches_out(run, made):
    pictures = gather_pictures(run, atlas=made.atlas, umaps=False)
    first = pictures.confusions[0]
    assert first.name == "confusion_X_medl_me"
    assert "cell_type of 60 test cells of 2 folds" in first.caption
    assert "50 rightly (83.3 %)" in first.caption
    assert "1 taken for NA: 10 of 40 cells (25.0 %)" in first.svg
    names = [drawing.name for drawing in pictures.confusions]
    assert names[1:] == ["confusion_X_medl_fe_and_X_medl_re", "confusion_X_medl_me_is_ill"]
    assert pictures.missing == {}


def test_distances_are_those_of_the_sketch_where_there_is_one(run, made):
    from medl_scale.pipeline.sketching import sketch

    by_effects = gather_pictures(run, atlas=made.atlas, umaps=False).distances
    assert [drawing.name for drawing in by_effects] == ["distances_me", "distances_re"]
    assert all("output layer" in drawing.caption for drawing in by_effects)
    made_of = sketch(run, atlas=made.atlas, progress=False)
    try:
        me, re_ = gather_pictures(run, atlas=made.atlas, umaps=False).distances
        assert "me's sketch" in me.caption
        assert "output layer" in re_.caption
        farthest = made_of.distances().to_numpy().max()
        assert f"farthest: {farthest:.3g}" in re.sub("farthest: .*, ", "farthest: ", me.shown.label)
    finally:
        shutil.rmtree(run.path / "sketches")


def test_files_are_written_as_pictures_and_replace_older_ones(run, made):
    folder = run.path / PICTURES_FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "confusion_of_an_older_run.png").touch()
    paths = write_pictures(run, gather_pictures(run, atlas=made.atlas, max_cells=100))
    names = {path.name for path in paths}
    stems = {
        "scores", "distances_me", "distances_re", "confusion_X_medl_me",
        "confusion_X_medl_fe_and_X_medl_re", "confusion_X_medl_me_is_ill",
    }  # fmt: skip
    assert names == {"umaps.png"} | {f"{stem}.{form}" for stem in stems for form in ("png", "svg")}
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            root = ET.parse(path).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "var(" not in path.read_text()


def test_what_is_missing_is_told_with_what_would_bring_it(made, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(made.run, path)
    shutil.rmtree(path / "models" / "re")
    pictures = gather_pictures(Run(path), atlas=tmp_path / "elsewhere.zarr")
    said = " ".join(pictures.missing.values())
    assert "There are no UMAPs." in said
    assert "--atlas" in said
    assert "Make them with `medl-scale evaluate`" in said
    assert "There are no distances between batches by re." in said
    assert [drawing.name for drawing in pictures.distances] == ["distances_me"]
    assert pictures.umaps == ()
    assert [path.name for path in write_pictures(Run(path), pictures)] == [
        "distances_me.png",
        "distances_me.svg",
    ]
    # A run that was scored without forests.
    table = scores()
    write_scores(Scores(table.table, (), (), None), path / SCORES_FILE)
    said = " ".join(gather_pictures(Run(path), atlas=made.atlas, umaps=False).missing.values())
    assert "--metrics forest" in said

import sys

import numpy as np
import pandas as pd
import pytest

from medl_scale.errors import ConfigError, DataError
from medl_scale.report.curves import _draw, training_curves

PNG, PDF = b"\x89PNG", b"%PDF"


def history(n_folds=2, n_epochs=6):
    rng = np.random.default_rng(0)
    terms = {"fe": ["adversary", "reconstruction", "total"], "re": ["kl", "total"]}
    rows = [
        (model, fold, epoch, split, term, float(rng.random() + 0.1), epoch == 4)
        for model in terms
        for term in terms[model]
        for fold in range(n_folds)
        for split in ("train", "val")
        for epoch in range(n_epochs)
    ]
    columns = ["model", "fold", "epoch", "split", "term", "value", "best"]
    return pd.DataFrame(rows, columns=columns)


def svg_of(table, tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "medl"}):
        training_curves(table, tmp_path / "curves.svg")
    return (tmp_path / "curves.svg").read_text()


@pytest.mark.parametrize(("suffix", "start"), [(".png", PNG), (".pdf", PDF), (".svg", b"<?xml")])
def test_the_suffix_says_how_the_picture_is_written(tmp_path, suffix, start):
    training_curves(history(), tmp_path / "new" / f"curves{suffix}")
    assert (tmp_path / "new" / f"curves{suffix}").read_bytes().startswith(start)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [f"curves{suffix}"]


def test_every_model_has_its_own_terms_with_the_total_first(tmp_path):
    svg = svg_of(history(), tmp_path)
    titles = [part.split("</text>")[0].split(">")[-1] for part in svg.split("<text")[1:]]
    words = [title for title in titles if title in {"total", "reconstruction", "adversary", "KL"}]
    assert words == ["total", "reconstruction", "adversary", "total", "KL"]
    assert {"FE", "RE", "train", "validation", "best epoch"} <= set(titles)
    assert "folds 0 to 1, light to dark" in titles


def test_the_same_history_gives_the_same_picture(tmp_path):
    assert svg_of(history(), tmp_path) == svg_of(history(), tmp_path)


def test_only_a_term_that_spans_decades_is_drawn_on_a_logarithmic_axis():
    table = history()
    table.loc[(table["term"] == "kl") & (table["epoch"] == 0), "value"] = 1e4
    scales = {
        (panel.get_title(), panel.get_yscale()) for panel in _draw(table).axes if panel.axison
    }
    assert scales == {
        ("total", "linear"),
        ("reconstruction", "linear"),
        ("adversary", "linear"),
        ("KL", "log"),
    }


def test_lines_hold_the_values_and_a_dot_marks_the_best_epoch_of_each_fold():
    table = history()
    panel = next(panel for panel in _draw(table).axes if panel.get_title() == "KL")
    of_term = table[(table["term"] == "kl")].set_index(["split", "fold"])["value"]
    lines = [line.get_ydata().tolist() for line in panel.lines]
    for place in of_term.index.unique():
        assert of_term.loc[place].tolist() in lines
    assert sum(line.get_xdata().tolist() == [4] for line in panel.lines) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table[table["epoch"] == 0],
        lambda table: table[table["split"] == "train"],
        lambda table: table[table["fold"] == 1],
        lambda table: table.assign(value=np.where(table["epoch"] == 3, np.nan, table["value"])),
        lambda table: table.assign(value=np.inf),
        lambda table: table.assign(value=0.0),
        lambda table: table.assign(best=False),
        lambda table: table.sample(frac=1, random_state=0),
        lambda table: table.assign(fold=table["fold"].map({0: "a", 1: "b"})),
    ],
    ids=[
        "one epoch",
        "no validation",
        "one fold",
        "a gap",
        "infinite",
        "zero",
        "no best epoch",
        "any order",
        "named folds",
    ],
)
def test_unusual_histories_are_drawn_without_warnings(tmp_path, change):
    training_curves(change(history()), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_drawing_leaves_no_global_state(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    training_curves(history(), tmp_path / "curves.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_bad_histories_and_names_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"needs the columns model, .*; split, best not found among"
    ):
        training_curves(history().drop(columns=["split", "best"]), tmp_path / "a.png")
    with pytest.raises(DataError, match="needs at least one epoch; got none"):
        training_curves(history()[:0], tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"one of '\.png', '\.svg', '\.pdf'; got 'a\.jpeg'\."):
        training_curves(history(), tmp_path / "a.jpeg")
    assert list(tmp_path.iterdir()) == []

"""The table of scores as a picture."""

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from medl_scale.errors import ConfigError, DataError
from medl_scale.report.score_table import score_table


def summary(rows):
    return pd.DataFrame(rows, columns=["space", "split", "metric", "of", "value"])


ROWS = [
    ("X_me", "test", "ASW", "donor", -0.125),
    ("X_medl_re", "test", "ASW", "donor", -0.5),
    ("X_pca", "test", "ASW", "donor", 0.25),
    ("X_me", "test", "ASW", "type", 0.375),
    ("X_pca", "test", "ASW", "type", 0.3125),
    ("X_me", "test", "RFAccuracy", "type", 0.75),
    ("one-hot batch", "test", "RFAccuracy", "type", 0.875),
    ("X_me", "test", "ChanceAccuracy", "type", 0.0625),
    ("X_pca", "test", "ChanceAccuracy", "type", 0.0312),
    ("X_me", "test, unseen batches", "RFAccuracy", "type", 0.111),
]


def written(rows, **options):
    """The texts of the picture; matplotlib keeps each in a comment beside its outlines."""
    import re

    svg = score_table(summary(rows), "svg", **options).decode()
    ET.fromstring(svg)
    return re.findall(r"<!-- (.*?) -->", svg)


def test_the_best_of_a_column_is_marked_whichever_end_is_good():
    texts = written(ROWS, batch_key="donor")
    marked = {text.removesuffix(" ◂") for text in texts if text.endswith(" ◂")}
    # RE holds the batch on purpose, and the one-hot batch is a control: neither is the best.
    assert marked == {"-0.125", "0.375"}
    assert {"0.750", "0.875", "0.062", "-0.500"} <= set(texts)
    assert "0.111" not in texts


def test_strange_names_do_not_break_the_picture_and_the_same_scores_give_the_same_file():
    rows = [("$\\frac$ <b>", "test", "ASW", "<i>$", 0.5), ("b", "test", "ASW", "<i>$", np.nan)]
    svg = score_table(summary(rows), "svg")
    assert svg == score_table(summary(rows), "svg")
    assert b"<b>" not in svg.replace(b"<!--", b"").split(b"<defs>")[0]
    assert score_table(summary(rows), "png").startswith(b"\x89PNG")


def test_what_is_no_table_of_scores_is_refused():
    with pytest.raises(ConfigError, match="one of 'png', 'svg'; got 'gif'"):
        score_table(summary(ROWS), "gif")
    with pytest.raises(DataError, match="it lacks rows"):
        score_table(summary([]), "png")
    with pytest.raises(DataError, match="it lacks of, value"):
        score_table(summary(ROWS).drop(columns=["of", "value"]), "png")

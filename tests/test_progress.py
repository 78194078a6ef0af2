import io
import json

import pytest
from rich.console import Console

from medl_scale.progress import BarProgress, JsonProgress, SilentProgress


def test_json_progress_writes_one_object_a_line():
    stream = io.StringIO()
    progress = JsonProgress(stream, every_s=0)
    with progress.step("Reading", 10, unit="cells") as advance:
        advance(4)
        advance(6)
    progress.note("Two genes were dropped.", genes=["A", "B"], path=stream)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "step_start",
        "step_progress",
        "step_progress",
        "step_end",
        "note",
    ]
    assert lines[0] | {"step": "Reading", "total": 10, "unit": "cells"} == lines[0]
    assert [line["done"] for line in lines[1:4]] == [4, 10, 10]
    assert lines[3]["seconds"] >= 0
    assert lines[4]["message"] == "Two genes were dropped."
    assert lines[4]["genes"] == ["A", "B"]
    times = [line["time"] for line in lines]
    assert times == sorted(times)


def test_json_progress_is_not_chatty():
    stream = io.StringIO()
    with JsonProgress(stream, every_s=60).step("Reading", 1000) as advance:
        for _ in range(1000):
            advance(1)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["step_start", "step_end"]
    assert lines[-1]["done"] == 1000


def test_json_progress_writes_to_standard_error_by_default(capsys):
    JsonProgress().note("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["message"] == "hello"


def test_bar_progress_counts_to_its_total_and_shows_a_rate():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=140)
    with BarProgress(console).step("Reading", 1000) as advance:
        advance(250)
        advance(750)
    text = stream.getvalue()
    assert "Reading" in text
    assert "100%" in text
    assert "cells/s" in text


def test_bar_progress_prints_notes_as_they_are():
    stream = io.StringIO()
    console = Console(file=stream, width=40)
    BarProgress(console).note("path [bold] of 17 cells that is longer than one line of the console")
    expected = "path [bold] of 17 cells that is longer than one line of the console\n"
    assert stream.getvalue() == expected


@pytest.mark.parametrize(
    "progress",
    [
        SilentProgress(),
        JsonProgress(io.StringIO()),
        BarProgress(Console(file=io.StringIO())),
    ],
    ids=["silent", "json", "bar"],
)
def test_every_progress_lets_errors_through(progress):
    with pytest.raises(ValueError, match="boo"), progress.step("Reading", None) as advance:
        advance(3)
        raise ValueError("boo")

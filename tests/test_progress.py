import io
import json

import pytest
from rich.console import Console

from medl_scale.progress import BarProgress, FitLine, JsonProgress, SilentProgress


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
    def fail():
        with progress.step("Reading", None) as advance:
            advance(3)
            raise ValueError("boo")

    with pytest.raises(ValueError, match="boo"):
        fail()


ROW = {"epoch": 3, "train_total": 0.5, "val_total": 0.75, "train_s": 9.0, "cells_per_s": 1234.5}


def test_bar_progress_prints_a_line_an_epoch_only_when_verbose():
    for verbose in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, width=200)
        BarProgress(console, verbose=verbose).epoch("fe fold 0", ROW)
        line = "fe fold 0 epoch 3  train_total 0.5  val_total 0.75  1,234 cells/s\n"
        assert stream.getvalue() == (line if verbose else "")


def test_json_progress_tells_every_epoch():
    stream = io.StringIO()
    JsonProgress(stream).epoch("fe fold 0", ROW)
    line = json.loads(stream.getvalue())
    assert line | {"event": "epoch", "fit": "fe fold 0"} | ROW == line


def test_json_progress_tells_when_the_state_of_a_fit_changes():
    stream = io.StringIO()
    with JsonProgress(stream).fits() as show:
        show([FitLine("a", "running"), FitLine("b", "waiting")])
        show([FitLine("a", "running", epoch=2), FitLine("b", "waiting")])
        show([FitLine("a", "done"), FitLine("b", "running")])
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["fit"], line["state"]) for line in lines] == [
        ("a", "running"),
        ("b", "waiting"),
        ("a", "done"),
        ("b", "running"),
    ]


def test_bar_progress_shows_running_fits():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=140)
    with BarProgress(console).fits() as show:
        show([FitLine("fe fold 0", "running", 3, 100, 0.5, 20_000.0, 75.0, {"val_total": 0.25})])
    text = stream.getvalue()
    for part in ("fe fold 0", "running", "4 of 100", "20,000", "0:01:15", "0.25"):
        assert part in text

"""The command line's report: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest

from tests import tiny

QUICK = ("--no-umaps", "--no-check", "--no-viewer")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A copy of the tiny run, to be written into."""
    made = tiny.made(tmp_path_factory)
    folder = tmp_path_factory.mktemp("cli") / "run"
    shutil.copytree(made.run, folder)
    return folder


def test_a_page_is_written_into_the_run_and_its_path_is_the_last_line(run):
    done = tiny.medl("report", run, *QUICK)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"Report: {run / 'report.html'}"
    assert "Report of the run run" in (run / "report.html").read_text(encoding="utf-8")


def test_a_page_is_replaced_and_may_lie_elsewhere(run, tmp_path):
    page = tmp_path / "new" / "page.html"
    for options in ((), ("--quiet",)):
        done = tiny.medl("report", run, "-o", page, *QUICK, *options)
        assert done.code == 0, done.err
        assert page.stat().st_size > 10_000
    assert done.out == done.err == ""


def test_machines_get_json(run, tmp_path):
    done = tiny.medl("report", run, "-o", tmp_path / "a.html", "--log-json", *QUICK)
    assert done.code == 0, done.err
    assert done.out == ""
    assert all("event" in json.loads(line) for line in done.err.splitlines())


def test_what_is_no_run_and_what_is_no_page_is_refused(run, tmp_path):
    done = tiny.medl("report", tmp_path, *QUICK)
    assert (done.code, done.out) == (2, "")
    assert "is not a run: it has no config.toml" in done.err
    done = tiny.medl("report", run, "-o", tmp_path / "a.pdf", *QUICK)
    assert done.code == 2
    assert "A report is written as OUT.html; got 'a.pdf'." in done.err
    assert not list(tmp_path.iterdir())


def test_a_moved_atlas_can_be_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    environment = tmp_path / "run" / "environment.json"
    noted = json.loads(environment.read_text())
    environment.write_text(json.dumps(noted | {"atlas": str(tmp_path / "gone.zarr")}))
    page = tmp_path / "page.html"
    tiny.medl("report", tmp_path / "run", "-o", page, *QUICK)
    assert "gone.zarr, which is not there" in page.read_text(encoding="utf-8")
    done = tiny.medl("report", tmp_path / "run", "-o", page, *QUICK, "--atlas", noted["atlas"])
    assert done.code == 0, done.err
    assert "which is not there" not in page.read_text(encoding="utf-8")


def test_a_fit_that_scores_nothing_writes_no_report(tmp_path_factory):
    made = tiny.made(tmp_path_factory)
    assert "--no-evaluate" in tiny.FIT
    assert not (made.run / "report.html").exists()
    assert "Report:" not in made.fit.out

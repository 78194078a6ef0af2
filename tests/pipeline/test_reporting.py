"""The report of a run: what it says is what the run holds, and what is not there is told."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import tomllib

import numpy as np
import pandas as pd
import pytest

import medl_scale
from medl_scale.errors import ConfigError, RunError
from medl_scale.pipeline.reporting import report
from medl_scale.pipeline.run import Run, fit_folder
from medl_scale.settings import read_toml
from medl_scale.store.atlas import describe, read_columns
from tests import tiny
from tests.report.browser import chromium, opened

__all__ = ["chromium"]
LEFT_OUT = {"umaps": False, "check": False, "viewer": False, "progress": False}
N_CELLS, N_GENES, N_BATCHES, N_LABELS = 1200, 80, 3, 2
HOSTILE = "<script>alert('donor')</script>"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that `fit` scored and reported on, large enough for the check of the what-if."""
    folder = tmp_path_factory.mktemp("report")
    sizes = {"n_cells": N_CELLS, "n_genes": N_GENES, "n_batches": N_BATCHES, "n_labels": N_LABELS}
    medl_scale.simulate(folder / "raw.h5ad", **sizes)
    medl_scale.prepare(
        folder / "raw.h5ad", folder / "an atlas.zarr", batch_key="batch", labels_key="cell_type", min_genes=1, min_cells=1,
        progress=False,
    )  # fmt: skip
    return medl_scale.fit(
        folder / "an atlas.zarr", output=folder / "a run", models=("me", "pca"), max_epochs=1,
        threads=1, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(whole):
    """The report that `fit` wrote at its end."""
    return whole.path / "report.html"


@pytest.fixture(scope="module")
def sections(page):
    """Its sections by id, as they are read."""
    return sections_of(page)


def sections_of(page):
    """Sections of a page by id: text without scripts, styles and tags."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    found = {}
    for name, body in re.findall(r'<section id="([a-z-]+)"(.*?)</section>', text, re.DOTALL):
        plain = html.unescape(re.sub(r"<[^>]*>", " ", body[body.index(">") + 1 :]))
        found[name] = " ".join(plain.split())
    return found


def rows_of(page, section):
    """Rows of the first table of a section, each as its cells' text."""
    text = page.read_text(encoding="utf-8")
    body = text[text.index(f'<section id="{section}"') :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in body.split("</tr>")[:-1]
    ]


def test_fit_leaves_it_in_the_run_with_pictures_and_the_pairs_of_the_check(page, whole):
    scored = whole.path
    assert page.stat().st_size < 15e6
    assert len(pd.read_csv(scored / "what_if_check.csv")) > 0
    assert (scored / "pictures" / "umaps.png").exists()
    assert not list(scored.glob("*medl-tmp*"))


def test_cells_of_every_batch_and_type_are_counted(page, whole):
    atlas, columns = describe(whole.atlas_path), read_columns(whole.atlas_path)
    test = atlas.split(0).test
    rows = rows_of(page, "data")
    assert len(rows) == N_BATCHES
    assert sum(int(row[1]) for row in rows) == N_CELLS
    for row in rows:
        mine = columns.batch_codes == atlas.batch_levels.index(row[0])
        assert int(row[1]) == mine.sum()
        assert int(row[5]) == mine[test].sum()
        by_type = np.bincount(columns.label_codes[mine], minlength=N_LABELS)
        assert sorted(map(int, row[6:])) == sorted(by_type)


def test_models_and_settings_are_told(sections):
    assert " me 0 done " in sections["fits"]
    assert " pca 0 done " in sections["fits"]
    assert "max_epochs = 1" in sections["fits"]


def test_the_commands_that_are_shown_repeat_the_run(page, whole):
    """Run them, as far as to their settings."""
    shown = html.unescape(page.read_text(encoding="utf-8"))
    lines = re.findall(r"medl-scale ((?:prepare|fit) [^<\n]*)", shown)
    prepare, fit = (shlex.split(line) for line in lines[:2])
    assert (fit[0], fit[1]) == ("fit", whole.atlas_path)
    done = tiny.medl(*fit, "--print-config")
    assert tomllib.loads(done.out) == read_toml(whole.path / "config.toml")
    provenance = describe(whole.atlas_path).provenance
    assert prepare[:4] == ["prepare", provenance["inputs"][0]["place"], "-o", whole.atlas_path]
    done = tiny.medl(*prepare, "--print-config")
    wanted = {name: value for name, value in provenance["config"].items() if value is not None}
    assert tomllib.loads(done.out)["prepare"] == wanted


def test_scores_are_those_of_the_table(sections, whole):
    scores = whole.scores
    for row in scores.table[scores.table["metric"] == "iLISI"].itertuples():
        assert f"{row.value:.3f}" in sections["scores"]
    for sentence in scores.verdicts:
        assert sentence in sections["scores"]


def test_genes_that_batches_move_are_those_of_the_effects(page, whole):
    moved = whole.moved_genes("me")
    rows = rows_of(page, "effects")
    assert [row[0] for row in rows] == list(moved["gene"][: len(rows)])
    first = moved.iloc[0]
    shown = [
        float(n.replace("\N{MINUS SIGN}", "-"))
        for n in re.findall("[+\N{MINUS SIGN}]?[0-9.]+", rows[0][2])
    ]
    assert shown == pytest.approx([first.move, first.move_lower, first.move_upper], abs=0.0051)
    own = whole.effects("me", genes=[first.gene], batches=[first.batch]).iloc[0]
    shown = [
        float(n.replace("\N{MINUS SIGN}", "-"))
        for n in re.findall("[+\N{MINUS SIGN}]?[0-9.]+", rows[0][4])
    ]
    assert shown == pytest.approx([own["shift"], own.shift_lower, own.shift_upper], abs=0.0051)


def test_every_section_has_something_to_show(sections):
    assert list(sections) == [
        "data", "fits", "scores", "umaps", "confusion", "curves", "effects", "distances", "check",
        "what-if", "words",
    ]  # fmt: skip
    assert "noise floor" in sections["check"]
    assert "X_pca_batch_centred" in sections["umaps"]
    assert "told from" in sections["confusion"]


def test_what_was_left_out_or_is_not_there_is_told(made, tmp_path):
    shutil.copytree(made.run, tmp_path / "run")
    # The atlas was moved away, and nothing was scored.
    page = report(tmp_path / "run", tmp_path / "page.html", atlas=tmp_path / "gone", **LEFT_OUT)
    found = sections_of(page)
    assert "600" in found["data"]
    assert "The table of batches is left out." in found["data"]
    assert "gone, which is not there" in found["data"]
    assert found["scores"].startswith(
        "Scores The latents have not been scored. medl-scale evaluate"
    )
    for name, what in (("umaps", "UMAPs were"), ("check", "check was"), ("what-if", "viewer was")):
        assert f"The {what} left out when this report was written." in found[name]
    page = report(tmp_path / "run", atlas=tmp_path / "gone", progress=False)
    for name in ("umaps", "check", "what-if"):
        assert "gone, which is not there" in sections_of(page)[name]


def test_failed_fits_are_told_and_the_rest_is_shown(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    for model in ("me", "re"):
        folder = fit_folder(run, model, 0)
        for name in ("done.json", "status.json"):
            (folder / name).unlink(missing_ok=True)
        (folder / "error.txt").write_text(f"Traceback\nDivergedError: {HOSTILE}\n")
    page = report(run, umaps=False, progress=False)
    found = sections_of(page)
    assert f"me fold 0 failed: DivergedError: {HOSTILE}" in found["fits"]
    assert "--resume" in found["fits"]
    assert "No finished model of this run has random effects" in found["effects"]
    assert "random effects" in found["check"]
    assert "random effects" in found["what-if"]
    assert "2 of 4 fits are finished" in page.read_text(encoding="utf-8")
    assert HOSTILE not in page.read_text(encoding="utf-8")


def test_it_can_be_called_from_the_package_and_from_the_run(made, tmp_path):
    first = medl_scale.report(made.run, tmp_path / "a.html", **LEFT_OUT)
    second = Run(made.run).report(tmp_path / "b.html", **LEFT_OUT)
    assert sections_of(first) == sections_of(second)
    with pytest.raises(ConfigError, match=r"OUT.html; got 'a.pdf'"):
        medl_scale.report(made.run, tmp_path / "a.pdf", **LEFT_OUT)
    with pytest.raises(RunError, match="is not a run"):
        medl_scale.report(tmp_path, progress=False)


def test_what_keeps_a_report_from_being_written_costs_no_fit(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    # A folder where the page should be.
    (run / "report.html" / "mine").mkdir(parents=True)
    with pytest.warns(
        UserWarning, match="No report was written: .* Try again with `medl-scale report"
    ):
        found = medl_scale.fit(
            made.atlas, output=run, resume=True, write_latents=False, evaluate=False, report=True,
            progress=False,
        )  # fmt: skip
    assert len(found.finished()) == len(tiny.MODELS)
    assert (run / "report.html" / "mine").is_dir()


@pytest.mark.browser
def test_a_browser_shows_it_without_complaint_and_the_viewer_answers(chromium, page):
    with opened(chromium, page, size=(400, 800)) as seen:
        assert "2 of 2 fits are finished" in seen.page.inner_text("header")
        viewer = seen.page.locator("section#what-if")
        target = viewer.locator("select").last
        target.select_option(index=1)
        first = viewer.inner_text()
        target.select_option(index=2)
        assert viewer.inner_text() != first
        width = seen.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 400
        assert seen.errors == []
        assert seen.requests == []

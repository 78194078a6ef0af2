"""The page: safe whatever names say, readable in both themes, of use by keyboard and on a small screen."""

from __future__ import annotations

import html
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from medl_scale.errors import ConfigError, StoreError
from medl_scale.interpret.check import judged
from medl_scale.report.markup import Column, Html, element, escaped, paragraph, phrase, table
from medl_scale.report.page import Section, page_html, write_page
from medl_scale.report.sections.data import DataFacts, data_section
from medl_scale.report.sections.effects import EffectFacts, effects_section
from medl_scale.report.sections.fits import FitFacts, curves_section, fits_section
from medl_scale.report.sections.missing import Missing
from medl_scale.report.sections.pictures import (
    Drawn,
    confusion_section,
    distances_section,
    umaps_section,
)
from medl_scale.report.sections.scores import ScoreFacts, best_latents, scores_section
from medl_scale.report.sections.what_if import check_in_brief, check_section, viewer_section
from medl_scale.report.sections.words import footer, words_section
from medl_scale.report.theme import DARK, LIGHT
from tests.report.browser import opened, wait_until

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"&'><b>bold</b>"
ENDS = "</style></script></title>-->"
LONG = "a_very_long_name_without_any_place_to_break_it_" * 3
NAMES = (SCRIPT, QUOTES, ENDS, LONG, "Ünïcødé 細胞")
VOID = {"meta", "link", "img", "br", "input"}


def counts_of(batches, labels):
    """Cells of every batch and type, some of none."""
    cells = np.arange(len(batches) * len(labels)).reshape(len(batches), -1) * 7 % 50
    return pd.DataFrame(cells, index=batches, columns=labels)


def data_facts(**changed):
    counts = counts_of(NAMES, NAMES[::-1])
    splits = pd.DataFrame(
        {"train": counts.sum(axis=1), "val": 1, "test": 2}, index=counts.index, dtype=int
    )
    provenance = {
        "inputs": [{"place": f"{QUOTES}.h5ad", "n_obs": 12, "n_vars": 30}],
        "config": {"batch_key": SCRIPT, "layer": None},
        "n_cells_in": 12,
        "n_cells_removed": {"too_few_genes": 2, "no_counts_left": 1},
        "n_genes_in": 30,
        "n_genes_removed": {"too_few_cells": 3, "less_variable": 4},
    }
    given = {
        "path": f"{SCRIPT}.zarr", "n_obs": 1234, "n_vars": 30, "n_batches": len(NAMES),
        "batch_key": SCRIPT, "labels_key": QUOTES, "provenance": provenance, "fold": 0,
        "counts": counts, "splits": splits,
    }  # fmt: skip
    return DataFacts(**(given | changed))


def fit_facts():
    fits = [
        {"model": "me", "fold": 0, "state": "done", "n_latent": 30, "epochs": 3, "best_epoch": 1,
         "relative_error": 0.5, "seconds": 12.0, "peak_memory_bytes": 2**30, "probe": None},
        {"model": "re", "fold": 0, "state": "failed", "error": f"ValueError: {SCRIPT}"},
        {"model": "fe", "fold": 0, "state": "not started"},
    ]  # fmt: skip
    history = pd.DataFrame(
        {"model": "me", "fold": 0, "epoch": [0, 1, 2], "best": [False, True, False],
         "train_total": [3.0, 2.0, 1.5], "val_total": [3.0, 2.1, 2.5],
         "train_effects_kl": [1000.0, 10.0, 1.0], "train_flat": [2.0, 2.0, 2.0],
         "train_lost": [np.nan, np.inf, np.inf]}
    )  # fmt: skip
    return FitFacts(
        fits=fits,
        warnings={("me", 0): [f"The gene {SCRIPT} did not vary."]},
        settings=f'[fit]\nname = "{ENDS}"\n',
        environment={"versions": {"keras": "3"}, "python": "3.12", "machine": SCRIPT},
        repeat=["medl-scale fit 'a b.zarr' -o run"],
        history=history,
        resume="medl-scale fit atlas.zarr -o run --resume",
    )


def score_rows(**changed):
    """One figure as a row of `scores.csv`."""
    given = {
        "space": "X_medl_me", "fold": 0, "split": "test", "metric": "ilisi_knn", "of": "donor",
        "value": 0.5, "error": 1e-9, "kind": "exact", "confidence": np.nan, "n": 100,
        "method": "brute", "seconds": 1.0,
    }  # fmt: skip
    return given | changed


def score_facts(rows):
    return ScoreFacts(pd.DataFrame(rows), [f"{SCRIPT}: better."], ["A note."], "donor", "type")


def effect_facts():
    genes, batch = list(NAMES), NAMES[0]
    ends = {"move": 1.0, "move_lower": 0.5, "move_upper": 1.5}
    moved = pd.DataFrame(
        {"gene": genes, "score": 1.0, "rms_move": 1.0, "batch": batch, **ends, "share": 0.2,
         "share_lower": 0.1, "share_upper": 0.3, "observed_share": [0.2, 0.1, 0.1, 0.1, np.nan],
         "gene_sd": 1.0}
    )  # fmt: skip
    each = {f"{k}{e}": 0.1 for k in ("scale", "shift") for e in ("", "_lower", "_upper")}
    rows = pd.DataFrame({"gene": genes, "batch": batch, **each})
    return EffectFacts(moved, rows, n_genes=30, n_sure=20, level=0.95)


def what_if_check():
    """Two pairs, of which the model beats the additive shift in one."""
    base = {
        "model": "me", "fold": 0, "label": SCRIPT, "source": "a", "target": "b", "n_source": 30,
        "n_target": 30, "n_train": 50, "seen": True, "correlation": 0.9, "error_batch_shift": 0.6,
        "error_two_way_profile": 0.3, "error_no_shift": 1.0, "correlation_two_way_shift": 0.5,
        "correlation_batch_shift": 0.4, "correlation_two_way_profile": 0.6, "noise_floor": 0.2,
        "noise_floor_of_shifts": 0.3,
    }  # fmt: skip
    pairs = [
        base | {"error": 0.4, "error_two_way_shift": 0.5},
        base | {"error": 0.6, "error_two_way_shift": 0.5},
    ]
    return judged(pd.DataFrame(pairs), n_possible=2, min_cells=20, split="test")


def sections():
    rows = [
        score_rows(space=space, metric=metric, of=of, value=value)
        for space, value in (("X_medl_me", 0.5), (SCRIPT, 0.4))
        for metric, of in (("ilisi_knn", "donor"), ("silhouette_label", "type"), ("RFAccuracy", QUOTES))
    ]  # fmt: skip
    drawn = Drawn(SCRIPT, QUOTES, Html('<svg role="img" aria-label="A picture" width="900"></svg>'))
    return [
        data_section(data_facts()),
        fits_section(fit_facts()),
        scores_section(score_facts(rows)),
        curves_section(fit_facts()),
        umaps_section(Missing("There are no UMAPs.")),
        confusion_section([drawn, drawn]),
        distances_section([drawn]),
        effects_section({"me": effect_facts(), "re": effect_facts()}),
        check_section(what_if_check()),
        viewer_section(Missing(f"No viewer: {SCRIPT}.", "medl-scale fit ATLAS --models me")),
        words_section("1.0"),
    ]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """A page whose names are as hostile as names can be."""
    lead = phrase(paragraph(SCRIPT), paragraph(LONG))
    page = page_html(f"Report of {SCRIPT}{ENDS}", lead, sections(), footer("1.0", "today"))
    return write_page(page, tmp_path_factory.mktemp("page") / "a page.html")


class Outline(HTMLParser):
    """What an assistive technology makes of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.ids, self.links, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def outline(page_path):
    return Outline(page_path.read_text(encoding="utf-8"))


def contrast(first, second):
    """WCAG 2's contrast of two colours `#rrggbb`."""

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_as_wcag_aa_asks(theme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ink in ("ink", "muted", "accent"):
        for paper in ("paper", "panel"):
            assert contrast(theme[ink], theme[paper]) >= 4.5, (ink, paper)
    assert contrast(theme["warn-ink"], theme["warn-paper"]) >= 4.5
    for line in ("train", "val"):
        assert contrast(theme[line], theme["paper"]) >= 3.0, line
    # The darkest shade of a table's cell.
    mixed = [
        round(
            0.45 * int(theme["accent"][k : k + 2], 16) + 0.55 * int(theme["paper"][k : k + 2], 16)
        )
        for k in (1, 3, 5)
    ]
    assert contrast(theme["ink"], "#{:02x}{:02x}{:02x}".format(*mixed)) >= 4.5


def test_both_themes_have_the_same_colours():
    assert LIGHT.keys() == DARK.keys()


def test_markup_is_escaped_where_it_is_put_in_and_only_once():
    assert escaped(QUOTES) == "&quot;&amp;&#x27;&gt;&lt;b&gt;bold&lt;/b&gt;"
    assert escaped(escaped(QUOTES)) == escaped(QUOTES)
    assert element("p", "a<b", title='"x"', hidden=True, lang=None) == (
        '<p title="&quot;x&quot;" hidden>a&lt;b</p>'
    )
    # What no page may hold, and what no file can.
    assert escaped("a\x00b\ud800c\td") == "a\ufffdb\ufffdc\td"


def test_a_table_has_heads_of_columns_and_rows():
    made = table([Column("gene"), Column("n", "right", "cells")], [["<A>", 3]], caption="Cells.")
    assert '<th scope="col">gene</th>' in made
    assert '<th scope="row">&lt;A&gt;</th><td class="num">3</td>' in made
    assert "<caption>Cells.</caption>" in made
    with pytest.raises(ValueError, match="argument"):
        table([Column("one")], [[1, 2]], caption="")


def test_the_page_is_well_formed_and_every_link_leads_somewhere(outline):
    assert outline.wrong == []
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    inner = [link[1:] for link in outline.links if link.startswith("#")]
    assert len(inner) >= len(sections())
    assert set(inner) <= set(outline.ids)


def test_the_page_has_one_heading_landmarks_and_descriptions(outline):
    names = [tag for tag, _ in outline.tags]
    for landmark in ("h1", "main", "nav", "header", "footer"):
        assert names.count(landmark) == 1, landmark
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert names.count("caption") == names.count("table") > 5
    assert all("scope" in attributes for tag, attributes in outline.tags if tag == "th")
    for tag, attributes in outline.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "img":
            assert attributes.get("alt")


def test_names_cannot_become_markup(page_path, outline):
    text = page_path.read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    # The theme's, and the page's own.
    assert sum(tag == "script" for tag, _ in outline.tags) == 2


def test_sections_need_ids_of_their_own():
    twice = [Section("data", "A", Html("")), Section("data", "B", Html(""))]
    with pytest.raises(ConfigError, match=r"ids of their own.*'data', 'data'"):
        page_html("x", Html(""), twice, Html(""))
    with pytest.raises(ConfigError, match=r"lower-case letters.*'A b'"):
        page_html("x", Html(""), [Section("A b", "A", Html(""))], Html(""))


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(ConfigError, match=r"OUT.html; got 'report.pdf'"):
        write_page(Html("x"), tmp_path / "report.pdf")
    path = write_page(Html("ä"), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == "ä"
    (tmp_path / "full.html").mkdir()
    with pytest.raises((StoreError, OSError)):
        write_page(Html("x"), tmp_path / "full.html")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["full.html", "new"]


def text_of(section):
    """A section as it is read."""
    return " ".join(re.sub(r"<[^>]*>", " ", section.body).split())


def test_what_is_not_there_is_told_with_the_command_that_adds_it():
    told = Missing("The latents have not been scored.", "medl-scale evaluate RUN")
    for make in (scores_section, umaps_section, confusion_section, distances_section,
                 effects_section, check_section, viewer_section):  # fmt: skip
        assert text_of(make(told)) == ("The latents have not been scored. medl-scale evaluate RUN")


def test_the_largest_batches_and_commonest_types_are_listed_and_the_rest_counted():
    counts = counts_of([f"b{k}" for k in range(250)], [f"t{k}" for k in range(40)]) + 1
    facts = data_facts(counts=counts, splits=None, n_batches=250)
    text = text_of(data_section(facts))
    assert "Not listed: 50 smaller batches and 10 rarer types." in text
    largest = counts.sum(axis=1).sort_values(ascending=False, kind="stable")
    assert f" {largest.index[0]} {largest.iloc[0]:,} " in text
    assert f" {largest.index[-1]} {largest.iloc[-1]:,} " not in text


def test_data_without_labels_say_how_to_add_them():
    counts = pd.DataFrame({"Unknown": [3, 4]}, index=["a", "b"])
    text = text_of(data_section(data_facts(counts=counts, labels_key=None, splits=None)))
    assert "none given; add them with medl-scale prepare --labels-key COLUMN" in text
    assert "pairs of batch and type" not in text


def test_failures_and_warnings_of_fits_are_told():
    text = text_of(fits_section(fit_facts()))
    assert "re fold 0 failed: ValueError: &lt;script&gt;" in text
    assert "fe fold 0 is not started" in text
    assert "medl-scale fit atlas.zarr -o run --resume" in text
    assert "me fold 0: The gene &lt;script&gt;" in text


def marked(section):
    """Which latent and figure are marked as best."""
    rows = re.findall(r"<tr><th.*?</tr>", section.body)
    return [
        (re.search("<code>(.*?)</code>", row)[1], value)
        for row in rows
        for value in re.findall(r'class="best">([^<]*)<', row)
    ]


def test_the_best_latent_is_marked_in_the_direction_that_is_good():
    rows = [
        score_rows(space=space, metric=metric, value=value)
        for space, value in (("X_medl_me", 0.5), ("X_pca", 0.4), ("X_medl_re", 0.9))
        for metric in ("ilisi_knn", "ASW")
    ]
    # More mixing is better, more separate batches are worse; re knows the batch on purpose.
    section = scores_section(score_facts(rows))
    assert marked(section) == [("X_medl_me", "0.500"), ("X_pca", "0.400")]
    assert "X_medl_re holds the batch on purpose and is no candidate." in text_of(section)
    said = [re.sub("<[^>]*>", "", line) for line in best_latents(score_facts(rows))]
    assert said == ["X_medl_me mixes the batches best of the latents scored (ilisi_knn 0.500)."]


def test_what_errors_do_not_tell_apart_shares_the_mark_and_errors_are_shown():
    rows = [
        score_rows(space="a", value=0.50, error=0.03, kind="confidence", confidence=0.99),
        score_rows(space="b", value=0.46, error=0.02, kind="certified"),
        score_rows(space="c", value=0.40, error=0.02, kind="certified"),
    ]
    section = scores_section(score_facts(rows))
    assert marked(section) == [("a", "≈0.500"), ("b", "=0.460")]
    text = text_of(section)
    assert "≈0.500 best ± 0.030" in text
    assert "Of all figures 2 within a proven bound (=), 1 estimated with an interval (≈)." in text
    assert "confidence at 99%" in text


def test_over_folds_the_interval_is_that_of_the_mean():
    rows = [
        score_rows(space=space, fold=fold, value=base + 0.1 * fold)
        for space, base in (("a", 0.5), ("b", 0.45))
        for fold in range(3)
    ]
    section = scores_section(score_facts(rows))
    # Means of three folds, s.d. 0.1, t(0.975, 2) = 4.303: half-width 0.248.
    assert marked(section) == [("a", "0.600"), ("b", "0.550")]
    assert "0.600 best ± 0.248" in text_of(section)
    assert "means over 3 folds" in text_of(section)


def test_the_check_in_brief_says_what_its_table_says():
    said = html.unescape(re.sub("<[^>]*>", "", check_in_brief(what_if_check())))
    assert "in 50 % of 2 moves (relative error 0.50 against 0.50; noise alone makes 0.20)" in said
    assert "the mean of the type plus the batch's effect comes nearer still (0.30)" in said
    text = text_of(check_section(what_if_check()))
    assert "additive shift by type and batch" in text
    assert "difference of the batches' means" in re.sub("&#x27;", "'", text)
    assert "noise floor" in text


@pytest.mark.browser
def test_the_page_asks_for_nothing_and_complains_of_nothing(chromium, page_path):
    with opened(chromium, page_path) as seen:
        dialogs = []
        seen.page.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
        seen.page.wait_for_load_state()
        assert seen.page.inner_text("h1") == f"Report of {SCRIPT}{ENDS}"
        assert seen.page.title() == f"Report of {SCRIPT}{ENDS}"
        for name in NAMES:
            assert seen.page.get_by_role("rowheader", name=name, exact=True).count() >= 1, name
        assert dialogs == []
        assert seen.errors == []
        assert seen.requests == []


@pytest.mark.browser
def test_the_policy_of_the_page_forbids_the_network(chromium, page_path):
    with opened(chromium, page_path) as seen:
        tried = "fetch('https://example.org/').then(() => 'asked', () => 'refused')"
        assert seen.page.evaluate(tried) == "refused"
        assert any("Content Security Policy" in text for text in seen.errors)
        assert seen.requests == []


@pytest.mark.browser
def test_contents_lead_to_sections_and_follow_the_reader(chromium, page_path):
    with opened(chromium, page_path) as seen:
        page = seen.page
        page.get_by_role("navigation").get_by_role("link", name="What batches do to genes").click()
        top = "document.getElementById('effects').getBoundingClientRect().top"
        wait_until(page, f"Math.abs({top}) < 60")
        wait_until(page, "document.querySelector('#contents [aria-current]')?.hash === '#effects'")


@pytest.mark.browser
def test_the_theme_is_the_systems_until_the_reader_chooses_by_click_or_key(chromium, page_path):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (
        "rgb(255, 255, 255)",
        "rgb({}, {}, {})".format(*(int(DARK["paper"][k : k + 2], 16) for k in (1, 3, 5))),
    )
    for is_dark, colours in ((False, (light, dark)), (True, (dark, light))):
        with opened(chromium, page_path, dark=is_dark) as seen:
            page = seen.page
            button = page.get_by_role("button", name="Dark theme")
            assert button.get_attribute("aria-pressed") == str(is_dark).lower()
            assert page.evaluate(paper) == colours[0]
            button.click()
            assert page.evaluate(paper) == colours[1]
            assert button.get_attribute("aria-pressed") == str(not is_dark).lower()
            button.focus()
            page.keyboard.press("Enter")
            assert page.evaluate(paper) == colours[0]
            # What was chosen outlives the page.
            page.keyboard.press("Space")
            page.reload()
            assert page.evaluate(paper) == colours[1]
            page.emulate_media(media="print")
            assert page.evaluate(paper) == light


@pytest.mark.browser
def test_the_first_key_leads_past_the_contents(chromium, page_path):
    with opened(chromium, page_path) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "report"
        # Whatever takes the focus shows it.
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 800, 1280])
def test_tables_scroll_inside_themselves_and_the_page_does_not(chromium, page_path, width):
    with opened(chromium, page_path, size=(width, 800)) as seen:
        page = seen.page
        page.locator("main details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        sizes = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert sizes[0] <= sizes[1]
        wide = page.locator(".scroll", has=page.get_by_role("table")).first
        assert wide.evaluate("one => one.scrollWidth > one.clientWidth")
        wide.focus()
        page.keyboard.press("ArrowRight")
        wait_until(page, "document.activeElement.scrollLeft > 0")


@pytest.mark.browser
def test_without_scripts_everything_is_there_to_read(chromium, page_path):
    with opened(chromium, page_path, scripts=False, size=(400, 800)) as seen:
        assert not seen.page.locator("#theme").is_visible()
        assert seen.page.get_by_role("link", name="The data").is_visible()
        assert "Where the data come from" in seen.page.inner_text("main")

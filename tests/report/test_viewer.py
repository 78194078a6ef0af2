"""The what-if viewer in a real browser: what it shows is what it was given, by click and by key."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from medl_scale.report.viewer import viewer_html, viewer_page
from medl_scale.report.viewer_data import ViewerCell, ViewerData
from tests.report.browser import opened

pytestmark = pytest.mark.browser

N_GENES = 41
SHAPE = (7, 6)
HOSTILE = "</script><script>document.title='stolen'</script>"
QUOTED = "\"'&amp; <b>x</b>"
TARGETS = ("a", HOSTILE, "c & 'd'", "average")
CELLS = (
    ViewerCell("cell 1", "T", "a"),
    ViewerCell(QUOTED, "T", HOSTILE),
    ViewerCell("cell 3", "<i>B</i>", "elsewhere"),
)
GENES = ("XIST", HOSTILE.upper(), QUOTED, *(f"gene{i}" for i in range(3, N_GENES)))


def example(**changes) -> ViewerData:
    """Three cells; the own batch of the third is no target."""
    rng = np.random.default_rng(0)
    n_cells, n_targets = len(CELLS), len(TARGETS)
    own = rng.gamma(1.0, 1.0, (n_cells, N_GENES)).astype(np.float32)
    move = rng.normal(0.0, 1.0, (n_cells, n_targets, N_GENES)).astype(np.float32)
    reach = rng.gamma(2.0, 0.3, move.shape).astype(np.float32)
    for cell, target in ((0, 0), (1, 1)):
        move[cell, target] = reach[cell, target] = 0.0
    made = ViewerData(
        run="run <1>",
        model="me",
        units="log-normalised expression",
        level=0.9,
        intervals="Intervals of draws.",
        gene_names=GENES,
        pixels=rng.permutation(SHAPE[0] * SHAPE[1])[:N_GENES],
        shape=SHAPE,
        cells=CELLS,
        targets=TARGETS,
        has_average=True,
        measured=rng.poisson(1.0, (n_cells, N_GENES)).astype(np.float32),
        own=own,
        as_if=own[:, None] + move,
        lower=move - reach,
        upper=move + reach * np.float32(1.25),
        notes=(f"A note {HOSTILE}",),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def data() -> ViewerData:
    return example()


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    path.write_text(viewer_page(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def seen(chromium, path):
    """The page, open for all tests of this module that leave it well."""
    with opened(chromium, path) as seen:
        yield seen


@pytest.fixture
def page(seen):
    """The page as it is when it is opened."""
    seen.page.goto("about:blank")
    seen.page.goto(seen.url)
    wait(seen.page)
    yield seen.page
    assert seen.errors == []
    assert seen.requests == []


def wait(page):
    page.wait_for_selector("#medl-viewer[aria-busy=false]")


def choose(page, name, value):
    page.select_option(f"#medl-viewer-{name}", value)
    wait(page)


def pixels(page, key):
    """The image as it is drawn, and its thumbnail's strip."""
    return page.evaluate(
        "key => document.getElementById(`medl-viewer-image-${key}`).toDataURL()", key
    )


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-"))


def reading(page):
    """The gene that is read out, by what is said of it."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("#medl-viewer-reading > span")].map(
            (item) => [item.dataset.of, item.lastElementChild.textContent]))"""
    )


def rows(page):
    """The table's texts, without the pictures of intervals."""
    return page.evaluate(
        """() => [...document.getElementById("medl-viewer-rows").rows].map(
            (row) => [...row.cells].slice(0, 5).map((cell) => cell.textContent))"""
    )


def sure_sizes(data, cell, target):
    lower, upper = data.lower[cell, target], data.upper[cell, target]
    return np.maximum(lower, -upper)


def test_it_opens_on_a_cell_under_another_batch_with_its_genes_in_order(page, data):
    assert page.input_value("#medl-viewer-target") == "1"
    found = rows(page)
    order = np.argsort(-sure_sizes(data, 0, 1), kind="stable")[: len(found)]
    assert [row[0] for row in found] == [data.gene_names[gene] for gene in order]
    for row, gene in zip(found, order, strict=True):
        own, as_if = data.own[0, gene], data.as_if[0, 1, gene]
        ends = [number(end) for end in row[4].split(" to ")]
        expected = [own, as_if, as_if - own, data.lower[0, 1, gene], data.upper[0, 1, gene]]
        shown = [*map(number, row[1:4]), *ends]
        np.testing.assert_allclose(shown, expected, atol=0.005 + 2 * data.step)
    words = page.text_content("#medl-viewer-words")
    best = order[0]
    move = data.as_if[0, 1, best] - data.own[0, best]
    how = "more" if move > 0 else "less"
    start = re.escape(f"In {HOSTILE}, this cell (T) would express ")
    said = re.match(
        rf"{start}(\S+) {how} of {data.gene_names[best]} \(90 % interval (\S+) to (\S+)\)", words
    )
    ends = sorted([abs(data.lower[0, 1, best]), abs(data.upper[0, 1, best])])
    shown = [float(text) for text in said.groups()]
    np.testing.assert_allclose(shown, [abs(move), *ends], atol=0.005 + 2 * data.step)
    n_sure = int((sure_sizes(data, 0, 1) > 0).sum())
    assert words.endswith(f"Of {N_GENES} genes, {n_sure} have an interval without 0.")


@pytest.mark.parametrize(
    ("name", "value", "changed"),
    [
        ("label", "1", {"measured", "own", "asIf", "move"}),
        ("cell", "1", {"measured", "own", "asIf", "move"}),
        ("target", "2", {"asIf", "move"}),
    ],
)
def test_what_is_chosen_changes_its_images_and_the_table(page, name, value, changed):
    keys = ("measured", "own", "asIf", "move")
    before, table = {key: pixels(page, key) for key in keys}, rows(page)
    choose(page, name, value)
    assert {key for key in keys if pixels(page, key) != before[key]} == changed
    assert rows(page) != table


def test_everything_can_be_chosen_by_keys(page, data):
    before = pixels(page, "move")
    page.focus("#medl-viewer-target")
    page.keyboard.press("ArrowDown")
    wait(page)
    assert page.input_value("#medl-viewer-target") == "2"
    second = pixels(page, "move")
    assert second != before

    # The strip is one stop, and arrows choose in it.
    page.focus("#medl-viewer-strip input:checked")
    page.keyboard.press("ArrowRight")
    wait(page)
    assert page.input_value("#medl-viewer-target") == "3"
    assert pixels(page, "move") not in {before, second}
    assert page.text_content("#medl-viewer-words").startswith("Without any batch's effects, this")

    page.focus("#medl-viewer-cell")
    page.keyboard.press("ArrowDown")
    wait(page)
    assert page.input_value("#medl-viewer-cell") == "1"
    page.focus("#medl-viewer-order")
    page.keyboard.press("ArrowDown")
    wait(page)
    moves = np.abs(data.as_if[1, 3] - data.own[1])
    assert rows(page)[0][0] == data.gene_names[int(np.argmax(moves))]


def test_arrows_walk_from_pixel_to_pixel_and_read_each_gene_out(page, data):
    grid = np.full(SHAPE[0] * SHAPE[1], -1)
    grid[data.pixels] = np.arange(N_GENES)
    grid = grid.reshape(SHAPE)
    page.fill("#medl-viewer-find", "XIST")
    row, column = divmod(int(data.pixels[0]), SHAPE[1])
    page.focus("#medl-viewer-image-asIf")
    ways = {"ArrowRight": (0, 1), "ArrowDown": (1, 0), "ArrowLeft": (0, -1), "ArrowUp": (-1, 0)}
    for key in (*["ArrowDown"] * 7, *["ArrowRight"] * 7, "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
        below, beside = row + ways[key][0], column + ways[key][1]
        inside = 0 <= below < SHAPE[0] and 0 <= beside < SHAPE[1]
        # At the edge and beside the padding it stays.
        if inside and grid[below, beside] >= 0:
            row, column = below, beside
        gene = grid[row, column]
        assert reading(page)["gene"] == data.gene_names[gene]
    said = page.get_attribute("#medl-viewer-image-asIf", "aria-label")
    assert said.startswith(f"cell 1 (T) as if from {HOSTILE}, brighter is more. Image of 41 genes")
    assert f"Marked: {data.gene_names[gene]}, {reading(page)['as if']}." in said
    assert page.get_attribute("#medl-viewer-reading", "aria-live") == "polite"


@pytest.mark.parametrize(("cell", "target"), [(0, 1), (1, 2), (2, 3)])
def test_what_is_read_out_is_what_was_given_to_the_stated_step(page, data, cell, target):
    choose(page, "label", "1" if cell == 2 else "0")
    choose(page, "cell", str(cell))
    choose(page, "target", str(target))
    slack = data.step * 0.5001
    for gene in range(0, N_GENES, 4):
        page.fill("#medl-viewer-find", data.gene_names[gene])
        found = reading(page)
        assert found["gene"] == data.gene_names[gene]
        own, as_if = data.own[cell, gene], data.as_if[cell, target, gene]
        ends = [number(end) for end in found["90 % interval"].split(" to ")]
        assert number(found["measured"]) == pytest.approx(data.measured[cell, gene], abs=slack)
        assert number(found["own batch"]) == pytest.approx(own, abs=slack)
        assert number(found["as if"]) == pytest.approx(as_if, abs=slack)
        assert number(found["difference"]) == pytest.approx(as_if - own, abs=2 * slack)
        assert ends[0] == pytest.approx(data.lower[cell, target, gene], abs=slack)
        assert ends[1] == pytest.approx(data.upper[cell, target, gene], abs=slack)


@pytest.mark.parametrize(("cell", "value"), [("0", "0"), ("1", "1"), ("2", "own")])
def test_the_own_batch_is_the_reconstruction_and_differs_in_nothing(page, cell, value):
    choose(page, "label", "1" if cell == "2" else "0")
    choose(page, "cell", cell)
    other = pixels(page, "move")
    choose(page, "target", value)
    option = page.text_content(f"#medl-viewer-target option[value='{value}']")
    assert option == f"{CELLS[int(cell)].batch} (own batch)"
    assert {tuple(row[3:]) for row in rows(page)} == {("0.00", "0.00 to 0.00")}
    assert pixels(page, "own") == pixels(page, "asIf")
    assert pixels(page, "move") != other
    colours = page.evaluate(
        """() => {
            const canvas = document.querySelector("#medl-viewer-strip input:checked ~ canvas")
                || document.createElement("canvas");
            const image = canvas.getContext("2d").getImageData(0, 0, 6, 7).data;
            const seen = new Set();
            for (let i = 0; i < image.length; i += 4) if (image[i + 3]) seen.add(image.slice(i, i + 3).join());
            return [...seen];
        }"""
    )
    assert len(colours) == (0 if value == "own" else 1)
    assert "own batch" in page.text_content("#medl-viewer-words")


def test_pointing_reads_a_gene_and_a_click_keeps_it(page, data):
    kept = reading(page)["gene"]
    box = page.locator("#medl-viewer-image-own").bounding_box()

    def at(gene):
        row, column = divmod(int(data.pixels[gene]), SHAPE[1])
        return (box["x"] + 1 + (column + 0.5) * (box["width"] - 2) / SHAPE[1],
                box["y"] + 1 + (row + 0.5) * (box["height"] - 2) / SHAPE[0])  # fmt: skip

    page.mouse.move(*at(5))
    assert reading(page)["gene"] == "gene5"
    page.mouse.move(2, 2)
    assert reading(page)["gene"] == kept
    page.mouse.click(*at(7))
    page.mouse.move(2, 2)
    assert reading(page)["gene"] == "gene7"
    page.fill("#medl-viewer-find", "no such gene")
    page.keyboard.press("Enter")
    assert page.get_attribute("#medl-viewer-find", "aria-invalid") == "true"
    assert reading(page)["gene"] == "gene7"
    third = page.locator("#medl-viewer-rows button").nth(2)
    third.click()
    assert reading(page)["gene"] == third.text_content()
    assert page.locator("#medl-viewer-rows tr").nth(2).get_attribute("aria-current") == "true"


def test_names_are_text_and_never_markup(page, data):
    choose(page, "cell", "1")
    assert page.title() == "What if this cell came from another batch?"
    assert page.locator("#medl-viewer i, #medl-viewer table b, #medl-viewer b b").count() == 0
    options = page.eval_on_selector_all("option", "all => all.map((one) => one.textContent)")
    assert f"{QUOTED} ({HOSTILE})" in options
    assert "<i>B</i>" in options
    page.fill("#medl-viewer-find", QUOTED)
    assert reading(page)["gene"] == QUOTED
    assert f"A note {HOSTILE}" in page.text_content(".medl-viewer-notes")
    assert viewer_html(data).count("</script>") == 2


def test_the_address_keeps_the_view_and_a_link_opens_it(page, seen):
    choose(page, "cell", "1")
    choose(page, "target", "2")
    choose(page, "order", "size")
    page.fill("#medl-viewer-find", QUOTED)
    address, table, image = page.evaluate("location.href"), rows(page), pixels(page, "move")
    assert "#what-if?" in address
    page.goto("about:blank")
    page.goto(address)
    wait(page)
    assert (rows(page), pixels(page, "move")) == (table, image)
    assert reading(page)["gene"] == QUOTED
    assert page.input_value("#medl-viewer-order") == "size"
    # A link within the page is followed too; one to nothing that is there changes nothing.
    page.evaluate("location.hash = '#what-if?cell=cell 3&as=elsewhere'")
    page.wait_for_function("document.getElementById('medl-viewer-cell').value === '2'")
    assert page.input_value("#medl-viewer-target") == "own"
    page.evaluate("location.hash = '#what-if?cell=nobody&as=nowhere&gene=none&order=none'")
    wait(page)
    assert page.input_value("#medl-viewer-cell") == "2"
    assert page.input_value("#medl-viewer-target") != "own"


def test_colours_follow_the_theme(page):
    light, values = pixels(page, "move"), pixels(page, "own")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "before => document.getElementById('medl-viewer-image-move').toDataURL() !== before",
        arg=light,
    )
    assert pixels(page, "own") == values
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        "before => document.getElementById('medl-viewer-image-move').toDataURL() === before",
        arg=light,
    )
    # A page's own switch, such as an attribute of the root, is followed as well.
    page.evaluate(
        "document.documentElement.style.setProperty('--paper', '#101010');"
        "document.documentElement.dataset.theme = 'dark'"
    )
    page.wait_for_function(
        "before => document.getElementById('medl-viewer-image-move').toDataURL() !== before",
        arg=light,
    )


def test_a_narrow_page_does_not_scroll_sideways_and_names_are_told(chromium, path):
    with opened(chromium, path, size=(400, 800)) as seen:
        wait(seen.page)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 400
        for field in seen.page.query_selector_all("#medl-viewer select, #medl-viewer input"):
            assert field.evaluate("field => field.labels.length") == 1
        assert seen.errors == []


def test_without_what_it_needs_a_sentence_says_so(chromium, path):
    with opened(chromium, path, scripts=False) as seen:
        assert "needs JavaScript" in seen.page.inner_text(".medl-viewer")
    with opened(chromium, path) as seen:
        seen.page.add_init_script("delete window.DecompressionStream")
        seen.page.reload()
        wait(seen.page)
        assert "cannot unpack" in seen.page.inner_text("#medl-viewer-message")
        assert not seen.page.is_visible("#medl-viewer-choices")
    damaged = path.with_name("damaged.html")
    damaged.write_text(re.sub('"numbers":"....', '"numbers":"AAAA', path.read_text()))
    with opened(chromium, damaged) as seen:
        wait(seen.page)
        assert "data are damaged" in seen.page.inner_text("#medl-viewer-message")


def test_genes_without_an_interval_say_so_and_come_last(chromium, tmp_path):
    data = example()
    kept = np.zeros(data.lower.shape, np.bool_)
    kept[..., 3:6] = True
    data = dataclasses.replace(
        data, lower=np.where(kept, data.lower, np.nan), upper=np.where(kept, data.upper, np.nan)
    )
    path = tmp_path / "few.html"
    path.write_text(viewer_page(data))
    with opened(chromium, path) as seen:
        wait(seen.page)
        found = rows(seen.page)
        assert {row[0] for row in found[:3]} == {"gene3", "gene4", "gene5"}
        assert {row[4] for row in found[3:]} == {"none kept"}
        assert "Of the 3 genes that move most, " in seen.page.text_content("#medl-viewer-words")
        # What the own batch changes is known without one.
        choose(seen.page, "target", "0")
        assert {row[4] for row in rows(seen.page)} == {"0.00 to 0.00"}
        assert seen.errors == []

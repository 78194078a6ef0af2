"""Pictures of UMAPs: what is drawn, what is said of it, and names that are markup."""

import io

import numpy as np
import pytest

from medl_scale.errors import DataError
from medl_scale.report.palette import NO_LEVEL, PALETTE, colours_of
from medl_scale.report.umap_sheet import umap_sheet
from medl_scale.report.umaps import Colouring, picture_of, umaps_html

STRANGE = ("<script>alert(1)</script>", "\"&'", "$\\alpha$", "_hidden")


def contrast(first, second):
    """Contrast of two colours after WCAG 2."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def cells(n_levels, n=300, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_levels, n).astype(np.int32)
    return rng.normal(size=(n, 2)).astype(np.float32), codes


def drawn(png):
    """The pixels of a picture, (rows, columns, 4)."""
    from matplotlib.image import imread

    return imread(io.BytesIO(png))


def test_colours_differ_and_can_be_seen_on_light_and_dark_paper():
    for n in (3, 20, 60):
        colours = colours_of([f"level {i}" for i in range(n)])
        assert len(set(colours)) == n
        for colour in (*colours, NO_LEVEL):
            assert contrast(colour, "#ffffff") > 1.5
            assert contrast(colour, "#14171b") > 2.0
    assert min(contrast(colour, "#ffffff") for colour in PALETTE) > 2.0


def test_a_level_has_the_same_colour_in_every_picture():
    places, codes = cells(4)
    levels = ("a", "b", "c", "d")
    whole = picture_of("X_one", places, [Colouring("batch", levels, codes)], caption="")
    # Another latent, of cells among which the first level is missing.
    part = picture_of(
        "X_two", places[codes > 0], [Colouring("batch", levels, codes[codes > 0])], caption=""
    )
    first = {entry.name: entry.colour for entry in whole.panels[0].legend}
    second = {entry.name: entry.colour for entry in part.panels[0].legend}
    assert set(second) == {"b", "c", "d"}
    assert second.items() <= first.items()
    # The points have that colour, too.
    only = picture_of(
        "X", places, [Colouring("batch", levels, np.full(300, 2, np.int32))], caption=""
    )
    pixels = drawn(only.panels[0].png)[:520, 80:].reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 0.8]
    wanted = np.array([int(first["c"][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert len(opaque)
    assert np.abs(np.median(opaque[:, :3], axis=0) - wanted).max() < 0.02


def test_the_paper_is_transparent_and_no_level_hides_the_others():
    rng = np.random.default_rng(0)
    # Everything at almost the same place: what is drawn last is seen.
    places = rng.normal(scale=1e-3, size=(2000, 2)).astype(np.float32)
    codes = np.repeat([0, 1], 1000).astype(np.int32)
    png = picture_of("X", places, [Colouring("batch", ("a", "b"), codes)], caption="").panels[0].png
    pixels = drawn(png).reshape(-1, 4)
    assert (pixels[:, 3] == 0).mean() > 0.5
    seen = pixels[pixels[:, 3] > 0.9][:, :3]
    shares = [
        np.mean(np.abs(seen - [int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]).sum(axis=1) < 0.4)
        for c in PALETTE[:2]
    ]
    assert min(shares) > 0.15


def test_the_legend_counts_every_cell_and_says_how_many_levels_it_leaves_out():
    places, codes = cells(50, n=900)
    codes[:30] = -1
    colouring = Colouring("type", tuple(f"t{i:02}" for i in range(50)), codes, numbered=True)
    panel = picture_of("X_pca", places, [colouring], caption="").panels[0]
    assert len(panel.legend) == 20
    assert panel.n_more == 31
    assert sum(entry.n for entry in panel.legend) + panel.n_more_cells == 900
    unknown = next(entry for entry in panel.legend if entry.name == "Unknown")
    assert (unknown.n, unknown.colour, unknown.number) == (30, NO_LEVEL, None)
    numbers = [entry.number for entry in panel.legend if entry.number]
    assert len(set(numbers)) == 19
    assert "900 cells coloured by type, 51 levels" in panel.alt
    assert f"and 31 more with {panel.n_more_cells:,} cells" in umaps_html(
        [picture_of("X_pca", places, [colouring], caption="")]
    )


def test_strange_names_are_text_in_the_page_and_do_not_break_the_sheet():
    places, codes = cells(4)
    colouring = Colouring("<b>&", STRANGE, codes, numbered=True)
    picture = picture_of("X_<i>", places, [colouring], caption="1 < 2")
    html = umaps_html([picture])
    assert "<script>" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&quot;&amp;&#x27;" in html
    assert "1 &lt; 2" in html
    sheet = drawn(umap_sheet([picture]))
    assert sheet[..., :3].min() < 0.2
    assert sheet.shape[2] == 4


def test_one_level_and_numbers_at_one_place_can_be_drawn():
    places, codes = cells(5)
    places[:] = 1.0
    one = Colouring("batch", ("only",), np.zeros(300, np.int32), numbered=True)
    many = Colouring("type", tuple("abcde"), codes, numbered=True)
    picture = picture_of("X", places, [one, many], caption="")
    assert [len(panel.legend) for panel in picture.panels] == [1, 5]
    assert umaps_html([]) == ""


def test_what_cannot_be_drawn_is_refused():
    places, codes = cells(2)
    places[7] = np.nan
    with pytest.raises(DataError, match=r"finite numbers; got shape \(300, 2\) with 1 cells"):
        picture_of("X", places, [], caption="")
    good = cells(2)[0]
    with pytest.raises(DataError, match="'batch' needs one code for each of 300 cells"):
        picture_of("X", good, [Colouring("batch", ("a", "b"), codes[:10])], caption="")

"""Confusion of forests and distances between batches as pictures."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from medl_scale.errors import DataError
from medl_scale.interpret.dendrogram import dendrogram
from medl_scale.report.confusion import confusion_map, confusion_matrix, confusion_svg
from medl_scale.report.distances import distances_map, distances_svg
from medl_scale.report.heat_map import standalone
from medl_scale.report.heat_map_png import heat_map_png
from medl_scale.report.theme import DARK, LIGHT
from tests.report.test_umaps import contrast

SVG = "{http://www.w3.org/2000/svg}"


def table(rows):
    return pd.DataFrame(rows, columns=["truth", "predicted", "n"])


def many(n, seed=0):
    """A confusion of n classes, mostly right."""
    rng = np.random.default_rng(seed)
    names = [f"class {i:03}" for i in range(n)]
    rows = [(name, name, 90) for name in names]
    rows += [(name, other, 10) for name, other in zip(names, rng.permutation(names), strict=True)]
    return table(rows)


def tree_of(n, seed=0):
    points = np.random.default_rng(seed).normal(size=(n, 3))
    gaps = np.sqrt(np.square(points[:, None] - points).sum(axis=2))
    names = [f"b{i}" for i in range(n)]
    return dendrogram(pd.DataFrame((gaps + gaps.T) / 2, names, names))


def tips(svg):
    return [title.text for title in ET.fromstring(svg).iter(f"{SVG}title")]


def shades(svg):
    """Opacity of each cell by its tip."""
    return {
        rect.find(f"{SVG}title").text: float(rect.get("fill-opacity"))
        for rect in ET.fromstring(svg).iter(f"{SVG}rect")
        if rect.find(f"{SVG}title") is not None
    }


def test_counts_of_folds_are_added_and_classes_of_either_side_are_there():
    found = confusion_matrix(table([("b", "a", 3), ("b", "b", 5), ("b", "a", 1), ("a", "c", 2)]))
    assert list(found.index) == list(found.columns) == ["a", "b", "c"]
    assert found.loc["b"].tolist() == [4, 5, 0]
    assert found.loc["c"].tolist() == [0, 0, 0]


def test_rows_are_shares_and_tips_are_counts():
    svg = confusion_svg(table([("T", "NK", 25), ("T", "T", 75), ("NK", "NK", 8)]), title="told")
    assert tips(svg) == [
        "NK taken for NK: 8 of 8 cells (100.0 %)",
        "T taken for NK: 25 of 100 cells (25.0 %)",
        "T taken for T: 75 of 100 cells (75.0 %)",
    ]
    found = list(shades(svg).values())
    assert found == pytest.approx([found[0], found[0] * 0.25, found[0] * 0.75], rel=1e-2)
    assert "told: 83 of 108 test cells of 2 classes told right." in svg


def test_strange_names_are_text():
    rows = [("<script>alert(1)</script>", "\"&'", 3), ("\"&'", "\"&'", 2)]
    svg = confusion_svg(table(rows), title="<b>")
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert "<script>alert(1)</script> taken for \"&': 3 of 3 cells (100.0 %)" in tips(svg)


@pytest.mark.parametrize("n", [1, 2, 21, 55, 147])
def test_every_class_has_its_name_in_letters_that_can_be_read(n):
    svg = confusion_svg(many(n), title="x")
    root = ET.fromstring(svg)
    written = [text.text for text in root.iter(f"{SVG}text")]
    assert all(written.count(f"class {i:03}") == 2 for i in range(n))
    rows = [
        float(text.get("y")) for text in root.iter(f"{SVG}text") if text.text in {"class 000", "class 001"}
        and text.get("y")
    ]  # fmt: skip
    if n > 1:
        assert rows[1] - rows[0] >= 13
    # What does not shrink with the page says its size.
    assert (root.get("width") is not None) == (n > 40)
    assert len(svg) < 700_000


def test_large_matrices_have_their_shades_in_an_image():
    from matplotlib.image import imread

    svg = confusion_svg(many(80), title="x")
    data = re.search(r"data:image/png;base64,([^\"]+)", svg)[1]
    import base64

    pixels = imread(io.BytesIO(base64.b64decode(data)))
    matrix = confusion_matrix(many(80)).to_numpy()
    expected = matrix / matrix.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pixels[..., 3], expected, atol=0.003)
    assert "class 003 taken for class 003: 90 of 100 cells (90.0 %)" in tips(svg)


def test_values_in_cells_can_be_read_on_both_papers():
    svg = confusion_svg(table([("a", "a", 5), ("b", "b", 5)]), title="x")
    most = max(shades(svg).values())
    for theme in (LIGHT, DARK):
        mixed = [
            round(most * int(theme["accent"][i : i + 2], 16) + (1 - most) * int(theme["paper"][i : i + 2], 16))
            for i in (1, 3, 5)
        ]  # fmt: skip
        assert contrast("#" + "".join(f"{part:02x}" for part in mixed), theme["ink"]) >= 4.5


def test_a_file_has_plain_colours_and_its_own_paper():
    for svg in (confusion_svg(many(5), title="x"), confusion_svg(many(50), title="x")):
        alone = standalone(svg)
        root = ET.fromstring(alone)
        assert "var(" not in alone
        assert root.get("width")
        assert root.get("height")
        assert next(iter(root)).get("fill") == "#ffffff"


def test_no_cells_and_foreign_tables_are_refused():
    with pytest.raises(
        DataError, match="needs the columns truth, predicted, n; predicted, n not found"
    ):
        confusion_svg(pd.DataFrame({"truth": ["a"]}), title="x")
    with pytest.raises(DataError, match="needs counts of cells; got 0 rows"):
        confusion_svg(table([]), title="x")


def test_batches_stand_in_the_order_of_their_tree_and_the_nearest_pair_is_strongest():
    tree = tree_of(9)
    svg = distances_svg(tree.distances, tree.names, tree.linkage)
    written = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    named = [name for name in written if name in tree.names]
    assert named == [*tree.order, *tree.order]
    values = tree.distances.to_numpy(copy=True)
    np.fill_diagonal(values, np.inf)
    i, j = np.unravel_index(values.argmin(), values.shape)
    strongest = [tip for tip, shade in shades(svg).items() if shade == max(shades(svg).values())]
    assert f"b{i} and b{j}: {values[i, j]:.3g} s.d. of the gene" in strongest
    assert len(strongest) == 2
    assert f"Nearest: b{i} and b{j}" in svg or f"Nearest: b{j} and b{i}" in svg


def test_the_tree_joins_each_leaf_at_its_row():
    tree = tree_of(6)
    shown = distances_map(tree.distances, tree.names, tree.linkage)
    leaves = sorted(y for x, y, *_ in shown.tree if x == 0) + sorted(
        y2 for *_, x2, y2 in shown.tree if x2 == 0
    )
    assert sorted(leaves) == [0, 1, 2, 3, 4, 5]
    assert max(x for x, *_ in shown.tree) == pytest.approx(1.0)


def test_equal_distances_can_be_drawn_and_other_things_cannot():
    names = ["a", "b", "c"]
    same = dendrogram(pd.DataFrame(1.0 - np.eye(3), names, names))
    assert len(tips(distances_svg(same.distances, same.names, same.linkage))) == 6
    with pytest.raises(DataError, match=r"got shape \(3, 3\), 2 names and shape \(2, 4\)"):
        distances_svg(same.distances, names[:2], same.linkage)
    broken = same.distances.to_numpy(copy=True)
    broken[0, 1] = np.nan
    with pytest.raises(DataError, match="Distances must be finite numbers"):
        distances_svg(broken, names, same.linkage)


def test_the_png_has_the_shades_of_the_matrix():
    from matplotlib.image import imread

    tree = tree_of(4)
    png = heat_map_png(distances_map(tree.distances, tree.names, tree.linkage), "a $title")
    picture = imread(io.BytesIO(png))
    assert picture.shape[0] > 200
    assert picture.shape[1] > 400
    wrong = heat_map_png(confusion_map(table([("a", "b", 5), ("b", "a", 5)]), title="x"), "x")
    right = heat_map_png(confusion_map(table([("a", "a", 5), ("b", "b", 5)]), title="x"), "x")
    assert wrong != right

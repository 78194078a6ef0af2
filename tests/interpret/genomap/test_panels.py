"""Pictures of cells under all batches."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret.genomap import Panels, draw_panels, learn_layout, z_scores
from tests.interpret.genomap.modules import module_correlations, module_values

N_GENES = 30
NAMES = [f"gene{i}" for i in range(N_GENES)]
COLUMNS = ["original", "FE", "donor a", "donor b", "donor c"]


@pytest.fixture(scope="module")
def layout():
    return learn_layout(module_correlations(n_genes=N_GENES), NAMES, method="genomap")


@pytest.fixture
def values() -> np.ndarray:
    """Two cells; batches move gene 7 most, then gene 4."""
    found = np.repeat(module_values(2, N_GENES, 3, 0)[:, None], 5, axis=1)
    found[:, 2:, 7] += [0, 3, 6]
    found[:, 2:, 4] += [0, 1, 2]
    found[1, 1] = np.nan  # no FE for this cell
    return found


def panels_of(values, **changes) -> Panels:
    fields = {
        "values": values,
        "cell_titles": ["T", "T"],
        "column_titles": COLUMNS,
        "own_column": [2, 4],
        "compared": [2, 3, 4],
    }
    return Panels(**fields | changes)


def test_the_genes_that_batches_move_most_are_found_for_each_cell(values, layout):
    moved = panels_of(values).moved_genes(layout, 2)
    assert moved["gene"].tolist() == ["gene7", "gene4"] * 2
    assert moved["sd"].to_numpy() == pytest.approx([3, 1] * 2)
    assert moved["row"].tolist()[0] == layout.rows[7]
    assert panels_of(values, compared=[2]).moved_genes(layout).empty


def test_a_picture_names_columns_own_batches_and_moved_genes(values, layout, tmp_path):
    outputs = [tmp_path / "new" / "cells.png", tmp_path / "cells.svg"]
    draw_panels(
        panels_of(values), layout, outputs, n_labelled=2, images_a_line=4, title="Two cells"
    )
    assert outputs[0].read_bytes().startswith(b"\x89PNG")
    svg = outputs[1].read_text()
    root = ET.fromstring(svg)
    images = [item for item in root.iter() if item.tag.endswith("}image")]
    assert len(images) >= 2 * 5 + 2  # the keys too; the colour bar has one of its own
    # Text is drawn as outlines, and stands in a comment beside them.
    for text in ("original", "donor a (own)", "donor c (own)", "gene7", "gene4", "Two cells"):
        assert f"<!-- {text} -->" in svg
    assert "<!-- donor b (own) -->" not in svg
    assert svg.count("stroke: #d3130b") >= 2


def test_the_same_panels_give_the_same_files(values, layout, tmp_path):
    one = Panels(values[:1, :2], ["T"], COLUMNS[:2], [-1], [])
    made = []
    for name in ("one", "two"):
        outputs = [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"]
        draw_panels(one, layout, outputs, n_labelled=0)
        made.append([output.read_bytes() for output in outputs])
    assert made[0] == made[1]


def test_z_scores_are_over_all_cells_and_columns_and_leave_gaps(values):
    values[:, :, 9] = np.where(np.isnan(values[:, :, 9]), np.nan, 2.5)
    found = z_scores(values)
    flat = values.reshape(-1, N_GENES)
    expected = (flat - np.nanmean(flat, axis=0)) / np.nanstd(flat, axis=0, ddof=1).clip(1e-9)
    varies = np.arange(N_GENES) != 9
    assert np.allclose(
        found.reshape(-1, N_GENES)[:, varies], expected[:, varies], atol=1e-5, equal_nan=True
    )
    assert np.all(found[0, :, 9] == 0)
    assert np.isnan(found[1, 1]).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cell_titles": ["T"]}, r"got \(2, 5, 30\) with 1 and 5 titles"),
        ({"own_column": [2]}, r"columns 0 to 4; got \[2\] and \[2, 3, 4\]"),
        ({"compared": [5]}, r"columns 0 to 4; got \[2, 4\] and \[5\]"),
    ],
)
def test_panels_that_do_not_fit_are_refused(values, change, text):
    with pytest.raises(DataError, match=text):
        panels_of(values, **change)


def test_bad_options_are_named_before_anything_is_drawn(values, layout, tmp_path):
    sound = {"panels": panels_of(values), "outputs": [tmp_path / "a.png"]}
    for options, text in (
        ({"outputs": [tmp_path / "a.jpg"]}, "one of '.png', '.svg', '.pdf'; got a.jpg"),
        ({"limits": (2, 1)}, "limits must ascend; got 2 and 1"),
        (
            {
                "panels": panels_of(
                    np.repeat(values, 40, axis=0), cell_titles=["T"] * 80, own_column=[-1] * 80
                )
            },
            "80 cells with 5 images each make 80. Choose fewer cells",
        ),
        ({"images_a_line": 0}, "images_a_line must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=text):
            draw_panels(layout=layout, **sound | options)
    with pytest.raises(DataError, match="all are NaN"):
        draw_panels(panels_of(values * np.nan), layout, [tmp_path / "a.png"])
    assert not list(tmp_path.iterdir())

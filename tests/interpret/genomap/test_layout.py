"""The record of a layout: learnt, saved, and used to make images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.errors import ConfigError, DataError, StoreError
from medl_scale.interpret.genomap import learn_layout, load_layout, save_layout
from medl_scale.interpret.genomap.grid import grid_shape
from medl_scale.interpret.genomap.layout import Layout
from tests.interpret.genomap.modules import module_correlations

NAMES = [f"gene{i}" for i in range(40)]


@pytest.fixture(scope="module")
def correlations() -> np.ndarray:
    """Of 40 genes, of which two are constant."""
    found = module_correlations(n_genes=40)
    found[[5, 17]] = 0
    found[:, [5, 17]] = 0
    return found


@pytest.fixture(scope="module", params=["map2d", "genomap"])
def layout(request, correlations) -> Layout:
    return learn_layout(correlations, NAMES, method=request.param, n_cells=400)


def test_every_gene_has_a_pixel_and_constant_ones_lie_beside_the_padding(layout):
    assert layout.shape == (6, 7)
    assert len(set(layout.pixels.tolist())) == 40
    table = layout.table()
    assert table["gene"].tolist() == NAMES
    assert table.loc[table["is_constant"], "gene"].tolist() == ["gene5", "gene17"]
    if layout.method == "map2d":
        assert layout.pixels[[5, 17]].tolist() == [38, 39]
    else:
        radii = np.hypot(layout.rows - 3, layout.columns - 3)
        assert radii[[5, 17]].min() >= np.delete(radii, [5, 17]).max()


def test_learning_again_gives_the_same_layout(layout, correlations):
    again = learn_layout(correlations, NAMES, method=layout.method)
    assert np.array_equal(again.pixels, layout.pixels)
    assert again.objective == layout.objective


def test_a_layout_survives_its_file(layout, tmp_path):
    save_layout(layout, tmp_path / "layout.npz")
    found = load_layout(tmp_path / "layout.npz")
    assert found.table().equals(layout.table())
    for name in ("gene_names", "shape", "method", "objective", "n_cells"):
        assert getattr(found, name) == getattr(layout, name)


def test_an_image_holds_every_value_at_its_gene_and_nothing_elsewhere(layout):
    values = np.arange(80, dtype=np.float32).reshape(2, 40)
    values[1, 3] = np.nan
    images = layout.to_images(values)
    assert images.shape == (2, 6, 7)
    assert images.dtype == np.float32
    for gene, row, column in zip(range(40), layout.rows, layout.columns, strict=True):
        assert np.array_equal(images[:, row, column], values[:, gene], equal_nan=True)
    assert int(np.isnan(images[0]).sum()) == 2
    assert np.array_equal(layout.to_values(images), values, equal_nan=True)
    assert (layout.to_images(values[0], padding=-1.0)[0] == -1).sum() == 2


@settings(max_examples=50)
@given(st.integers(2, 20_000))
def test_the_grid_has_room_and_wastes_less_than_a_row(n):
    rows, columns = grid_shape(n)
    assert 0 <= rows * columns - n < columns
    assert 0 <= columns - rows <= 1


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("method", ["map2d", "genomap"])
def test_a_few_genes_are_laid_out_too(n, method):
    layout = learn_layout(module_correlations(n_genes=n, n_modules=2), NAMES[:n], method=method)
    assert len(set(layout.pixels.tolist())) == n


def test_the_published_objective_may_be_had_of_the_correlations_as_they_are(correlations):
    plain = learn_layout(correlations, NAMES, method="genomap", rank=None)
    assert plain.objective <= learn_layout(correlations, NAMES, method="genomap").objective


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"method": "umap"}, ConfigError, "method must be one of 'map2d', 'genomap'; got 'umap'"),
        ({"rank": 1}, ConfigError, "rank must be at least 2; got 1"),
        ({"shape": (6, 6)}, ConfigError, "for each of 40 genes; got 6 x 6. Choose at least 6 x 7"),
        ({"gene_names": NAMES[:39]}, DataError, r"must be \(39, 39\) for 39 genes; got \(40, 40\)"),
        ({"gene_names": [*NAMES[:39], "gene3"]}, DataError, "'gene3' is repeated"),
        ({"correlations": np.full((40, 40), np.nan)}, DataError, "must be finite"),
        ({"correlations": np.zeros((40, 40))}, DataError, "0 of 40 do. Choose more cells"),
        ({"correlations": np.ones((1, 1)), "gene_names": ["a"]}, DataError, "2 genes that vary"),
    ],
)
def test_what_cannot_be_laid_out_is_said(correlations, change, error, text):
    given_ = {"correlations": correlations, "gene_names": NAMES} | change
    with pytest.raises(error, match=text):
        learn_layout(given_.pop("correlations"), given_.pop("gene_names"), **given_)


def test_values_of_other_genes_make_no_image(layout):
    with pytest.raises(DataError, match=r"\(m, 40\) values, .*; got \(3, 39\)"):
        layout.to_images(np.zeros((3, 39)))


def test_two_genes_in_one_pixel_are_no_layout():
    with pytest.raises(DataError, match="pixel of its own for each gene; got 2 pixels for 2 genes"):
        Layout(("a", "b"), np.array([1, 1]), (1, 2), np.zeros(2, bool), "map2d", 0.0, 0)


def test_a_file_that_is_no_whole_layout_is_named(layout, tmp_path):
    path = tmp_path / "layout.npz"
    with pytest.raises(
        StoreError, match=r"layout.npz is not a whole layout.*Learn the layout again"
    ):
        load_layout(path)
    save_layout(layout, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StoreError, match="is not a whole layout"):
        load_layout(path)
    np.savez(path, pixels=np.arange(3))
    with pytest.raises(StoreError, match="is not a whole layout"):
        load_layout(path)

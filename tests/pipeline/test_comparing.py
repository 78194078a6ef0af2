"""Groups of donors of a run compared: what is tested, of which cells, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from medl_scale import Run
from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret.groups import compare_groups
from medl_scale.pipeline import comparing
from tests import tiny

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'mode.chained_assignment' option",
    "ignore:With 2 and 2 donors the smallest possible p",
)

GROUP_OF = {"batch_1": "ill", "batch_2": "healthy", "batch_3": "healthy", "batch_4": "ill"}
OF_TYPE = "cell_type == 'type_2'"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run.load(tiny.made(tmp_path_factory).run)


@pytest.fixture(scope="module")
def atlas(run):
    """The atlas in memory, its donors in groups."""
    adata = ad.read_zarr(run.atlas_path)
    adata.obs["condition"] = adata.obs["batch"].astype(str).map(GROUP_OF)
    return adata


def compare(run, atlas, between=("healthy", "ill"), **options):
    return run.compare("condition", between, atlas=atlas, progress=False, **options)


def assert_same_tests(found, expected, *, rtol=1e-4):
    """Whether two tables hold the same figures, whatever the order of genes."""
    expected = expected.set_index("feature").loc[found["gene"]].reset_index(drop=True)
    for name in ("difference", "hedges_g", "p_ranks", "q_ranks", "estimate", "se", "p_mixed"):
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=1e-6, err_msg=name)
    assert (found["n_first"] == 2).all()
    assert (found["n_second"] == 2).all()


@pytest.mark.parametrize(("model", "switch"), [("me", "both"), ("re", "decoder")])
def test_as_if_donors_are_compared_over_the_same_cells(run, atlas, monkeypatch, model, switch):
    # A few cells at a time, so that blocks are merged.
    monkeypatch.setattr(comparing, "_BLOCK_BYTES", 50 * 4 * 80 * 4)
    found = compare(run, atlas, cells=OF_TYPE, model=model, switch=switch)
    projected = run.project(OF_TYPE, "all", model=model, switch=switch, progress=False,
                            with_reconstructions=False)  # fmt: skip
    target = projected.obs["target_batch"].astype(str)
    expected = compare_groups(
        projected.X, target, target.map(GROUP_OF), sources=projected.obs["cell"].astype(str),
        between=("healthy", "ill"), features=projected.var_names.tolist(),
    )  # fmt: skip
    assert_same_tests(found, expected)
    assert set(found["of"]) == {"as_if"}
    assert (found["p_mixed"].diff().dropna() >= 0).all()
    assert (found["n_cells"] == len(projected)).all()


@pytest.mark.parametrize("of", ["measured", "average"])
def test_donors_own_cells_are_compared_with_their_effects_or_without(run, atlas, of):
    found = compare(run, atlas, cells=OF_TYPE, of=of, test="mann-whitney")
    projected = run.project(OF_TYPE, "average", progress=False)
    kind = "measured" if of == "measured" else "as_if"
    rows = projected[projected.obs["kind"] == kind]
    donors = rows.obs["source_batch"].astype(str)
    expected = compare_groups(
        np.asarray(rows.X), donors, donors.map(GROUP_OF), between=("healthy", "ill"),
        features=projected.var_names.tolist(),
    )  # fmt: skip
    assert_same_tests(found, expected)
    assert (found["p_ranks"].diff().dropna() >= 0).all()


def test_the_model_takes_away_what_the_simulation_gave_donors(run, atlas):
    sizes = {
        of: compare(run, atlas, cells=OF_TYPE, of=of)["difference"].abs().mean()
        for of in ("measured", "average")
    }
    assert sizes["average"] < 0.6 * sizes["measured"]


def test_too_few_donors_for_a_rank_test_are_told(run, atlas):
    with pytest.warns(
        UserWarning, match=r"With 2 and 2 donors the smallest possible p .* is 0\.333"
    ):
        compare(run, atlas, cells=[0, 1, 2])


def test_donors_without_a_group_or_of_another_are_left_out(run, atlas):
    adata = atlas.copy()
    adata.obs["condition"] = pd.Categorical(
        adata.obs["batch"].astype(str).map({**GROUP_OF, "batch_1": None, "batch_3": "other"})
    )
    with pytest.raises(DataError, match=r"needs 2 donors in each group; 'healthy' has 1"):
        compare(run, adata, cells=OF_TYPE)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"between": ("healthy", "AML")},
            DataError,
            r"no group 'AML'\. There are: 'healthy', 'ill'",
        ),
        ({"between": ("ill", "ill")}, ConfigError, "must name two different groups"),
        (
            {"of": "mean"},
            ConfigError,
            "of must be one of 'as_if', 'measured', 'average'; got 'mean'",
        ),
        ({"test": "t"}, ConfigError, "test must be one of 'mixed', 'mann-whitney'; got 't'"),
        ({"model": "fe"}, ConfigError, "Model 'fe' has no random effects"),
        ({"cells": "cell_type == 'x'"}, DataError, "No cell of the AnnData fits"),
        ({"level": 95}, ConfigError, "level must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_told(run, atlas, options, error, message):
    with pytest.raises(error, match=message):
        compare(run, atlas, **{"cells": OF_TYPE, **options})


def test_a_column_that_is_not_there_or_differs_within_donors_is_told(run, atlas):
    with pytest.raises(ConfigError, match=r"has no 'diagnosis'\. Columns: 'batch', "):
        run.compare("diagnosis", ("a", "b"), atlas=atlas, progress=False)
    message = (
        r"Each donor must belong to one group; 'batch_1' is in 'type_1' and 'type_2' of 'cell_t"
    )
    with pytest.raises(DataError, match=message):
        run.compare("cell_type", ("type_1", "type_2"), atlas=atlas, progress=False)

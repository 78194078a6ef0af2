"""Streamed moments of cells projected to all donors are those of all rows at once."""

import numpy as np
import pytest

from medl_scale.interpret.crossed import CrossedMoments
from medl_scale.interpret.donor_tests import compare_donors
from medl_scale.interpret.groups import compare_groups


@pytest.mark.parametrize("sizes", [(11,), (4, 1, 6), (1,) * 11])
def test_blocks_give_the_table_of_all_rows_with_their_sources(sizes):
    rng = np.random.default_rng(5)
    n_cells, n_donors, n_genes = 11, 9, 5
    cell = 3.0 * rng.normal(size=(n_cells, 1, n_genes))
    values = cell + rng.normal(size=(1, n_donors, n_genes)) + rng.normal(
        0, 0.3, (n_cells, n_donors, n_genes)
    )  # fmt: skip
    values[..., 4] = 2.0
    donors = [f"d{i}" for i in range(n_donors)]
    group_of = {name: "healthy" if i < 3 else "ill" for i, name in enumerate(donors)}
    crossed = CrossedMoments(n_donors, n_genes)
    for start, size in zip(np.cumsum((0, *sizes[:-1])), sizes, strict=True):
        crossed.add(values[start : start + size])
    assert crossed.n_cells == n_cells
    found = compare_donors(
        crossed.moments,
        donors,
        group_of,
        between=("healthy", "ill"),
        features=[f"feature_{i}" for i in range(n_genes)],
        subtracted=crossed.subtracted,
    )
    expected = compare_groups(
        values.reshape(-1, n_genes),
        np.tile(donors, n_cells),
        [group_of[name] for name in donors] * n_cells,
        sources=np.repeat(np.arange(n_cells), n_donors),
    )
    for name in expected.columns:
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-8, err_msg=name)
        else:
            assert found[name].tolist() == expected[name].tolist(), name

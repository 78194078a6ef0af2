"""kBET against SciPy's test of each neighbourhood."""

import numpy as np
import pytest
from scipy.stats import chisquare

from medl_scale.errors import ConfigError, ScoreUndefinedError
from medl_scale.evaluate.neighbours.kbet import kbet
from medl_scale.evaluate.neighbours.neighbours import ExactSample, Neighbours, nearest_neighbours


def cells(seed=0, n=400):
    rng = np.random.default_rng(seed)
    batches = rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])
    return rng.normal(size=(n, 2)) + 0.4 * batches[:, None], batches


def test_p_values_are_those_of_each_neighbourhood_with_the_cell_itself():
    latent, batches = cells()
    near = nearest_neighbours(latent, 49)
    found = kbet(near, batches)
    expected = np.bincount(batches) / 400 * 50
    for cell in range(0, 400, 7):
        counts = np.bincount(batches[[cell, *near.indices[cell]]], minlength=4)
        assert found.per_cell[cell] == pytest.approx(chisquare(counts, expected).pvalue, rel=1e-9)
    assert float(found) == np.mean(found.per_cell >= 0.05)
    assert float(kbet(near, batches, alpha=0.3)) == np.mean(found.per_cell >= 0.3)
    assert (found.kind, found.error, found.n) == ("exact", 0.0, 400)
    assert found.method == f"49 neighbours ({near.method}), alpha 0.05"


def test_mixed_batches_are_accepted_and_separate_ones_are_not():
    latent, batches = cells(n=1000)
    mixed = np.random.default_rng(1).normal(size=latent.shape)
    assert float(kbet(nearest_neighbours(mixed, 49), batches)) > 0.9
    apart = latent + 100 * batches[:, None]
    assert float(kbet(nearest_neighbours(apart, 30), batches)) < 0.1


def test_names_of_batches_do_not_matter():
    latent, batches = cells()
    near = nearest_neighbours(latent, 30)
    names = np.array(["d", "c", "b", "a"])[batches]
    np.testing.assert_allclose(kbet(near, names).per_cell, kbet(near, batches).per_cell, rtol=1e-9)


def test_approximate_neighbours_give_an_interval():
    latent, batches = cells(n=1500)
    exact, worse = nearest_neighbours(latent, 20), nearest_neighbours(latent, 40)
    rows = np.sort(np.random.default_rng(2).choice(1500, 500, replace=False))
    sample = ExactSample(rows, exact.indices[rows].astype(np.int64), exact.distances[rows])
    near = Neighbours(worse.indices[:, ::2], worse.distances[:, ::2], 0.5, "approximate", sample)
    found = kbet(near, batches)
    assert (found.kind, found.confidence) == ("confidence", 0.99)
    assert abs(float(found) - float(kbet(exact, batches))) <= found.error < 0.3


def test_what_has_no_figure_is_refused():
    latent, batches = cells()
    near = nearest_neighbours(latent, 10)
    with pytest.raises(ScoreUndefinedError, match="batches must have between 2 and 399"):
        kbet(near, np.zeros(400))
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="alpha must be above 0 and below 1; got"):
            kbet(near, batches, alpha=alpha)

"""The posterior's s.d. of many cells at once is that of the intervals that a cell gets alone."""

from __future__ import annotations

import numpy as np
import pytest

from medl_scale.interpret.drawn_sd import drawn_sd
from medl_scale.interpret.draws import PosteriorDraws, interval_factor
from medl_scale.interpret.project import AsIf
from medl_scale.interpret.targets import find_targets
from tests.interpret.test_project import LEVELS, network
from tests.models import small


@pytest.mark.parametrize("name", ["me", "re"])
def test_the_sd_of_many_cells_is_that_of_each_ones_interval(name):
    model = network(name)
    feeds = small.feeds(model.network)
    x, own = feeds.x[:9], feeds.batch_codes[:9]
    targets = np.array([1, 3, 1, 0, 3, 3, 1, 0, 1], np.int32)
    found = drawn_sd(model, x, own, targets, None, n_draws=6, seed=4)
    every = find_targets("all", LEVELS)
    draws = PosteriorDraws(model.engine, every.codes, 6, 4)
    as_if, reach = AsIf(model, every), 2 * interval_factor(6, 0.9)
    for made, sds in (
        (as_if.draw(x, own, draws, level=0.9), found.projection),
        (as_if.draw_differences(x, own, draws, level=0.9), found.difference),
    ):
        expected = ((made.upper - made.lower) / reach)[np.arange(9), targets]
        assert expected.max() > 0.001
        np.testing.assert_allclose(sds, expected, rtol=2e-3, atol=1e-6)
    # A cell moved to where it is does not change, whatever the draw.
    assert (found.difference[own == targets] == 0).all()

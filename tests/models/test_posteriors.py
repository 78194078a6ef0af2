"""Random effects as distributions that users can sample and compare."""

import numpy as np

from medl_scale.models.posteriors import posterior, prior
from tests.models.test_variational import random_table


def test_a_posterior_is_one_batch_of_one_layer():
    table = random_table(1)
    found = posterior(table, 2)
    assert tuple(found.event_shape) == (2, 4)
    np.testing.assert_array_equal(found.mean(), table.loc[:, 2])
    np.testing.assert_allclose(found.stddev(), table.scale[:, 2], rtol=1e-6)
    drawn = np.asarray(found.sample(4000, seed=0))
    np.testing.assert_allclose(drawn.mean(axis=0), table.loc[:, 2], atol=0.2)


def test_the_prior_has_a_quarter_as_standard_deviation():
    found = prior(5)
    assert tuple(found.event_shape) == (2, 5)
    np.testing.assert_array_equal(found.mean(), np.zeros((2, 5)))
    np.testing.assert_allclose(found.stddev(), np.full((2, 5), 0.25))

"""A folded decoder is the network's own, in the unit of the atlas."""

from __future__ import annotations

import numpy as np
import pytest

from medl_scale.errors import (
    ConfigError,
)
from medl_scale.interpret.folded import fold_decoder
from medl_scale.stream import Transform
from medl_scale.train.fitted import FittedNetwork, Vocabulary
from tests.models import small

VOCABULARY = Vocabulary(
    var_names=tuple(f"g{i}" for i in range(small.N_VARS)),
    batch_key="donor",
    batch_levels=("a", "b", "c", "d"),
    label_levels=("B", "T"),
    transform=Transform("counts", 1e4, 0.125),
)


def fitted(name: str) -> FittedNetwork:
    """A network away from its first values."""
    case = small.CASES[name]
    summary = small.summary(np.random.default_rng(0))
    return FittedNetwork(case.model, small.engine(case), case.config, summary, VOCABULARY)


@pytest.mark.parametrize("name", ["me", "re", "re-scmedal"])
def test_a_folded_decoder_decodes_as_the_network_it_came_from(name):
    model = fitted(name)
    latent = np.random.default_rng(3).normal(size=(9, small.N_LATENT)).astype(np.float32)
    decoder = fold_decoder(model)
    assert (decoder.n_latent, decoder.n_vars) == (small.N_LATENT, small.N_VARS)
    for batch in range(small.N_BATCHES):
        expected = model.decode(latent, np.full(9, batch, np.int32)) / VOCABULARY.transform.scale
        np.testing.assert_allclose(decoder.expression(latent, batch), expected, atol=2e-5)


def test_a_decoder_that_reads_no_batch_cannot_be_folded():
    with pytest.raises(ConfigError, match=r"'fec' decodes every batch alike.* 'me', 're'\."):
        fold_decoder(fitted("fec"))

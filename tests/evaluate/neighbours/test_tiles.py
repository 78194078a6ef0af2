"""The numbers that matrix products give are never above the squared distances they stand for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.evaluate.neighbours.tiles import lay_tiles


@given(
    seed=st.integers(0, 2**32 - 1),
    d=st.sampled_from([1, 2, 7, 50, 200]),
    offset=st.sampled_from([0.0, 1.0, 1e6]),
    spread=st.sampled_from([1e-6, 1.0, 30.0]),
    tail=st.sampled_from([0.0, 1.0, 3.0]),
)
@settings(max_examples=100, deadline=None)
def test_no_product_is_larger_than_the_squared_distance(seed, d, offset, spread, tail):
    rng = np.random.default_rng(seed)
    blobs = rng.normal(size=(4, d))[rng.integers(0, 4, 40)]
    noise = rng.normal(size=(40, d)) * np.exp(tail * rng.normal(size=(40, 1)))
    # Duplicates and near duplicates, for which all digits cancel.
    latent = np.repeat(blobs + spread * noise, 2, axis=0) + offset
    latent[1::4] *= 1 + 1e-7
    tiles = lay_tiles(latent)
    cells = tiles.cells.astype(np.longdouble) * tiles.unit
    exact = np.square(cells[:, None, :] - cells[None, :, :]).sum(axis=2)
    below = (tiles.left @ tiles.right.T).astype(np.longdouble) + tiles.shrunken[:, None]
    tiny = 1e-30
    assert (below <= exact + tiny).all()
    # Nor so far below that few pairs could be passed over.
    about = cells - cells.mean(axis=0)
    squares = np.square(about).sum(axis=1)
    most = (4 * d + 64) * 2.0**-24 * (squares[:, None] + squares[None, :])
    assert (exact - below <= most + tiny).all()

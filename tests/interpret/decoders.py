"""A decoder of two layers and latents in blocks: what the tests of sketches share."""

from __future__ import annotations

import numpy as np

from medl_scale.interpret.folded import FoldedDecoder, FoldedLayer


def random_decoder(width: int, n_vars: int, n_batches: int = 3) -> FoldedDecoder:
    """A decoder of two layers drawn at random."""
    rng = np.random.default_rng(7)

    def layer(n_in: int, n_out: int) -> FoldedLayer:
        drawn = (rng.normal(0, 1, size) for size in ((n_in, n_out), (n_batches, n_out)))
        kernel, shift = (values.astype(np.float32) for values in drawn)
        return FoldedLayer(kernel, None, 1 + shift[:, ::-1] / 4, shift)

    return FoldedDecoder((layer(4, width),), layer(width, n_vars), np.ones(n_vars, np.float32))


def rows_of(latent: np.ndarray, size: int) -> list[tuple[slice, np.ndarray]]:
    """Latents as blocks."""
    starts = range(0, len(latent), size)
    return [(slice(i, min(i + size, len(latent))), latent[i : i + size]) for i in starts]

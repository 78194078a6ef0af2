"""The only maker of random generators: one seed, and every draw named by its purpose.

Generators are counter-based (Philox), so that the order of one epoch can be drawn without drawing
those before it: resuming needs integers, not generator states.
"""

from enum import IntEnum

import numpy as np

__all__ = ["Purpose", "framework_seed", "generator"]


class Purpose(IntEnum):
    """What a stream of random numbers is for. Values are part of the file format: never reuse one."""

    SIMULATE = 1
    FOLDS = 2
    ROW_SHUFFLE = 3
    RUN_ORDER = 4
    WINDOW_ORDER = 5
    WEIGHTS = 6
    TRAINING_NOISE = 7
    PROBE = 8
    PCA = 9
    SUBCLUSTERS = 10
    QUERY_SAMPLE = 11
    NEIGHBOURS = 12
    FOREST = 13
    KMEANS = 14
    PROTOCOL_SAMPLE = 15
    POSTERIOR_DRAWS = 16
    CHECKED_PAIRS = 17
    VIEWER_CELLS = 18
    UMAP = 19


def generator(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """Return the generator of one purpose and place.

    Parameters
    ----------
    seed
        The user's seed, >= 0.
    purpose
        What the numbers are for; two purposes never share a stream.
    index
        Where they are drawn, such as (epoch, lane). Integers >= 0.
    """
    # The spawn key keeps apart what a plain list would not: lists are padded with zeros.
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose), *index))
    return np.random.Generator(np.random.Philox(sequence))


def framework_seed(seed: int, purpose: Purpose, *index: int) -> int:
    """Return a non-negative 31-bit integer for libraries that want one (Keras, scikit-learn)."""
    return int(generator(seed, purpose, *index).integers(2**31 - 1))

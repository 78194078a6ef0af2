import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medl_scale.seeds import Purpose, framework_seed, generator

SEEDS = st.integers(0, 2**40)
PURPOSES = st.sampled_from(Purpose)
PLACES = st.lists(st.integers(0, 2**20), max_size=3).map(tuple)


def first_numbers(seed, purpose, place):
    return generator(seed, purpose, *place).integers(2**63, size=2).tolist()


@given(SEEDS, PURPOSES, PLACES)
def test_the_same_seed_purpose_and_place_give_the_same_numbers(seed, purpose, place):
    assert first_numbers(seed, purpose, place) == first_numbers(seed, purpose, place)
    assert framework_seed(seed, purpose, *place) == framework_seed(seed, purpose, *place)


@given(SEEDS, SEEDS, PURPOSES, PURPOSES, PLACES, PLACES)
def test_streams_of_different_seed_purpose_or_place_differ(
    seed, other_seed, purpose, other_purpose, place, other_place
):
    one, other = (seed, purpose, place), (other_seed, other_purpose, other_place)
    assume(one != other)
    assert first_numbers(*one) != first_numbers(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, Purpose.FOLDS, ()), (0, Purpose.FOLDS, (0,))),
        ((0, Purpose.FOLDS, (1,)), (0, Purpose.FOLDS, (1, 0))),
        ((2**32 + 5, Purpose.SIMULATE, ()), (5, Purpose.SIMULATE, (1,))),
        ((5 + (1 << 32), Purpose.FOLDS, (3,)), (5, Purpose.SIMULATE, (2, 3))),
    ],
)
def test_streams_that_look_alike_as_words_differ(one, other):
    assert first_numbers(*one) != first_numbers(*other)


def test_framework_seeds_fit_a_signed_32_bit_integer():
    seeds = [framework_seed(0, Purpose.WEIGHTS, i) for i in range(200)]
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert len(set(seeds)) == 200


def test_purposes_keep_their_numbers():
    # They are part of what a seed means in files already written.
    assert {purpose.name: purpose.value for purpose in Purpose}.items() >= {
        "SIMULATE": 1,
        "FOLDS": 2,
        "ROW_SHUFFLE": 3,
        "RUN_ORDER": 4,
        "WINDOW_ORDER": 5,
        "WEIGHTS": 6,
        "TRAINING_NOISE": 7,
        "PROBE": 8,
        "PCA": 9,
    }.items()


def test_numbers_of_neighbouring_places_are_not_related():
    streams = np.stack([generator(0, Purpose.RUN_ORDER, i).random(500) for i in range(40)])
    correlation = np.corrcoef(streams)[np.triu_indices(40, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(500)

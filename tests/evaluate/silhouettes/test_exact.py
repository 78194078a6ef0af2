import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medl_scale.evaluate.silhouettes.distance_sums import absolute_rounding, relative_rounding
from medl_scale.evaluate.silhouettes.exact import silhouettes_from_sums


def silhouette(a, b):
    return (b - a) / max(a, b) if max(a, b) > 0 else 0.0


def test_silhouettes_follow_their_definition():
    own_sums = np.array([2.0, 6.0, 0.0, 3.0, 0.0, 0.0])
    nearest = np.array([4.0, 1.0, 5.0, 3.0, 0.0, 2.0])
    counts = np.array([2, 4, 1, 2, 3, 3])
    values, errors = silhouettes_from_sums(own_sums, nearest, counts, 2)
    np.testing.assert_allclose(values, [0.5, -0.5, 0.0, 0.0, 0.0, 1.0])
    # Alone in its label, or where all cells coincide, 0 is exact.
    np.testing.assert_array_equal(errors[[2, 4]], 0.0)
    assert (errors[[0, 1, 3, 5]] > 2 * relative_rounding(2)).all()


@given(
    a=st.floats(1e-9, 2.0),
    ratio=st.floats(1e-6, 1e6),
    off=st.tuples(*[st.floats(-1, 1)] * 3),
    d=st.integers(1, 100),
)
def test_the_bound_covers_every_error_that_rounding_may_make(a, ratio, off, d):
    b = a * ratio
    relative, absolute = relative_rounding(d), absolute_rounding(d)
    found_a = a * (1 + off[0] * relative) + off[2] * absolute
    found_b = b * (1 + off[1] * relative) + off[2] * (absolute + 2.0**-23 * a)
    if min(found_a, found_b) < 0:
        return
    values, errors = silhouettes_from_sums(
        np.array([found_a * 9]), np.array([found_b]), np.array([10]), d
    )
    assert abs(values[0] - silhouette(a, b)) <= errors[0]


def test_nothing_is_known_about_cells_nearer_than_float64_can_tell():
    values, errors = silhouettes_from_sums(np.array([1e-16]), np.array([2e-16]), np.array([2]), 3)
    assert values[0] == 0.5
    assert errors[0] == 2.0

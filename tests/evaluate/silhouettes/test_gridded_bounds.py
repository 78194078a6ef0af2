"""The bounds that certificates are made of, each against what it bounds."""

import numpy as np
import pytest

from medl_scale.evaluate.inputs import encode_labels
from medl_scale.evaluate.silhouettes.gridded.fields import (
    _bound_spectrum,
    _convolved,
    _distance_spectrum,
    label_fields,
)
from medl_scale.evaluate.silhouettes.gridded.gathering import gather_stack
from medl_scale.evaluate.silhouettes.gridded.interpolation_bounds import (
    TABLE_RADIUS,
    cubic_weights,
    error_bounds,
    largest_error,
)
from medl_scale.evaluate.silhouettes.gridded.intervals import bound_silhouettes
from medl_scale.evaluate.silhouettes.gridded.squares import nested_squares
from medl_scale.evaluate.silhouettes.layout import sort_by_label


def interpolation_errors(i, j, u, v):
    """e of the module's docstring for positions u of targets and v of sources, (m, 2) each."""
    nodes = np.arange(-1.0, 3.0)
    weights = [cubic_weights(position) for position in (*u.T, *v.T)]
    across, along = (offset + nodes[:, None] - nodes for offset in (i, j))
    distances = np.hypot(across[:, None, :, None], along[None, :, None, :])
    found = np.einsum("ma,mb,mc,md,abcd->m", *weights, distances)
    return found - np.hypot(i + u[:, 0] - v[:, 0], j + u[:, 1] - v[:, 1])


def test_the_table_is_proven():
    bounds = error_bounds(TABLE_RADIUS + 1)
    for i in range(TABLE_RADIUS + 1):
        for j in range(i + 1):
            assert largest_error(i, j) <= bounds[i, j] == bounds[j, i]


@pytest.mark.parametrize(
    "offset", [(0, 0), (1, 0), (0, -1), (-2, 1), (5, 3), (8, 8), (9, 0), (-30, 4)]
)
def test_no_pair_of_positions_exceeds_its_bound(offset):
    rng = np.random.default_rng(0)
    # Corners, edges and coinciding positions are where the largest errors are.
    u, v = rng.random((2, 20_000, 2))
    u[:5000], v[:5000] = np.round(8 * u[:5000]) / 8, np.round(8 * v[:5000]) / 8
    v[5000:8000] = u[5000:8000]
    found = np.abs(interpolation_errors(*offset, u, v)).max()
    bound = error_bounds(40)[abs(offset[0]), abs(offset[1])]
    assert found <= bound


def test_near_bounds_are_close_to_what_is_found():
    rng = np.random.default_rng(1)
    u = 0.5 + 0.1 * rng.standard_normal((5000, 2)).clip(-5, 5)
    assert np.abs(interpolation_errors(0, 0, u, u)).max() > 0.97 * error_bounds(1)[0, 0]


@pytest.mark.parametrize("size", [16, 48, 64])
@pytest.mark.parametrize("width", [1.0, 1e-3])
def test_a_field_is_within_its_bound_of_the_mean_distance(size, width):
    rng = np.random.default_rng(3)
    latent = np.concatenate([rng.normal(size=(400, 2)), width * rng.normal(size=(300, 2))])
    clusters = sort_by_label(latent, encode_labels(np.repeat([0, 1], [400, 300]), 700))
    points = clusters.points(slice(None))
    grids = nested_squares(points.min(axis=0), points.max(axis=0), points, size)[:1]
    fields = label_fields(clusters, np.array([0, 1]), grids, size, level=0, with_deeper=True)
    for label, cells in enumerate((points[:400], points[400:])):
        exact = np.hypot(*(points[:, None, k] - cells[:, k] for k in range(2))).mean(axis=1)
        stack = [part[label][None] for part in fields]
        found, bound, _ = gather_stack(points, grids, *stack, *stack)
        assert (np.abs(found - exact) <= bound).all()


def test_rings_and_inner_cells_together_are_all_cells():
    rng = np.random.default_rng(4)
    latent = rng.standard_cauchy((3000, 2))
    clusters = sort_by_label(latent, encode_labels(np.zeros(3000, int), 3000))
    points = clusters.points(slice(None))
    grids = nested_squares(points.min(axis=0), points.max(axis=0), points, 64)
    assert len(grids) > 2
    one = np.array([0])
    inner = [
        label_fields(clusters, one, grids, 64, level=j, with_deeper=True) for j in range(len(grids))
    ]
    ring = [
        label_fields(clusters, one, grids, 64, level=j, with_deeper=False)
        for j in range(len(grids))
    ]
    stack = [np.concatenate([f[k] for f in part]) for part in (inner, ring) for k in range(2)]
    found, bound, levels = gather_stack(points, grids, *stack)
    exact = np.array([np.hypot(*(points - point).T).mean() for point in points])
    assert (levels >= 0).all()
    assert len(np.unique(levels)) > 2
    assert (np.abs(found - exact) <= bound).all()


def test_the_first_grid_holds_all_cells_and_each_next_one_lies_in_the_one_before():
    rng = np.random.default_rng(5)
    for points in (rng.normal(size=(500, 2)), rng.standard_cauchy((500, 2)), np.zeros((5, 2))):
        size = 32
        grids = nested_squares(points.min(axis=0), points.max(axis=0), points, size)
        first = (points - grids[0, :2]) * grids[0, 2]
        assert ((first >= 1) & (first < size - 2)).all()
        low = grids[:, :2] + 1 / grids[:, 2:]
        high = grids[:, :2] + (size - 2) / grids[:, 2:]
        step = 1 / grids[:-1, 2:]
        assert (low[1:] >= low[:-1] - 0.02 * step).all()
        assert (high[1:] <= high[:-1] + 0.02 * step).all()


def test_bounds_cover_silhouettes_of_all_means_within_their_intervals():
    rng = np.random.default_rng(6)
    m, n_labels = 2000, 5
    true = rng.uniform(0.5, 2.0, (m, n_labels))
    true_a = rng.uniform(0.5, 2.0, m)
    width = (0.2 * rng.random((m, n_labels))).astype(np.float32)
    a_width = 0.2 * rng.random(m)
    # Errors at the ends of the intervals are the worst.
    mean = (true + np.sign(rng.normal(size=true.shape)) * 0.999999 * width).astype(np.float32)
    a = true_a + np.sign(rng.normal(size=m)) * 0.999999 * a_width
    own = rng.integers(0, n_labels, m)
    flags = np.empty((m, n_labels), bool)
    final = np.zeros((m, n_labels), bool)
    value, bound = bound_silhouettes(mean, width, a, a_width, own, final, 0.05, 0.45, flags)
    true[np.arange(m), own] = np.inf
    b = true.min(axis=1)
    error = np.abs((b - true_a) / np.maximum(b, true_a) - value)
    assert (error <= bound).all()
    assert (error > 0.5 * bound).any()
    assert (flags.any(axis=1) == (bound > 0.05)).all()


@pytest.mark.parametrize("spectrum", [_distance_spectrum, _bound_spectrum])
@pytest.mark.parametrize("size", [16, 24])
def test_convolutions_are_within_their_rounding_of_direct_sums(spectrum, size):
    rng = np.random.default_rng(7)
    masses = rng.normal(size=(2, size, size)) / size**2
    ticks = np.arange(size)
    apart = np.abs(ticks[:, None] - ticks)
    if spectrum is _distance_spectrum:
        kernel = np.hypot(apart[:, :, None, None], apart)
    else:
        masses = np.abs(masses).astype(np.float32)
        kernel = error_bounds(size)[apart[:, :, None, None], apart]
    exact = np.einsum("nab,iajb->nij", masses.astype(float), kernel)
    values, rounding = spectrum(size)
    found = _convolved(masses, values, size)
    norms = np.sqrt((masses.astype(float) ** 2).sum(axis=(1, 2)))[:, None, None]
    assert found.dtype == masses.dtype
    assert (np.abs(found - exact) <= rounding * norms).all()

"""Calinski-Harabasz and Davies-Bouldin against scikit-learn in float64 and against exact fractions."""

import itertools
import pickle
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from medl_scale.errors import DataError, ScoreUndefinedError
from medl_scale.evaluate.separation import (
    Moments,
    calinski_harabasz,
    davies_bouldin,
    inverse_davies_bouldin,
)


def example(n=3000, d=4, n_labels=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, n)
    return rng.normal(size=(n_labels, d))[labels] + rng.normal(size=(n, d)), labels


def backwards(function, shared, items):
    """Run blocks in another order and process-like."""
    results = [pickle.loads(pickle.dumps(function(shared, item))) for item in reversed(items)]
    yield from reversed(results)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("offset", "scale"), [(0, 1), (1e4, 1), (1e6, 1), (0, 1e-8), (0, 1e15), (1e6, 1e-2), (0, 1e-30)]
)
def test_figures_equal_scikit_learn_wherever_the_cells_lie(offset, scale, dtype):
    latent, labels = example()
    latent = ((latent + offset) * scale).astype(dtype)
    # What the dtype holds is the truth; scikit-learn needs it about the origin, in units of 1.
    truth = latent.astype(np.float64)
    truth = (truth - truth.mean(axis=0)) / scale
    ch, db = calinski_harabasz(latent, labels), davies_bouldin(latent, labels)
    assert float(ch) == pytest.approx(calinski_harabasz_score(truth, labels), rel=1e-9)
    assert float(db) == pytest.approx(davies_bouldin_score(truth, labels), rel=1e-9)
    inverse = inverse_davies_bouldin(latent, labels)
    assert float(inverse) == pytest.approx(1 / float(db), rel=1e-15)
    for score in (ch, db, inverse):
        assert (score.kind, score.n, score.per_cell) == ("exact", 3000, None)
        assert 0 < score.error < 1e-8 * score.value


def test_coordinates_near_the_largest_number_do_not_overflow():
    latent, labels = example()
    assert float(calinski_harabasz(latent * 2.0**1015, labels)) == pytest.approx(
        calinski_harabasz_score(latent, labels), rel=1e-9
    )


@given(
    latent=arrays(np.float64, (9, 2), elements=st.integers(-5, 5)),
    labels=st.lists(st.integers(0, 2), min_size=9, max_size=9),
    offset=st.sampled_from([0, 2**30]),
)
@settings(max_examples=80, deadline=None)
def test_calinski_harabasz_is_within_its_error_of_exact_fractions(latent, labels, offset):
    codes = np.array(labels)
    if len(set(labels)) < 2:
        with pytest.raises(ScoreUndefinedError, match="between 2 and 8 different values"):
            calinski_harabasz(latent, codes)
        return
    cells = [[Fraction(int(x)) + offset for x in row] for row in latent]

    def mean(rows):
        return [sum(axis) / len(rows) for axis in zip(*rows, strict=True)]

    def square(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    groups = [
        [c for c, label in zip(cells, labels, strict=True) if label == g] for g in set(labels)
    ]
    within = sum(square(cell, mean(group)) for group in groups for cell in group)
    between = sum(len(group) * square(mean(group), mean(cells)) for group in groups)
    score = calinski_harabasz(latent + offset, codes)
    if within == 0:
        assert (score.value, score.error) == (1.0, 0.0)
        return
    exact = between / within * (9 - len(groups)) / (len(groups) - 1)
    assert abs(Fraction(score.value) - exact) <= Fraction(score.error) + Fraction(1, 10**12)


def test_labels_of_one_place_have_width_0_though_their_mean_is_no_float():
    latent = np.repeat([[0.1, 0.2], [0.3, 0.7], [1.1, 0.9]], 7, axis=0)
    labels = np.repeat(["a", "b", "c"], 7)
    assert float(calinski_harabasz(latent, labels)) == 1.0
    assert float(davies_bouldin(latent, labels)) == 0.0
    assert float(inverse_davies_bouldin(latent, labels)) == np.inf


def test_labels_whose_centres_coincide_are_passed_over():
    latent = np.array([[-1.0], [1.0], [-2.0], [2.0], [9.0], [11.0]])
    labels = np.repeat([0, 1, 2], 2)
    assert float(davies_bouldin(latent, labels)) == davies_bouldin_score(latent, labels)
    same = latent[:4], labels[:4]
    assert float(davies_bouldin(*same)) == davies_bouldin_score(*same) == 0.0


def test_small_widths_are_widths_unlike_in_scikit_learn():
    latent, labels = example()
    assert davies_bouldin_score(latent * 1e-9, labels) == 0.0
    # Powers of two change no digit.
    assert float(davies_bouldin(latent * 2.0**-40, labels)) == float(davies_bouldin(latent, labels))


def test_figures_do_not_depend_on_who_sums_the_blocks():
    latent, labels = example(n=150_000, d=2)
    for metric in (calinski_harabasz, davies_bouldin):
        here, there = metric(latent, labels), metric(latent, labels, map_blocks=backwards)
        assert (here.value, here.error) == (there.value, there.error)
    assert float(calinski_harabasz(latent, labels)) == pytest.approx(
        calinski_harabasz_score(latent, labels), rel=1e-11
    )


@given(st.permutations(range(4)))
def test_moments_of_disjoint_cells_add_up_in_any_order(order):
    rng = np.random.default_rng(0)
    # Whole numbers, whose sums have no rounding.
    parts = [
        Moments(*(rng.integers(0, 99, shape).astype(float) for shape in ((3,), (3, 2), (3,), (3,))))
        for _ in range(4)
    ]
    total = parts[order[0]]
    for place in order[1:]:
        total = total.merge(parts[place])
    expected = sum(part.sums for part in parts)
    np.testing.assert_array_equal(total.sums, expected)
    np.testing.assert_array_equal(total.counts, sum(part.counts for part in parts))


def test_names_of_labels_do_not_matter():
    latent, labels = example(n=200)
    names = np.array([f"type {code}" for code in range(7)])[labels]
    categories = pd.Categorical(names, categories=[*sorted(set(names), reverse=True), "absent"])
    values = {float(davies_bouldin(latent, given)) for given in (labels, names, categories)}
    assert len(values) <= 2
    assert max(values) == pytest.approx(min(values), rel=1e-14)


@pytest.mark.parametrize("metric", [calinski_harabasz, davies_bouldin, inverse_davies_bouldin])
def test_what_has_no_figure_is_refused(metric):
    latent, labels = example(n=20)
    for wrong in (np.zeros(20), np.arange(20)):
        with pytest.raises(
            ScoreUndefinedError, match="must have between 2 and 19 different values"
        ):
            metric(latent, wrong)
    with pytest.raises(DataError, match="20 cells, but 19 labels"):
        metric(latent, labels[1:])
    latent[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN in 1 cells"):
        metric(latent, labels)


def test_singletons_and_unequal_labels_equal_scikit_learn():
    rng = np.random.default_rng(4)
    latent = rng.standard_cauchy(size=(500, 3))
    labels = np.minimum(rng.geometric(0.2, 500), 30)
    labels[:3] = [100, 101, 102]
    assert float(davies_bouldin(latent, labels)) == pytest.approx(
        davies_bouldin_score(latent, labels), rel=1e-9
    )
    assert float(calinski_harabasz(latent, labels)) == pytest.approx(
        calinski_harabasz_score(latent, labels), rel=1e-9
    )


def test_many_labels_are_compared_in_parts():
    rng = np.random.default_rng(5)
    latent, labels = rng.normal(size=(2000, 2)), np.repeat(np.arange(400), 5)
    centres = latent.reshape(400, 5, 2).mean(axis=1)
    widths = np.linalg.norm(latent.reshape(400, 5, 2) - centres[:, None], axis=2).mean(axis=1)
    worst = np.zeros(400)
    for a, b in itertools.permutations(range(400), 2):
        worst[a] = max(worst[a], (widths[a] + widths[b]) / np.linalg.norm(centres[a] - centres[b]))
    assert float(davies_bouldin(latent, labels)) == pytest.approx(worst.mean(), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "key"),
    [("ra_synovium_pcs_24batches", "X_harmony"), ("cell_lines_pcs_harmony", "X_pca")],
)
def test_figures_of_real_embeddings_equal_scikit_learn(shared_data, name, key):
    import anndata

    atlas = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    latent = np.asarray(atlas.obsm[key])
    for column in ("batch", "cell_type"):
        labels = atlas.obs[column].to_numpy()
        truth = latent.astype(np.float64)
        assert float(calinski_harabasz(latent, labels)) == pytest.approx(
            calinski_harabasz_score(truth, labels), rel=1e-9
        )
        assert float(davies_bouldin(latent, labels)) == pytest.approx(
            davies_bouldin_score(truth, labels), rel=1e-9
        )

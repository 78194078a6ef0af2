"""LISI against harmonypy, against its definition, and whoever finds the neighbours."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.errors import ConfigError, DataError, ScoreUndefinedError
from medl_scale.evaluate.neighbours.lisi import (
    clisi,
    clisi_knn,
    ilisi,
    ilisi_knn,
    lisi,
    lisi_of_latent,
    scale_clisi,
    scale_ilisi,
)
from medl_scale.evaluate.neighbours.neighbours import ExactSample, Neighbours, nearest_neighbours


def of_harmony(latent, labels, perplexity=30.0):
    harmonypy = pytest.importorskip("harmonypy", reason="harmonypy is not installed")
    frame = pd.DataFrame({"label": np.asarray(labels).astype(str)})
    return harmonypy.compute_lisi(np.asarray(latent, float), frame, ["label"], perplexity)[:, 0]


def by_definition(distances, labels, perplexity):
    """Bisection on log(beta) to the last bit, in shifted distances."""
    gaps, low, high = distances - distances.min(), -200.0, 200.0
    for _ in range(300):
        middle = (low + high) / 2
        weights = np.exp(-np.exp(middle) * gaps)
        weights /= weights.sum()
        entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)))
        low, high = (middle, high) if entropy > math.log(perplexity) else (low, middle)
    return 1 / sum(weights[labels == label].sum() ** 2 for label in np.unique(labels))


def cells(n, d, scale=1.0, n_labels=7, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, d)) * np.exp(rng.normal(size=(n, 1))) * scale
    return latent, rng.integers(0, n_labels, n)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize(("n", "d"), [(3000, 1), (5000, 2), (2000, 12), (91, 2), (92, 3)])
def test_values_equal_those_of_harmonypy(n, d, scale):
    latent, labels = cells(n, d, scale)
    found = lisi(nearest_neighbours(latent, 90), labels)
    np.testing.assert_allclose(found, of_harmony(latent, labels), rtol=0, atol=1e-10)


@pytest.mark.parametrize("perplexity", [5.0, 29.0, 60.0])
def test_other_perplexities_equal_harmonypy(perplexity):
    latent, labels = cells(1500, 2, seed=1)
    near = nearest_neighbours(latent, int(3 * perplexity))
    found = lisi(near, labels, perplexity=perplexity)
    np.testing.assert_allclose(found, of_harmony(latent, labels, perplexity), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [5, 20, 31, 32, 60])
def test_fewer_cells_than_neighbours_equal_harmonypy(n):
    latent, _ = cells(n, 2, seed=2)
    labels = np.arange(n) % 2
    found = lisi(nearest_neighbours(latent, 90), labels, perplexity=30.0)
    np.testing.assert_allclose(found, of_harmony(latent, labels), rtol=0, atol=1e-10)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.5, 4.0, 10.0, 25.0]))
@settings(max_examples=40, deadline=None)
def test_values_are_those_of_the_definition(seed, perplexity):
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.gamma(2.0, size=(3, 30)) * 10.0 ** rng.integers(-6, 7), axis=1)
    indices = np.array([rng.choice(40, 30, replace=False) for _ in range(3)])
    labels = rng.integers(0, 4, 40)
    # Three cells whose neighbours are any of forty.
    near = Neighbours(
        np.vstack([indices, np.zeros((37, 30), int)]).astype(np.int32),
        np.vstack([distances, np.tile(np.arange(30.0), (37, 1))]),
        1.0,
        "given",
    )
    found = lisi(near, labels, perplexity=perplexity)[:3]
    expected = [
        by_definition(d, labels[i], perplexity) for d, i in zip(distances, indices, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_neighbours_that_are_all_far_are_weighed_by_how_much_farther_they_are():
    latent, labels = cells(400, 2, seed=3)
    near = nearest_neighbours(latent, 90)
    # harmonypy's weights underflow here, and it returns -1.
    far = Neighbours(near.indices, near.distances + 4096.0, 1.0, "given")
    np.testing.assert_allclose(lisi(far, labels), lisi(near, labels), rtol=1e-4)


def test_the_unit_of_length_does_not_matter():
    latent, labels = cells(300, 2, seed=4)
    expected = lisi(nearest_neighbours(latent, 90), labels)
    for scale in (1e-150, 1e-20, 1e20, 1e150):
        found = lisi(nearest_neighbours(latent * scale, 90), labels)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_values_lie_between_one_and_the_number_of_labels(seed, n, n_places):
    rng = np.random.default_rng(seed)
    latent = rng.integers(0, n_places, (n, 2)).astype(float)
    labels = rng.integers(0, 3, n)
    found = lisi(nearest_neighbours(latent, 90), labels)
    assert (found >= 1 - 1e-12).all()
    assert (found <= 3 + 1e-12).all()
    names = np.array(["x", "a", "m"])[labels]
    # Shares are summed over the same neighbours in the same order, whatever the labels are called.
    np.testing.assert_allclose(lisi(nearest_neighbours(latent, 90), names), found, rtol=1e-12)


def test_cells_at_one_place_weigh_their_neighbours_equally():
    labels = np.arange(200) % 4
    found = lisi(nearest_neighbours(np.zeros((200, 2)), 90), labels)
    shares = np.bincount(labels[1:91]) / 90
    assert found[0] == pytest.approx(1 / np.sum(shares**2))


def test_more_ties_for_the_nearest_than_the_perplexity_share_all_weight():
    latent = np.concatenate([np.zeros((60, 1)), np.arange(1.0, 61.0)[:, None]])
    labels = np.repeat([0, 1], 60)
    found = lisi(nearest_neighbours(latent, 90), labels)
    np.testing.assert_allclose(found[:60], 1.0, rtol=1e-9)


def test_few_duplicates_are_neighbours_like_others():
    latent, labels = cells(500, 2, seed=5)
    latent[:20] = latent[0]
    near = nearest_neighbours(latent, 90)
    expected = [
        by_definition(d, labels[i], 30.0) for d, i in zip(near.distances, near.indices, strict=True)
    ]
    np.testing.assert_allclose(lisi(near, labels), expected, rtol=1e-4)


def test_scores_are_medians_and_scaled_ones_span_zero_to_one():
    latent, batches = cells(800, 3, n_labels=5, seed=6)
    near = nearest_neighbours(latent, 89)
    raw, scaled = ilisi(near, batches), ilisi_knn(near, batches)
    assert float(raw) == np.median(raw.per_cell)
    assert float(scaled) == pytest.approx((float(raw) - 1) / 4)
    assert float(clisi_knn(near, batches)) == pytest.approx((5 - float(raw)) / 4)
    assert float(clisi(near, batches)) == float(raw)
    assert raw.method == f"89 neighbours ({near.method})"
    assert (raw.kind, raw.n) == ("exact", 800)
    assert 0 < raw.error < 1e-8
    apart = nearest_neighbours(latent + 1e3 * batches[:, None], 89)
    assert float(ilisi_knn(apart, batches)) == pytest.approx(0.0, abs=1e-9)
    assert float(clisi_knn(apart, batches)) == pytest.approx(1.0, abs=1e-9)


def elsewhere(function, shared, items):
    results = [
        pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(shared)), item)))
        for item in reversed(items)
    ]
    yield from reversed(results)


@pytest.mark.parametrize("method", ["tree", "tiles"])
def test_letting_neighbours_go_changes_no_bit(method):
    latent, batches = cells(34_000 if method == "tree" else 3000, 2, seed=7)
    types = np.random.default_rng(8).integers(0, 11, len(latent)).astype(str)
    near = nearest_neighbours(latent, 90, method=method)
    found = lisi_of_latent(
        latent, {"batch": batches, "type": types}, method=method, map_blocks=elsewhere
    )
    assert list(found) == ["batch", "type"]
    np.testing.assert_array_equal(found["batch"].per_cell, ilisi(near, batches).per_cell)
    np.testing.assert_array_equal(found["type"].per_cell, clisi(near, types).per_cell)
    assert float(found["type"]) == float(clisi(near, types))


def approximate(latent, k, share, seed):
    """Neighbours of which some are replaced by farther ones, with 500 cells' exact ones."""
    rng = np.random.default_rng(seed)
    many = nearest_neighbours(latent, 3 * k)
    indices, distances = many.indices[:, :k].copy(), many.distances[:, :k].copy()
    for row in np.flatnonzero(rng.random(many.n) < share):
        chosen = np.sort(rng.choice(3 * k, k, replace=False))
        indices[row], distances[row] = many.indices[row, chosen], many.distances[row, chosen]
    rows = np.sort(rng.choice(many.n, 500, replace=False))
    sample = ExactSample(rows, many.indices[rows, :k].astype(np.int64), many.distances[rows, :k])
    return Neighbours(indices, distances, 0.9, "approximate", sample)


def test_approximate_neighbours_give_an_interval_that_holds_the_exact_figure():
    latent, _ = cells(4000, 2, seed=9)
    batches = (latent[:, 0] > 0).astype(int)
    exact = float(ilisi(nearest_neighbours(latent, 30), batches))
    for seed in range(5):
        score = ilisi(approximate(latent, 30, 0.3, seed), batches)
        assert (score.kind, score.confidence) == ("confidence", 0.99)
        assert 0 <= score.error < 0.5
        assert abs(float(score) - exact) <= score.error
        assert score.method == "30 neighbours (approximate)"
        scaled = scale_ilisi(score, 2)
        assert (scaled.value, scaled.error) == (score.value - 1, score.error)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda near: ilisi(near, np.zeros(50)),
            ScoreUndefinedError,
            "batches must have between 2 and 49",
        ),
        (
            lambda near: clisi_knn(near, np.arange(50)),
            ScoreUndefinedError,
            "labels must have between 2",
        ),
        (lambda near: lisi(near, np.zeros(49)), DataError, "50 cells, but 49 labels"),
        (
            lambda near: lisi(near, np.arange(50) % 2, perplexity=0.5),
            ConfigError,
            "perplexity must be at least 1",
        ),
        (
            lambda near: scale_clisi(ilisi(near, np.arange(50) % 2), 1),
            ConfigError,
            "n_labels must be at least 2",
        ),
    ],
)
def test_what_has_no_figure_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(nearest_neighbours(np.arange(50.0)[:, None], 10))


@pytest.mark.parametrize(
    ("latent", "labellings", "error", "text"),
    [
        (np.zeros((9, 2)), {}, DataError, "at least one labelling"),
        (
            np.zeros((9, 2)),
            {"donor": np.zeros(9)},
            ScoreUndefinedError,
            "donor must have between 2 and 8",
        ),
        (np.full((9, 2), np.nan), {"donor": np.arange(9) % 2}, DataError, "NaN in 9 cells"),
        (
            np.zeros((9, 2)),
            {"donor": [None] * 9},
            DataError,
            "donor is missing or not finite for 9 of 9",
        ),
    ],
)
def test_latents_and_labellings_are_checked_at_the_door(latent, labellings, error, text):
    with pytest.raises(error, match=text):
        lisi_of_latent(latent, labellings)


@pytest.mark.parametrize(
    ("name", "key"),
    [("ra_synovium_pcs_24batches", "X_harmony"), ("cell_lines_pcs_harmony", "X_pca")],
)
def test_values_of_real_embeddings_equal_harmonypy(shared_data, name, key):
    import anndata

    atlas = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    latent, batches = np.asarray(atlas.obsm[key]), atlas.obs["batch"].to_numpy()
    found = lisi_of_latent(latent, {"batch": batches})["batch"]
    expected = of_harmony(latent, batches)
    np.testing.assert_allclose(found.per_cell, expected, rtol=0, atol=1e-10)

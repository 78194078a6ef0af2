"""Silhouettes of integration have scib-metrics' definitions and values."""

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples as sklearn_samples

from benchmarks.latents import make_latent
from medl_scale.errors import ConfigError, DataError, ScoreUndefinedError
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.silhouettes.silhouette import silhouette_score
from medl_scale.evaluate.silhouettes.silhouette_batch import (
    bras,
    silhouette_batch,
    silhouette_label,
)

METRICS = ("cosine", "euclidean")
BETWEEN = ("nearest", "mean_other", "furthest")


def latent_with(seed, n=600, d=4, n_labels=4, n_batches=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, n)
    batches = rng.integers(0, n_batches, n)
    latent = rng.normal(size=(n, d)) + 2 * rng.normal(size=(n_labels, d))[labels]
    return latent + 0.5 * rng.normal(size=(n_batches, d))[batches], labels, batches


def definition(latent, labels, batches, metric, between):
    """Return the score and 1 - abs(s) of every cell, straight from all distances."""
    values = np.full(len(latent), np.nan)
    means = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        own = batches[rows]
        if not 1 < len(np.unique(own)) < len(rows):
            continue
        distances = cdist(latent[rows], latent[rows], metric)
        for i, batch in enumerate(own):
            same = own == batch
            others = [distances[i][own == b] for b in np.unique(own) if b != batch]
            if same.sum() == 1:
                values[rows[i]] = 1.0
                continue
            a = distances[i][same].sum() / (same.sum() - 1)
            if between == "mean_other":
                b = np.concatenate(others).mean()
            else:
                b = (min if between == "nearest" else max)(o.mean() for o in others)
            values[rows[i]] = 1.0 - abs(b - a) / max(a, b)
        means.append(values[rows].mean())
    return np.mean(means), values


def test_the_label_silhouette_is_brought_into_zero_to_one():
    latent, labels, _ = latent_with(0)
    plain = silhouette_label(latent, labels, rescale=False, backend="cpu")
    found = silhouette_label(latent, labels, backend="cpu")
    assert plain.value == silhouette_score(latent, labels, backend="cpu").value
    assert found.value == (plain.value + 1) / 2
    assert found.error == plain.error / 2
    assert found.value == pytest.approx((sklearn_samples(latent, labels).mean() + 1) / 2, abs=1e-6)
    # Cells keep their silhouettes.
    np.testing.assert_array_equal(found.per_cell, plain.per_cell)


@given(st.integers(0, 10**6), st.integers(20, 150), st.integers(1, 6), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore:.*are left out:UserWarning")
def test_batch_silhouettes_follow_their_definition(seed, n, d, n_batches):
    latent, labels, batches = latent_with(seed, n, d, 3, n_batches)
    value, cells = definition(latent, labels, batches, "euclidean", "nearest")
    found = silhouette_batch(latent, labels, batches, backend="cpu")
    assert abs(found.value - value) <= found.error + 1e-9
    np.testing.assert_allclose(found.per_cell, cells, atol=1e-6)
    assert found.n == np.isfinite(cells).sum()
    plain = silhouette_batch(latent, labels, batches, rescale=False, backend="cpu")
    assert plain.value == pytest.approx(1 - found.value)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("between", BETWEEN)
def test_bras_follows_its_definition(metric, between):
    for seed in range(5):
        latent, labels, batches = latent_with(seed)
        value, cells = definition(latent, labels, batches, metric, between)
        found = bras(latent, labels, batches, metric=metric, between=between)
        assert abs(found.value - value) <= found.error + 1e-9
        assert (np.abs(found.per_cell - cells) <= found.per_cell_error + 1e-9).all()
        assert found.kind == "exact"
        assert found.error < 1e-5
        assert found.method == f"{metric}, {between} within 4 labels"


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1e15, 1e200])
def test_cosine_does_not_depend_on_the_length_of_cells(scale):
    latent, labels, batches = latent_with(1)
    lengths = np.random.default_rng(0).uniform(0.5, 2, (len(latent), 1)) * scale
    expected = bras(latent, labels, batches).per_cell
    np.testing.assert_allclose(
        bras(latent * lengths, labels, batches).per_cell, expected, atol=1e-6
    )


def test_almost_parallel_cells_keep_their_digits():
    latent, labels, batches = latent_with(2)
    # Angles of 1e-5: cosine distances of 1e-10, lost in 1 - cos but not in |x - y|^2 / 2.
    narrow = np.hstack([np.full((len(latent), 1), 1e5), latent])
    found = bras(narrow, labels, batches)
    directions = narrow / np.linalg.norm(narrow, axis=1, keepdims=True)
    value, cells = definition(directions, labels, batches, "sqeuclidean", "mean_other")
    assert abs(found.value - value) < 1e-6
    assert (np.abs(found.per_cell - cells) <= found.per_cell_error + 1e-6).all()


def test_batches_of_single_cells_are_perfectly_mixed():
    latent, labels, batches = latent_with(3)
    batches[:4] = [50, 51, 52, 53]
    for found in (
        silhouette_batch(latent, labels, batches, backend="cpu"),
        bras(latent, labels, batches),
    ):
        np.testing.assert_array_equal(found.per_cell[:4], 1.0)


def test_labels_of_one_batch_are_left_out_with_a_warning():
    latent, labels, batches = latent_with(4)
    names = np.array(["a", "b", "c", "d"])[labels]
    batches[names == "b"] = 0
    # As many batches as cells: no cell has company.
    lonely = np.flatnonzero(names == "d")[:3]
    names[lonely] = "e"
    batches[lonely] = [0, 1, 2]
    kept = ~np.isin(names, ["b", "e"])
    for score in (lambda *x: silhouette_batch(*x, backend="cpu"), bras):
        with pytest.warns(UserWarning, match=r"2 of 5 labels .* left out \(b, e\)\. Merge rare"):
            found = score(latent, names, batches)
        alone = score(latent[kept], names[kept], batches[kept])
        assert found.value == alone.value
        assert found.n == kept.sum()
        assert np.isnan(found.per_cell[~kept]).all()
        assert np.isfinite(found.per_cell[kept]).all()


def test_no_label_with_several_batches_is_an_error():
    latent, labels, _ = latent_with(5)
    for score in (silhouette_batch, bras):
        with pytest.raises(
            ScoreUndefinedError, match=r"several batches, and in fewer .* none of 4"
        ):
            score(latent, labels, labels)


def test_bad_input_is_named():
    latent, labels, batches = latent_with(6)
    with pytest.raises(DataError, match="batches must name every cell: 600 cells, but 599"):
        silhouette_batch(latent, labels, batches[:-1])
    with pytest.raises(DataError, match="batches is missing or not finite for 2"):
        bras(latent, labels, np.where(np.arange(600) < 2, np.nan, batches))
    with pytest.raises(ConfigError, match="metric must be one of 'cosine', 'euclidean'; got 'l1'"):
        bras(latent, labels, batches, metric="l1")
    with pytest.raises(ConfigError, match="between must be one of 'nearest', 'mean_other', 'furth"):
        bras(latent, labels, batches, between="other")
    with pytest.raises(ConfigError, match="method must be one of"):
        silhouette_batch(latent, labels, batches, method="fast")
    latent[:3] = 0.0
    with pytest.raises(DataError, match=r"3 of .* cells lie at the origin\. Pass"):
        bras(latent, np.zeros(600), batches)


def test_the_error_of_grids_and_samples_is_passed_on():
    latent, labels = make_latent("mixed", 9000, 2, 3, 0)
    batches = np.random.default_rng(0).integers(0, 5, len(labels))
    exact = silhouette_batch(latent, labels, batches, method="brute", backend="cpu")
    grids = silhouette_batch(latent, labels, batches, method="gridded", tol=1e-2)
    sampled = silhouette_batch(latent, labels, batches, method="two_phase", tol=2e-3)
    assert (exact.kind, grids.kind, sampled.kind) == ("exact", "certified", "confidence")
    assert (exact.confidence, grids.confidence, sampled.confidence) == (None, None, 0.99)
    assert sampled.method == "two_phase within 3 labels"
    for found in (grids, sampled):
        assert abs(found.value - exact.value) <= found.error
        assert (np.abs(found.per_cell - exact.per_cell) <= found.per_cell_error + 1e-6).all()
    # Independent samples: the mean of three is better than each.
    assert sampled.error < 2e-3 / np.sqrt(3) * 1.01


@pytest.mark.parametrize("metric", METRICS)
def test_figures_do_not_depend_on_who_works(metric):
    latent, labels, batches = latent_with(7)
    calls = []

    def counting(function, shared, items):
        calls.append(len(items))
        return map_here(function, shared, items)

    here = bras(latent, labels, batches, metric=metric)
    there = bras(latent, labels, batches, metric=metric, map_blocks=counting)
    assert len(calls) == 4
    np.testing.assert_array_equal(here.per_cell, there.per_cell)


@pytest.mark.parametrize(
    "file",
    [
        # scib-metrics takes half a minute for it.
        pytest.param("ra_synovium_pcs_24batches", marks=pytest.mark.slow),
        "cell_lines_pcs_harmony",
    ],
)
@pytest.mark.filterwarnings("ignore:.*are left out:UserWarning")
def test_real_embeddings_equal_scib_metrics(shared_data, file):
    pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    from scib_metrics import metrics

    with h5py.File(shared_data / f"{file}.h5ad") as opened:
        latent = opened["obsm/X_pca"][::5]
        batches, labels = (
            pd.Categorical.from_codes(
                opened["obs"][name]["codes"][:], opened["obs"][name]["categories"].asstr()[:]
            )[::5]
            for name in ("batch", "cell_type")
        )
    own = np.asarray(labels), np.asarray(batches)
    for ours, theirs in (
        (silhouette_label(latent, labels), metrics.silhouette_label(latent, own[0])),
        (silhouette_batch(latent, labels, batches), metrics.silhouette_batch(latent, *own)),
        (bras(latent, labels, batches), metrics.bras(latent, *own)),
    ):
        assert ours.value == pytest.approx(float(theirs), abs=1e-5)

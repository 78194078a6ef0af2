import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.latents import KINDS, make_latent
from medl_scale.evaluate.silhouettes.brute import brute_samples
from medl_scale.evaluate.silhouettes.pruned import pruned_samples, silhouettes_of
from medl_scale.evaluate.silhouettes.subclusters import build_subclusters
from tests.evaluate.silhouettes.exact_cases import (
    CASES,
    blobs,
    clusters_of,
    errors_of,
    map_elsewhere,
)


@pytest.mark.parametrize("name", CASES)
def test_silhouettes_are_those_of_the_definition(name):
    latent, labels = CASES[name]
    clusters = clusters_of(latent, labels)
    result = pruned_samples(clusters)
    errors = errors_of(result, clusters, latent, labels)
    assert (errors <= result.errors).all()
    assert errors.max() < 1e-6
    assert (np.abs(result.values) <= 1).all()


@given(
    n=st.integers(3, 300),
    d=st.integers(1, 12),
    n_labels=st.integers(2, 40),
    power=st.floats(0, 6),
    apart=st.floats(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_no_label_that_is_the_nearest_is_ever_dropped(n, d, n_labels, power, apart, seed):
    n_labels = min(n_labels, n - 1)
    rng = np.random.default_rng(seed)
    latent, labels = blobs(n, d, n_labels, seed=seed, apart=apart)
    latent *= np.exp(power * rng.normal(size=(n, 1)))
    clusters = clusters_of(latent, labels)
    result = pruned_samples(clusters)
    assert (errors_of(result, clusters, latent, labels) <= result.errors).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d", "n_labels"), [(2, 147), (10, 19), (50, 60)])
def test_pruning_changes_nothing_and_saves_much(kind, d, n_labels):
    clusters = clusters_of(*make_latent(kind, 6000, d, n_labels, 3))
    result, brute = pruned_samples(clusters), brute_samples(clusters)
    assert np.abs(result.values - brute.values).max() < 1e-6
    own = (clusters.counts**2).sum() / clusters.n**2
    assert own < result.share < (0.75 if kind == "null" else 0.45)
    assert result.method == f"pruned ({result.share:.2g} of all pairs summed)"


def test_chosen_cells_get_the_figures_that_all_cells_would_give_them():
    clusters = clusters_of(*make_latent("mixed", 5000, 8, 40, 0))
    sub = build_subclusters(clusters)
    every = pruned_samples(clusters, sub)
    rows = np.random.default_rng(0).permutation(clusters.n)[:300]
    chosen = silhouettes_of(rows, clusters, sub)
    assert chosen.values.shape == (300,)
    assert (np.abs(chosen.values - every.values[rows]) <= chosen.errors + every.errors[rows]).all()
    assert np.abs(chosen.values - every.values[rows]).max() < 5e-7
    assert 0 < chosen.share < 0.3


def test_chosen_cells_may_be_alone_or_none():
    clusters = clusters_of(*CASES["singletons"])
    alone = np.flatnonzero(clusters.counts[clusters.codes] == 1)
    np.testing.assert_array_equal(silhouettes_of(alone, clusters).values, 0.0)
    assert silhouettes_of(alone[:0], clusters).values.shape == (0,)


def test_more_labels_than_intervals_fit_in_memory_are_no_trouble(monkeypatch):
    monkeypatch.setattr("medl_scale.evaluate.silhouettes.pruned._INTERVALS", 7)
    clusters = clusters_of(*blobs(400, 2, 50))
    short = pruned_samples(clusters)
    monkeypatch.undo()
    np.testing.assert_array_equal(short.values, pruned_samples(clusters).values)


def test_cells_times_labels_may_exceed_32_bits():
    n, n_labels = 46_500, 46_300
    assert n * n_labels > 2**31
    rng = np.random.default_rng(0)
    # All but 200 cells are alone in their label.
    labels = np.concatenate([np.arange(n_labels), rng.integers(0, 100, n - n_labels)])
    latent = rng.normal(size=(n, 2))
    clusters = clusters_of(latent, labels)
    result = pruned_samples(clusters)
    row = int(np.flatnonzero(clusters.counts[clusters.codes] > 1)[17])
    points = clusters.points(slice(None))
    distances = np.sqrt(((points - points[row]) ** 2).sum(axis=1))
    sums = np.add.reduceat(distances, clusters.starts[:-1])
    own = clusters.codes[row]
    a, means = sums[own] / (clusters.counts[own] - 1), sums / clusters.counts
    b = np.delete(means, own).min()
    assert result.values[row] == pytest.approx((b - a) / max(a, b), abs=1e-6)
    assert np.count_nonzero(result.values) <= 300


def test_figures_do_not_depend_on_threads_or_on_who_does_the_work():
    clusters = clusters_of(*make_latent("null", 20_000, 4, 25, 0))
    sub = build_subclusters(clusters)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        single = pruned_samples(clusters, sub)
    finally:
        numba.set_num_threads(before)
    for result in (
        pruned_samples(clusters, sub),
        pruned_samples(clusters, sub, map_blocks=map_elsewhere),
    ):
        np.testing.assert_array_equal(result.values, single.values)
        assert result.share == single.share


@pytest.mark.parametrize(
    ("name", "space", "column"),
    [
        ("ra_synovium_pcs_24batches", "X_pca", "batch"),
        ("ra_synovium_pcs_24batches", "X_pca", "cell_type"),
        ("cell_lines_pcs_harmony", "X_pca", "batch"),
    ],
)
def test_real_embeddings_get_scikit_learn_s_figures(shared_data, name, space, column):
    import anndata

    data = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    rows = np.random.default_rng(0).permutation(data.n_obs)[:4000]
    latent, labels = np.asarray(data.obsm[space])[rows], data.obs[column].to_numpy()[rows]
    clusters = clusters_of(latent, labels)
    for result in (pruned_samples(clusters), brute_samples(clusters)):
        errors = errors_of(result, clusters, latent, labels)
        assert (errors <= result.errors).all()
        assert errors.max() < 1e-6

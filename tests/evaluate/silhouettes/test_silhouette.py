"""Silhouettes of all cells equal scikit-learn's in float64, by every method and on every odd case."""

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples as sklearn_samples

from benchmarks.latents import make_latent
from medl_scale.errors import ConfigError, DataError, MissingExtraError, ScoreUndefinedError
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.silhouettes.silhouette import silhouette_samples, silhouette_score
from medl_scale.evaluate.silhouettes.silhouette_methods import Options

EXACT = ("pruned", "brute")


def oracle(latent, labels):
    """Return scikit-learn's silhouettes; its expanded squares want centred input."""
    cells = np.asarray(latent, np.float64)
    cells = (cells - cells.mean(axis=0)) / max(np.abs(cells - cells.mean(axis=0)).max(), 1e-300)
    return sklearn_samples(cells, np.asarray(labels))


def blobs(seed=0, n=400, d=2, n_labels=5):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_labels, n)
    return rng.normal(size=(n, d)) + rng.normal(0, 2, (n_labels, d))[codes], codes


def odd_cases():
    latent, codes = blobs()
    rng = np.random.default_rng(1)
    alone = codes.copy()
    alone[:3] = [90, 91, 92]
    tiny = codes.copy()
    tiny[:9] = np.repeat([90, 91, 92], 3)
    far = latent.copy()
    far[:3] *= 1e4
    one_point = latent.copy()
    one_point[codes == 1] = 3.0
    return {
        "singletons": (latent, alone),
        "labels of three cells": (latent, tiny),
        "half of all are duplicates": (np.repeat(latent[:200], 2, axis=0), codes),
        "identical cells": (np.full((50, 2), 3.7), np.arange(50) % 3),
        "one label at one point": (one_point, codes),
        "a constant dimension": (latent * [1.0, 0.0] + 5.0, codes),
        "one dimension": (latent[:, :1], codes),
        "offset 1e6": (latent + 1e6, codes),
        "offset 1e4 in float32": ((latent + 1e4).astype(np.float32), codes),
        "scale 1e-8": (latent * 1e-8, codes),
        "scale 1e15": (latent * 1e15, codes),
        "scale 1e15 in float32": ((latent * 1e15).astype(np.float32), codes),
        "heavy tails": (rng.standard_t(1.5, (400, 2)), codes),
        "Cauchy tails": (rng.standard_cauchy((400, 3)), codes),
        "far outliers": (far, codes),
        "nested clusters": (latent * 10.0 ** -(2.0 * (codes[:, None] % 3)), codes),
        "50 dimensions": (blobs(2, 300, 50)[0], blobs(2, 300, 50)[1]),
        "integers": (rng.integers(0, 4, (300, 3)), rng.integers(0, 4, 300)),
    }


@pytest.mark.parametrize("method", ["auto", "pruned", "brute", "two_phase"])
@pytest.mark.parametrize("name", odd_cases())
def test_odd_cases_equal_scikit_learn(name, method):
    latent, labels = odd_cases()[name]
    found = silhouette_samples(latent, labels, method=method, backend="cpu", tol=1e-9)
    truth = oracle(latent, labels)
    # Its expanded squares have float64's digits of the largest distance only.
    blur = 1e-5 if "nested" in name or "outliers" in name else 1e-6
    np.testing.assert_allclose(found.per_cell, truth, atol=blur + 1e-6)
    assert (np.abs(found.per_cell - truth) <= found.per_cell_error + blur).all()
    assert abs(found.value - truth.mean()) <= found.error + 1e-6
    assert found.kind == "exact"
    assert (found.n, found.confidence) == (len(latent), None)


@pytest.mark.parametrize("name", [n for n, (x, _) in odd_cases().items() if x.shape[1] == 2])
def test_odd_cases_are_within_the_certificate_of_grids(name):
    latent, labels = odd_cases()[name]
    found = silhouette_samples(latent, labels, method="gridded", tol=1e-3, backend="cpu")
    truth = oracle(latent, labels)
    assert found.kind == "certified"
    assert found.method.startswith("gridded")
    assert (np.abs(found.per_cell - truth) <= found.per_cell_error + 1e-6).all()
    assert abs(found.value - truth.mean()) <= found.error + 1e-6


@given(st.integers(0, 10**6), st.integers(4, 120), st.integers(1, 9), st.integers(2, 8))
@settings(max_examples=60, deadline=None)
def test_exact_methods_equal_scikit_learn(seed, n, d, n_labels):
    latent, labels = blobs(seed, n, d, n_labels)
    if not 2 <= len(np.unique(labels)) <= n - 1:
        return
    truth = oracle(latent, labels)
    for method in EXACT:
        found = silhouette_samples(latent, labels, method=method, backend="cpu")
        assert (np.abs(found.per_cell - truth) <= found.per_cell_error + 1e-9).all()
        assert found.error < 1e-5


def test_labels_may_be_of_any_kind_and_order():
    latent, codes = blobs()
    names = np.array(["T cell", "B cell", "NK", "mono", "DC"])[codes]
    expected = silhouette_samples(latent, codes, backend="cpu").per_cell
    for labels in (
        names,
        names.astype(object),
        list(names),
        pd.Series(names, index=np.arange(len(names))[::-1]),
        pd.Categorical(names, categories=["unused", *np.unique(names)[::-1], "also unused"]),
        pd.Series(pd.Categorical(names)),
        codes * 1000 - 7,
        codes.astype(np.float64),
    ):
        found = silhouette_samples(latent, labels, backend="cpu")
        np.testing.assert_allclose(found.per_cell, expected, atol=1e-6)


def test_cells_keep_their_order():
    latent, codes = blobs(3)
    order = np.random.default_rng(0).permutation(len(codes))
    plain = silhouette_samples(latent, codes, backend="cpu")
    mixed = silhouette_samples(latent[order], codes[order], backend="cpu")
    np.testing.assert_allclose(mixed.per_cell, plain.per_cell[order], atol=1e-6)
    assert np.asarray(plain) is not None
    np.testing.assert_array_equal(np.asarray(plain), plain.per_cell)


def test_the_input_is_left_as_it_is():
    latent, codes = blobs(4)
    latent.flags.writeable = False
    silhouette_samples(latent, codes, backend="cpu")
    silhouette_samples(np.asfortranarray(latent), codes, backend="cpu")


def test_a_score_is_the_mean_without_cells():
    latent, codes = blobs(5)
    cells = silhouette_samples(latent, codes, method="pruned", backend="cpu")
    score = silhouette_score(latent, codes, method="pruned", backend="cpu")
    assert score.value == cells.value == pytest.approx(cells.per_cell.mean())
    assert score.per_cell is None
    assert score.per_cell_error is None
    assert float(score) == score.value
    assert score.seconds > 0


WRONG = [
    ({"method": "exact"}, ConfigError, "method must be one of 'auto', 'gridded', 'pruned', 'brute', 'two_phase'; got 'exact'"),
    ({"backend": "tpu"}, ConfigError, "backend must be one of 'auto', 'cpu', 'gpu'; got 'tpu'"),
    ({"tol": 0}, ConfigError, "tol must be greater than 0; got 0"),
    ({"confidence": 1.5}, ConfigError, "confidence must lie between 0 and 1, such as 0.99; got 1.5"),
    ({"max_seconds": -1}, ConfigError, "max_seconds must be greater than 0, or None; got -1"),
    ({"method": "gridded", "backend": "gpu"}, ConfigError, "method must be 'auto', 'pruned' or 'brute' on a GPU; got 'gridded'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "text"), WRONG)
def test_wrong_options_are_named(options, error, text):
    latent, codes = blobs()
    with pytest.raises(error, match=text):
        silhouette_score(latent, codes, **options)


def test_grids_are_refused_above_two_dimensions():
    latent, codes = blobs(d=3)
    with pytest.raises(ConfigError, match="'gridded' wants a latent of 2 dimensions; this has 3"):
        silhouette_score(latent, codes, method="gridded")


def spoilt(value):
    latent, codes = blobs()
    latent[[3, 5], 1] = value
    return latent, codes


BAD = [
    (lambda: spoilt(np.nan), DataError, "latent has NaN in 2 cells and infinite values in 0 of 400"),
    (lambda: spoilt(np.inf), DataError, "latent has NaN in 0 cells and infinite values in 2 of 400"),
    (lambda: (blobs()[0], np.where(blobs()[1] == 0, np.nan, blobs()[1])), DataError, "labels is missing or not finite for"),
    (lambda: (blobs()[0], pd.Categorical([None] * 7 + ["a", "b", "c"] * 131)), DataError, "labels is missing or not finite for 7 of 400"),
    (lambda: (blobs()[0], blobs()[1][:-1]), DataError, "400 cells, but 399 labels"),
    (lambda: (blobs()[0], np.zeros(400)), ScoreUndefinedError, "labels must have between 2 and 399 different values for 400 cells; it has 1"),
    (lambda: (blobs()[0], np.arange(400)), ScoreUndefinedError, "it has 400"),
    (lambda: (blobs()[0][:, 0], blobs()[1]), DataError, "latent must be a matrix"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "text"), BAD)
def test_bad_input_is_counted(make, error, text):
    with pytest.raises(error, match=text):
        silhouette_samples(*make())


def test_an_undefined_score_is_a_value_error_as_in_scikit_learn():
    with pytest.raises(ValueError, match="undefined"):
        silhouette_score(blobs()[0], np.zeros(400))


AUTO = [
    (("null", 2000, 8, 5, 0), "brute; auto: few cells"),
    (("celltype", 9000, 8, 12, 0), "pruned"),
    (("null", 6000, 8, 3, 0), "brute; auto: exact takes about"),
    (("celltype", 50_001, 2, 4, 0), "gridded"),
]


@pytest.mark.parametrize(("cells", "text"), AUTO)
def test_auto_says_what_it_chose_and_why(cells, text):
    latent, codes = make_latent(*cells)
    found = silhouette_score(latent, codes, backend="cpu", tol=1e-2)
    assert found.method.startswith(text)
    assert "; auto: " in found.method
    assert found.kind == ("certified" if text == "gridded" else "exact")


def test_auto_samples_queries_where_time_is_short():
    latent, codes = make_latent("celltype", 51_000, 4, 20, 1)
    short = silhouette_samples(latent, codes, backend="cpu", max_seconds=1e-2)
    long = silhouette_samples(latent, codes, backend="cpu", max_seconds=100)
    assert short.method.startswith("two_phase")
    assert "auto: exact takes about" in short.method
    assert (short.kind, short.confidence) == ("confidence", 0.99)
    assert long.method.startswith("pruned")
    assert long.kind == "exact"
    assert abs(short.value - long.value) <= short.error
    assert (np.abs(short.per_cell - long.per_cell) <= short.per_cell_error + 1e-6).all()


def test_without_a_gpu_one_that_was_asked_for_is_missed(monkeypatch):
    from medl_scale.evaluate.backend import gpu_problem

    if gpu_problem() is None:
        pytest.skip("a GPU is here")
    latent, codes = blobs()
    with pytest.raises((MissingExtraError, ConfigError), match="backend='gpu' was asked for"):
        silhouette_score(latent, codes, backend="gpu")
    monkeypatch.setenv("MEDL_REQUIRE_GPU", "1")
    for method in ("auto", "pruned", "brute"):
        with pytest.raises(ConfigError, match="MEDL_REQUIRE_GPU is set"):
            silhouette_score(latent, codes, method=method)
    assert silhouette_score(latent, codes, backend="cpu").kind == "exact"


@pytest.mark.parametrize("method", ["pruned", "brute", "gridded", "two_phase"])
def test_figures_do_not_depend_on_who_works(method):
    latent, codes = make_latent("mixed", 3000, 2, 6, 2)
    calls = []

    def counting(function, shared, items):
        calls.append(len(items))
        return map_here(function, shared, items)

    here = silhouette_samples(latent, codes, method=method, backend="cpu")
    there = silhouette_samples(latent, codes, method=method, backend="cpu", map_blocks=counting)
    assert calls
    assert here.value == there.value
    np.testing.assert_array_equal(here.per_cell, there.per_cell)


def test_time_is_shared_out_where_several_scores_are_asked():
    assert Options(max_seconds=100.0).for_share(0.25).max_seconds == 25.0
    assert Options(method="two_phase").for_share(0.25).max_seconds is None
    assert Options().for_share(0.5).max_seconds == 150.0


def read(path, key):
    with h5py.File(path) as file:
        latent = file["obsm"][key][:]
        columns = {}
        for name in ("batch", "cell_type"):
            column = file["obs"][name]
            columns[name] = pd.Categorical.from_codes(
                column["codes"][:], column["categories"].asstr()[:]
            )
    return latent, columns


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("ra_synovium_pcs_24batches.h5ad", "X_pca"),
        ("ra_synovium_pcs_24batches.h5ad", "X_harmony"),
        ("cell_lines_pcs_harmony.h5ad", "X_pca"),
    ],
)
def test_real_embeddings_equal_scikit_learn(shared_data, file, key):
    latent, columns = read(shared_data / file, key)
    some = slice(None, None, 2)  # scikit-learn takes a while for all
    latent = latent[some]
    for labels in (column[some] for column in columns.values()):
        truth = oracle(latent, labels.codes)
        for method in EXACT:
            found = silhouette_samples(latent, labels, method=method, backend="cpu")
            assert np.abs(found.per_cell - truth).max() < 1e-6
            assert (np.abs(found.per_cell - truth) <= found.per_cell_error).all()
        plane = silhouette_samples(latent[:, :2], labels, method="gridded")
        truth = oracle(latent[:, :2], labels.codes)
        assert (np.abs(plane.per_cell - truth) <= plane.per_cell_error).all()
        sampled = silhouette_samples(latent[:, :2], labels, method="two_phase", tol=1e-3)
        assert abs(sampled.value - truth.mean()) <= sampled.error <= 1e-3

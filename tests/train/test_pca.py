"""PCA, streamed, against scikit-learn's of the same cells."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from medl_scale.errors import ConfigError
from medl_scale.store.atlas import describe, read_columns, var_names
from medl_scale.stream.densify import Transform
from medl_scale.stream.minibatches import blocks
from medl_scale.stream.source import open_source
from medl_scale.train.fitted import Vocabulary
from medl_scale.train.pca import fit_pca

N_LATENT = 6


@pytest.fixture(scope="module")
def fitted(atlas_path):
    """A streamed PCA of fold 1, the train cells as a matrix, and their batches."""
    atlas, columns = describe(atlas_path), read_columns(atlas_path)
    split = atlas.split(1)
    transform = Transform(atlas.input_units, atlas.target_sum, 0.5)
    vocabulary = Vocabulary(
        tuple(var_names(atlas_path)), atlas.batch_key, atlas.batch_levels, (), transform
    )
    with open_source(atlas_path) as source:
        with blocks(source, columns, list(split.train), transform, 100) as found:
            parts = [(block.x.copy(), block.batch_codes) for block in found]
        x = np.concatenate([part[0] for part in parts])
        codes = np.concatenate([part[1] for part in parts])
        seen = []
        mean = x.mean(axis=0)
        model = fit_pca(source, columns, split, vocabulary, mean, N_LATENT, advance=seen.append)
        off = fit_pca(source, columns, split, vocabulary, mean + np.float32(0.3), N_LATENT)
    assert sum(seen) == len(x)
    # A mean that is a little off, as one of float32 sums may be, does not turn the components.
    np.testing.assert_allclose(off.components, model.components, atol=1e-3)
    return model, x, codes


def test_components_span_those_of_scikit_learn(fitted):
    model, x, _ = fitted
    reference = PCA(N_LATENT, svd_solver="full").fit(x.astype(np.float64))
    for component, expected in zip(model.components.T, reference.components_, strict=True):
        assert abs(component @ expected) == pytest.approx(1.0, abs=1e-5)


def test_the_largest_loading_of_each_component_is_positive(fitted):
    components = fitted[0].components
    largest = np.abs(components).argmax(axis=0)
    assert np.all(components[largest, np.arange(N_LATENT)] > 0)


def test_latents_are_projections_of_centred_cells(fitted):
    model, x, codes = fitted
    latent = model.encode(x, codes)["X_pca"]
    reference = PCA(N_LATENT, svd_solver="full").fit(x.astype(np.float64)).transform(x)
    signs = np.sign(np.sum(latent * reference, axis=0))
    np.testing.assert_allclose(latent, reference * signs, atol=1e-4)


def test_batch_centred_latents_have_no_mean_in_any_batch_of_the_train_cells(fitted):
    model, x, codes = fitted
    latents = model.encode(x, codes)
    assert model.latent_sizes() == {"X_pca": N_LATENT, "X_pca_batch_centred": N_LATENT}
    plain = [latents["X_pca"][codes == code].mean(axis=0) for code in np.unique(codes)]
    assert np.abs(plain).max() > 0.1
    for code in np.unique(codes):
        centred = latents["X_pca_batch_centred"][codes == code].mean(axis=0)
        np.testing.assert_allclose(centred, 0, atol=1e-5)


def test_an_unknown_batch_is_not_shifted(fitted):
    model, x, codes = fitted
    unknown = model.encode(x[:5], np.full(5, -1, np.int32))
    np.testing.assert_array_equal(unknown["X_pca"], unknown["X_pca_batch_centred"])
    np.testing.assert_array_equal(unknown["X_pca"], model.encode(x[:5], codes[:5])["X_pca"])


def test_more_components_than_genes_or_cells_are_refused(atlas_path):
    atlas, columns = describe(atlas_path), read_columns(atlas_path)
    split = atlas.split(0)
    n_train = sum(rows.stop - rows.start for rows in split.train)
    transform = Transform(atlas.input_units, atlas.target_sum)
    vocabulary = Vocabulary((), atlas.batch_key, atlas.batch_levels, (), transform)
    mean = np.zeros(atlas.n_vars, np.float32)
    with (
        open_source(atlas_path) as source,
        pytest.raises(
            ConfigError,
            match=rf"n_latent must be at most {atlas.n_vars} for PCA of {n_train} train cells x "
            rf"{atlas.n_vars} genes; got {atlas.n_vars + 1}",
        ),
    ):
        fit_pca(source, columns, split, vocabulary, mean, atlas.n_vars + 1)

"""All scores made of neighbours against scib-metrics, given the same neighbours, on real embeddings."""

import numpy as np
import pytest

from medl_scale.evaluate.neighbours.connectivity import graph_connectivity
from medl_scale.evaluate.neighbours.diffusion import connectivities
from medl_scale.evaluate.neighbours.kbet import kbet
from medl_scale.evaluate.neighbours.kbet_per_label import kbet_of_labels, kbet_per_label
from medl_scale.evaluate.neighbours.lisi import clisi_knn, ilisi_knn, lisi
from medl_scale.evaluate.neighbours.neighbours import (
    CONNECTIVITY_NEIGHBOURS,
    KBET_NEIGHBOURS,
    LISI_NEIGHBOURS,
    nearest_neighbours,
)

EMBEDDINGS = [
    ("ra_synovium_pcs_24batches", "X_harmony"),
    ("ra_synovium_pcs_24batches", "X_pca"),
    ("cell_lines_pcs_harmony", "X_pca"),
]


@pytest.fixture(scope="module")
def scib():
    return pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")


@pytest.fixture(scope="module", params=EMBEDDINGS, ids="-".join)
def embedded(request, shared_data):
    """Neighbours, batches and labels of a real embedding."""
    import anndata

    name, key = request.param
    atlas = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    near = nearest_neighbours(np.asarray(atlas.obsm[key]), LISI_NEIGHBOURS)
    return near, atlas.obs["batch"].to_numpy(), atlas.obs["cell_type"].to_numpy()


def as_theirs(near):
    """Return neighbours as scib-metrics holds them: the cell itself comes first."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    own, zero = np.arange(near.n)[:, None], np.zeros((near.n, 1))
    return NeighborsResults(
        indices=np.hstack([own, near.indices]), distances=np.hstack([zero, near.distances])
    )


def test_lisi_equals_that_of_scib_metrics(scib, embedded):
    near, batches, labels = embedded
    theirs = as_theirs(near)
    # It computes in float32.
    expected = scib.lisi_knn(theirs, batches)
    assert np.median(np.abs(lisi(near, batches) - expected)) < 2e-6
    assert float(ilisi_knn(near, batches)) == pytest.approx(
        scib.ilisi_knn(theirs, batches), abs=2e-6
    )
    assert float(clisi_knn(near, labels)) == pytest.approx(scib.clisi_knn(theirs, labels), abs=2e-6)


def test_kbet_equals_that_of_scib_metrics(scib, embedded):
    near, batches, _ = embedded
    near = near.first(KBET_NEIGHBOURS)
    accepted, _, p_values = scib.kbet(as_theirs(near), batches)
    found = kbet(near, batches)
    np.testing.assert_allclose(found.per_cell, p_values, atol=5e-6)
    assert float(found) == pytest.approx(float(accepted), abs=1.5 / near.n)


def test_graph_connectivity_equals_that_of_scib_metrics(scib, embedded):
    near, _, labels = embedded
    near = near.first(CONNECTIVITY_NEIGHBOURS)
    expected = scib.graph_connectivity(as_theirs(near), labels)
    assert float(graph_connectivity(near, labels)) == pytest.approx(expected, abs=1e-12)


def test_weights_of_the_graph_are_those_of_umap(scib, embedded):
    near, _, _ = embedded
    near = near.first(KBET_NEIGHBOURS)
    gap = abs(connectivities(near) - as_theirs(near).knn_graph_connectivities.tocsr())
    assert gap.max() < 1e-5


@pytest.mark.slow  # pynndescent, which scib-metrics searches with, compiles itself for half a minute
@pytest.mark.parametrize("embedded", EMBEDDINGS[:1], ids="-".join, indirect=True)
def test_kbet_per_label_is_within_a_few_cells_of_that_of_scib_metrics(scib, embedded):
    near, batches, labels = embedded
    near = near.first(KBET_NEIGHBOURS)
    expected, table = scib.kbet_per_label(as_theirs(near), batches, labels, return_df=True)
    assert float(kbet_per_label(near, batches, labels)) == pytest.approx(expected, abs=2e-3)
    found = kbet_of_labels(near, batches, labels)
    for label, value in zip(table["cluster"], table["kBET"], strict=True):
        assert found[label][0] == pytest.approx(value, abs=5e-3)

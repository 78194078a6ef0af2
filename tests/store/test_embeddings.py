"""Embeddings of the inputs reach the atlas, row by row."""

import anndata as ad
import numpy as np
import pytest

from medl_scale.config import PrepareConfig
from medl_scale.progress import SilentProgress
from medl_scale.store.prepare import prepare
from tests.store.counts import make_counts

CONFIG = PrepareConfig(batch_key="donor", n_top_genes=None)


class Notes(SilentProgress):
    def __init__(self):
        self.notes = []

    def note(self, message, **fields):
        self.notes.append(message)


def with_embedding(width=3):
    adata = make_counts()
    rows = np.arange(adata.n_obs, dtype=np.float64)
    adata.obsm["X_harmony"] = np.stack([rows + 0.25 * i for i in range(width)], axis=1)
    adata.obsm["words"] = np.full((adata.n_obs, 1), "text", dtype=object)
    return adata


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_an_embedding_follows_its_cells(tmp_path, kind):
    adata = with_embedding()
    source = adata
    if kind != "memory":
        del adata.obsm["words"]
        source = tmp_path / f"raw.{kind}"
        adata.write_h5ad(source) if kind == "h5ad" else adata.write_zarr(source)
    prepare([source], tmp_path / "atlas.zarr", CONFIG)
    atlas = ad.read_zarr(tmp_path / "atlas.zarr")
    assert list(atlas.obsm) == ["X_harmony"]
    expected = adata.obsm["X_harmony"][atlas.obs["medl_original_row"]]
    assert (atlas.obsm["X_harmony"] == expected.astype(np.float32)).all()


def test_an_embedding_of_one_input_only_is_left_out_with_a_note(tmp_path):
    progress = Notes()
    one, other = with_embedding(), make_counts()
    prepare([one, other], tmp_path / "atlas.zarr", CONFIG, progress=progress)
    assert not list(ad.read_zarr(tmp_path / "atlas.zarr").obsm)
    assert any("obsm['X_harmony'] is left out" in note for note in progress.notes)

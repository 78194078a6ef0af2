"""What the tests of whole commands share."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tiny.Made:
    """Raw counts, the atlas made of them, and a run on it; not to be changed."""
    return tiny.made(tmp_path_factory)


@pytest.fixture
def raw(made: tiny.Made) -> AnnData:
    """The raw counts in memory, a fresh copy."""
    import anndata

    return anndata.read_h5ad(made.raw)


@pytest.fixture
def atlas(made: tiny.Made, tmp_path: Path) -> Path:
    """A copy of the atlas, without latents, to be changed."""
    shutil.copytree(made.atlas, tmp_path / "atlas.zarr")
    shutil.rmtree(tmp_path / "atlas.zarr" / "obsm")
    shutil.copytree(made.atlas / "varm", tmp_path / "atlas.zarr" / "obsm")
    return tmp_path / "atlas.zarr"

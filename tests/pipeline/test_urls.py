"""An atlas in object storage: prepared to it, fitted, scored and projected from it, on a real S3 server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

import medl_scale
from medl_scale.errors import ConfigError, DataError, StoreError
from medl_scale.store.atlas import describe, obs_names, read_columns, var_names
from medl_scale.stream import open_source
from tests.tiny import FIT, N_BATCHES, N_CELLS, TO_ATLAS, Made, medl, medl_process

if TYPE_CHECKING:
    from tests.s3 import S3


@pytest.fixture(scope="module")
def url(s3: S3, made: Made) -> str:
    """The atlas, prepared to a bucket by the command line."""
    url = f"{s3.bucket()}/data/atlas.zarr"
    ended = medl("prepare", made.raw, "-o", url, *TO_ATLAS)
    assert ended.code == 0, ended.err
    assert f"{url}: 600 cells" in ended.out
    return url


def test_an_atlas_prepared_to_a_bucket_is_the_one_on_disk(url, made):
    there, here = describe(url), describe(made.atlas)
    assert there.path == url
    for name in ("n_obs", "n_vars", "batch_levels", "label_levels", "part_bounds"):
        assert getattr(there, name) == getattr(here, name)
    for found, expected in zip(read_columns(url), read_columns(made.atlas), strict=True):
        assert np.array_equal(found, expected)
    assert np.array_equal(obs_names(url), obs_names(made.atlas))
    assert np.array_equal(var_names(url), var_names(made.atlas))
    rows = [slice(0, N_CELLS)]
    with open_source(url, cache_memory=2**24) as remote, open_source(made.atlas) as local:
        for found, expected in zip(remote.fetch(rows), local.fetch(rows), strict=True):
            assert np.array_equal(found, expected)


def test_an_atlas_in_a_bucket_is_not_replaced_unless_asked(url, made):
    ended = medl("prepare", made.raw, "-o", url, *TO_ATLAS)
    assert ended.code == 2
    assert f"{url} exists already" in ended.err


def test_info_tells_what_lies_in_a_bucket(url, s3):
    ended = medl("info", url, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["kind"], found["path"], found["n_obs"]) == ("atlas", url, N_CELLS)
    assert len(found["batches"]) == N_BATCHES
    assert found["bytes"] == sum(s3.objects(url).values())


def test_fit_writes_the_latents_that_it_writes_on_disk(url, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = medl("fit", url, "--models", "pca", *FIT)
    assert ended.code == 0, ended.err
    run = medl_scale.Run.load("runs/atlas")
    assert run.atlas_path == url
    written = ad.read_zarr(url)
    local = ad.read_zarr(made.atlas)
    for key in ("X_pca", "X_pca_batch_centred"):
        np.testing.assert_array_equal(written.obsm[key], run.latent(key, 0))
        np.testing.assert_allclose(written.obsm[key], local.obsm[key], rtol=1e-4, atol=1e-4)
    assert written.uns["medl_scale_latents"]["X_pca"]["model"] == "pca"
    ended = medl("evaluate", url, "--use-rep", "X_pca", "--metrics", "ASW")
    assert ended.code == 0, ended.err
    # Tables are not written to object storage, but where the user is.
    assert "X_pca" in Path("atlas_scores.csv").read_text()


def test_a_run_stays_on_a_file_system(url):
    ended = medl("fit", url, "-o", "s3://bucket/run")
    assert ended.code == 2
    assert "A run is written to a folder, not to a URL; got s3://bucket/run" in ended.err
    with pytest.raises(ConfigError, match="not to a URL; got s3://bucket/run"):
        medl_scale.fit(url, output=Path("s3://bucket/run"))


def test_tables_and_projections_stay_on_a_file_system(made):
    elsewhere = "s3://bucket/out.zarr"
    for asked in (
        ("embed", made.run, made.raw, "-o", elsewhere),
        ("project", made.run, "--cells", "batch == 'x'", "--as-batch", "all", "-o", elsewhere),
    ):
        ended = medl(*asked)
        assert ended.code == 2
        assert f"is written to a folder, not to a URL; got {elsewhere}" in ended.err


def test_counts_are_not_prepared_from_urls(s3, made, tmp_path):
    bucket = s3.bucket()
    name = bucket.removeprefix("s3://")
    s3.client().upload_file(str(made.raw), name, "counts.h5ad")
    source = f"{bucket}/counts.h5ad"
    with pytest.raises(ConfigError, match=rf"{source} is a URL\. Download it and give its path"):
        medl_scale.prepare(source, tmp_path / "atlas.zarr", batch_key="batch", progress=False)
    with pytest.raises(
        ConfigError, match=rf"{source} is not a prepared atlas, and counts are prep"
    ):
        medl_scale.fit(source, output=tmp_path / "run", batch_key="batch", progress=False)
    with pytest.raises(DataError, match=rf"{source} is a URL\. Download it and give its path"):
        medl_scale.Run(made.run).embed(source, progress=False)
    with pytest.raises(StoreError, match=rf"{bucket}/nothing\.zarr does not exist\. Give a prep"):
        medl_scale.fit(f"{bucket}/nothing.zarr", output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_file_url_is_a_path(made, tmp_path):
    shutil.copytree(made.atlas, tmp_path / "atlas.zarr")
    ended = medl("info", f"file://{tmp_path}/atlas.zarr", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["path"] == f"{tmp_path}/atlas.zarr"


@pytest.mark.slow  # 60 s: three processes load TensorFlow
def test_workers_open_the_bucket_by_themselves(url, made, tmp_path):
    ended = medl_process(
        "fit", url, "--models", "me,pca", "--workers", "2", *FIT, "-o", "run", cwd=tmp_path
    )
    assert ended.code == 0, ended.err
    run, local = medl_scale.Run(tmp_path / "run"), medl_scale.Run(made.run)
    written = ad.read_zarr(url)
    # Bitwise: where rows come from and which process asks for them plays no part.
    np.testing.assert_array_equal(run.latent("X_medl_me", 0), local.latent("X_medl_me", 0))
    np.testing.assert_array_equal(written.obsm["X_medl_me"], run.latent("X_medl_me", 0))
    cells = obs_names(url)[:2].tolist()
    (tmp_path / "cells.txt").write_text("\n".join(cells))
    out = tmp_path / "as_if.h5ad"
    ended = medl_process(
        "project", "run", "--cells", "cells.txt", "--as-batch", "all", "-o", out, cwd=tmp_path
    )
    assert ended.code == 0, ended.err
    projected = ad.read_h5ad(out)
    assert set(projected.obs["cell"]) == set(cells)
    ended = medl_process(
        "evaluate", "run", "--workers", "2", "--metrics", "ASW,RFAccuracy", cwd=tmp_path
    )
    assert ended.code == 0, ended.err
    assert (tmp_path / "run" / "scores.csv").exists()

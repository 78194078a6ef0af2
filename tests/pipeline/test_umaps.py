"""UMAPs of a run: captions that tell the truth, embeddings that stay."""

import shutil

import numpy as np
import pytest
import zarr

from medl_scale.errors import DataError, LatentsIncompleteError
from medl_scale.pipeline.run import Run
from medl_scale.pipeline.umaps import UMAPS_FILE, umaps_of
from medl_scale.store.atlas import describe, read_columns
from tests.tiny import KEYS, N_BATCHES, N_CELLS, N_LABELS


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A copy of the run with two of its latents, to keep embeddings in."""
    path = tmp_path_factory.mktemp("umaps") / "run"
    shutil.copytree(made.run, path)
    for model in ("fe", "re"):
        shutil.rmtree(path / "models" / model)
    return Run(path)


@pytest.fixture(scope="module")
def pictures(run, made):
    return umaps_of(run, atlas=made.atlas, colour_by=("split",))


def replace_latent(run, name, values):
    """Put another latent in the place of one of the run's."""
    path = run.path / "latents.zarr" / name / "fold_0"
    shutil.rmtree(path)
    zarr.create_array(path, data=values, zarr_format=3)


def places(run):
    with np.load(run.path / UMAPS_FILE) as file:
        return {key: file[key] for key in file.files if key in KEYS}


def test_every_finished_latent_has_a_picture_by_batch_label_and_split(pictures, made):
    assert [picture.latent for picture in pictures] == ["X_medl_me", "X_pca", "X_pca_batch_centred"]
    columns = read_columns(made.atlas)
    for picture in pictures:
        by_batch, by_label, by_split = picture.panels
        assert [entry.n for entry in by_batch.legend] == np.bincount(columns.batch_codes).tolist()
        assert [entry.n for entry in by_label.legend] == np.bincount(columns.label_codes).tolist()
        assert [entry.number for entry in by_label.legend] == [1, 2, 3]
        assert [entry.name for entry in by_split.legend] == ["train", "val", "test"]
        test = describe(made.atlas).split(0).test
        assert by_split.legend[2].n == test.stop - test.start
        assert (by_batch.title, by_label.title) == ("batch (batch)", "label (cell_type)")


def test_batches_have_one_colour_in_all_pictures(pictures):
    colours = {
        tuple((entry.name, entry.colour) for entry in picture.panels[0].legend)
        for picture in pictures
    }
    assert len(colours) == 1
    assert len(dict(colours.pop())) == N_BATCHES


def test_captions_say_how_many_cells_and_how(pictures):
    for picture in pictures:
        assert picture.n_drawn == N_CELLS
        assert f"All {N_CELLS} cells" in picture.caption
        assert "15 nearest neighbours, the cell itself among them (exact, " in picture.caption
        assert "min_dist 0.2; 200 epochs" in picture.caption
        assert "seed 0" in picture.caption


def test_a_part_of_the_cells_is_told_and_holds_every_batch_and_label(run, made):
    columns = read_columns(made.atlas)
    picture = umaps_of(run, atlas=made.atlas, max_cells=150)[0]
    assert picture.n_drawn == 150
    pairs = len(np.unique(np.stack([columns.batch_codes, columns.label_codes]), axis=1).T)
    assert (
        f"150 of {N_CELLS} cells, drawn at random (seed 0) from each of {pairs} combinations of batch and "
        "label" in picture.caption
    )
    for panel, n_levels in zip(picture.panels, (N_BATCHES, N_LABELS), strict=True):
        assert len(panel.legend) == n_levels
        assert sum(entry.n for entry in panel.legend) == 150


def test_embeddings_are_kept_until_the_latent_or_the_seed_is_another(run, made):
    umaps_of(run, atlas=made.atlas)
    first, file = places(run), run.path / UMAPS_FILE
    stamp = file.stat().st_mtime_ns
    umaps_of(run, atlas=made.atlas)
    assert file.stat().st_mtime_ns == stamp
    # A damaged file is no more than one that is not there, and the same seed gives the same again.
    file.write_bytes(file.read_bytes()[:100])
    umaps_of(run, atlas=made.atlas)
    for key, found in places(run).items():
        np.testing.assert_array_equal(found, first[key])
    latent = run.latent("me")
    replace_latent(run, "me", latent + np.eye(*latent.shape, dtype=np.float32))
    try:
        umaps_of(run, atlas=made.atlas, seed=0)
        changed = places(run)
    finally:
        replace_latent(run, "me", latent)
    assert not np.array_equal(changed["X_medl_me"], first["X_medl_me"])
    np.testing.assert_array_equal(changed["X_pca"], first["X_pca"])
    umaps_of(run, atlas=made.atlas, seed=1)
    assert all(not np.array_equal(found, first[key]) for key, found in places(run).items())


def test_latents_that_are_not_finite_are_refused(run, made):
    latent = run.latent("me")
    wrong = latent.copy()
    wrong[3:5, 0] = np.nan
    replace_latent(run, "me", wrong)
    try:
        with pytest.raises(
            DataError,
            match=f"X_medl_me must hold finite numbers to be embedded; 2 of {N_CELLS} cells",
        ):
            umaps_of(run, atlas=made.atlas)
    finally:
        replace_latent(run, "me", latent)


def test_what_is_not_there_is_told(run, made, tmp_path):
    with pytest.raises(DataError, match=r"'split2'.*'cell_type'"):
        umaps_of(run, atlas=made.atlas, colour_by=("split2",))
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "models")
    with pytest.raises(LatentsIncompleteError, match=r"no finished model of fold 0.*--resume"):
        umaps_of(Run(tmp_path / "run"), atlas=made.atlas)


def test_an_atlas_without_labels_is_coloured_by_batch_alone(run, made):
    import anndata

    adata = anndata.read_zarr(made.atlas)
    adata.uns["medl_scale"]["labels_key"] = ""
    assert describe(adata).labels_key is None
    picture = umaps_of(run, atlas=adata)[0]
    assert [panel.title for panel in picture.panels] == ["batch (batch)"]

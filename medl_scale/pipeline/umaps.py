"""UMAPs of a run's latents: embedded once, kept with the run, and drawn by batch and label."""

from __future__ import annotations

import hashlib
import json
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.errors import DataError, LatentsIncompleteError, StoreError
from medl_scale.evaluate.neighbours.neighbours import nearest_neighbours
from medl_scale.pipeline.atlas_of import atlas_of
from medl_scale.pipeline.umap_cells import draw_cells
from medl_scale.progress import SilentProgress
from medl_scale.report.umap_graph import membership_graph
from medl_scale.report.umap_layout import MIN_DIST, lay_out, start_from_components
from medl_scale.report.umaps import Colouring, picture_of
from medl_scale.store.annotations import Annotations
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from medl_scale.pipeline.run import Run
    from medl_scale.pipeline.umap_cells import DrawnCells
    from medl_scale.progress import Progress
    from medl_scale.report.umaps import UmapPicture
    from medl_scale.store.atlas import Atlas, AtlasRef

__all__ = ["MAX_CELLS", "UMAPS_FILE", "umaps_of"]

UMAPS_FILE = "umaps.npz"
MAX_CELLS = 100_000
N_NEIGHBOURS = 15
"""Each cell is one of its own, as umap-learn counts."""
N_EPOCHS = 200
# Raised whenever the same latent and settings give another embedding than before.
_ALGORITHM = 1
_STAMPS = "stamps"
_MOST_LEVELS = 1000


class _Embedding(NamedTuple):
    """Places of cells, and how they were found."""

    places: NDArray[np.float32]
    """(m, 2)."""
    words: str


def umaps_of(
    run: Run,
    *,
    atlas: AtlasRef | None = None,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
    colour_by: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[UmapPicture]:
    """Return a picture of every latent of a run's first fold, embedded by UMAP.

    Parameters
    ----------
    run
        A run with a finished model.
    atlas
        The run's atlas, if it was moved or is in memory. Only its columns are read.
    max_cells
        Cells embedded: all if they are not more, else so many, of every batch and label.
    seed
        Of the cells drawn, the embedding and the order of drawing.
    colour_by
        What else cells are coloured by, besides batch and label: columns of obs, or `split`.
    progress
        Where to report to.

    Returns
    -------
    A picture for each latent, in the order of the run's models. Embeddings are kept in the run as
    `umaps.npz`, and are used again as long as latent and settings are the same.

    Raises
    ------
    LatentsIncompleteError
        If no model is finished.
    DataError
        If a latent has values that are not finite, or a column is missing or not one of categories.
    RunError, AtlasError, StoreError
        If the atlas is not there, is another, or a latent is damaged.
    """
    shown = progress or SilentProgress()
    fold = run.folds[0]
    keys = [
        key for (_, number), summary in run.finished().items() if number == fold
        for key in summary.keys
    ]  # fmt: skip
    if not keys:
        raise LatentsIncompleteError(
            f"The run {run.path} has no finished model of fold {fold}, hence nothing to embed. Finish it "
            "with `medl-scale fit --resume`."
        )
    ref = atlas_of(run, atlas)
    described, columns = describe(ref), read_columns(ref)
    cells = draw_cells(columns.batch_codes, columns.label_codes, max_cells, seed)
    colourings = [_by_batch(described, columns.batch_codes[cells.rows])]
    if described.labels_key is not None:
        colourings.append(_by_label(described, columns.label_codes[cells.rows]))
    colourings += [_by_column(name, ref, described, fold, cells.rows) for name in colour_by]
    stratum = "batches" if described.labels_key is None else "combinations of batch and label"
    pictures = []
    kept = _Kept(run.path / UMAPS_FILE)
    with shown.step("UMAPs", total=len(keys), unit="latents") as advance:
        for key in keys:
            latent = run.latent(key, fold)
            if len(latent) != described.n_obs:
                raise DataError(
                    f"The atlas has {described.n_obs:,} cells, latent {key} of {run.path} has "
                    f"{len(latent):,}. Give the atlas that the run was made from with --atlas."
                )
            embedding = _embedded(latent[cells.rows], key, seed, kept)
            caption = _caption(key, latent.shape[1], cells, stratum, embedding.words, seed)
            pictures.append(
                picture_of(key, embedding.places, colourings, caption=caption, seed=seed)
            )
            advance(1)
    kept.write(shown)
    return pictures


def _embedded(points: NDArray[np.float32], key: str, seed: int, kept: _Kept) -> _Embedding:
    """Return the embedding of chosen cells, the one kept if it is of the same latent and settings."""
    n_wrong = int(np.count_nonzero(~np.isfinite(points).all(axis=1)))
    if n_wrong:
        raise DataError(
            f"Latent {key} must hold finite numbers to be embedded; {n_wrong:,} of {len(points):,} cells "
            "have others. Fit its model again."
        )
    if len(points) < 2:
        raise DataError(f"A UMAP of {key} needs two cells or more; there is {len(points)}.")
    stamp = _stamp(points, seed)
    found = kept.find(key, stamp)
    if found is not None:
        return found
    neighbours = nearest_neighbours(points, N_NEIGHBOURS - 1, seed=seed)
    start = start_from_components(points, seed)
    places = lay_out(membership_graph(neighbours), start, n_epochs=N_EPOCHS, seed=seed)
    words = (
        f"{neighbours.k + 1} nearest neighbours, the cell itself among them ({neighbours.method}); "
        f"min_dist {MIN_DIST}; {N_EPOCHS} epochs from the first two principal components; seed {seed}"
    )
    made = _Embedding(places, words)
    kept.add(key, stamp, made)
    return made


def _caption(
    key: str, n_dimensions: int, cells: DrawnCells, stratum: str, words: str, seed: int
) -> str:
    """Return what a picture shows."""
    return (
        f"{key} ({n_dimensions} dimensions). {cells.in_words(stratum)}. UMAP: {words}. Distances between "
        "groups far apart, and how large a group looks, mean nothing; the scores are of the latent itself."
    )


def _by_batch(atlas: Atlas, codes: NDArray[np.int32]) -> Colouring:
    """Return the colouring by batch."""
    return Colouring(f"batch ({atlas.batch_key})", atlas.batch_levels, codes)


def _by_label(atlas: Atlas, codes: NDArray[np.int32]) -> Colouring:
    """Return the colouring by label."""
    return Colouring(
        f"label ({atlas.labels_key})",
        atlas.label_levels,
        codes,
        no_level=atlas.unlabeled_category,
        numbered=True,
    )


def _by_column(
    name: str, ref: AtlasRef, atlas: Atlas, fold: int, rows: NDArray[np.int64]
) -> Colouring:
    """Return the colouring by any column of obs, or by the split of a fold."""
    if name == "split":
        split = atlas.split(fold)
        codes = np.zeros(atlas.n_obs, np.int32)
        codes[split.val], codes[split.test] = 1, 2
        return Colouring(f"split of fold {fold}", ("train", "val", "test"), codes[rows])
    import pandas as pd

    column = Annotations(ref).column(name, "colour_by")
    found, levels = pd.factorize(column.astype("string"), sort=True)
    if len(levels) > _MOST_LEVELS:
        raise DataError(
            f"obs[{name!r}] has {len(levels):,} levels; a colouring takes a column of categories, "
            f"{_MOST_LEVELS:,} at most. Choose another column with colour_by."
        )
    codes = found[rows].astype(np.int32)
    return Colouring(name, tuple(map(str, levels)), codes, no_level="missing")


def _stamp(points: NDArray[np.float32], seed: int) -> str:
    """Return what tells an embedding from all others: the latent of its cells, and all settings."""
    settings = [_ALGORITHM, N_NEIGHBOURS, N_EPOCHS, MIN_DIST, seed, list(points.shape)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(np.ascontiguousarray(points))
    return digest.hexdigest()


class _Kept:
    """Embeddings in a file of the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamps: dict[str, list[str]] = {}
        self.places: dict[str, NDArray[np.float32]] = {}
        self.is_changed = False
        try:
            # NumPy leaves a damaged file open.
            with path.open("rb") as opened, np.load(opened) as file:
                self.stamps = json.loads(str(file[_STAMPS]))
                self.places = {key: file[key] for key in self.stamps}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # None yet, or a damaged one, which is made anew.
            self.stamps, self.places = {}, {}

    def find(self, key: str, stamp: str) -> _Embedding | None:
        """Return the embedding of a latent if it is the one with this stamp."""
        found, words = self.stamps.get(key, ["", ""])
        return _Embedding(self.places[key], words) if found == stamp else None

    def add(self, key: str, stamp: str, embedding: _Embedding) -> None:
        """Keep an embedding."""
        self.stamps[key] = [stamp, embedding.words]
        self.places[key] = embedding.places
        self.is_changed = True

    def write(self, progress: Progress) -> None:
        """Write what is new."""
        if not self.is_changed:
            return
        arrays: dict[str, Any] = {**self.places, _STAMPS: np.array(json.dumps(self.stamps))}
        try:
            with atomic_file(self.path) as scratch, scratch.open("wb") as file:
                np.savez(file, **arrays)
        except StoreError as error:
            progress.note(f"The UMAPs are drawn, but not kept for the next time: {error}")

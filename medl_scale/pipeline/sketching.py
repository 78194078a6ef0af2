"""The sketch of a run: its latents, the batches and types of its atlas, and the decoder put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from medl_scale.errors import ConfigError, LatentsIncompleteError, RunError, StoreError
from medl_scale.interpret.folded import fold_decoder
from medl_scale.interpret.grouping import count_groups
from medl_scale.interpret.sketch import Sketch
from medl_scale.interpret.sketch_files import SketchAxes
from medl_scale.interpret.sketching import make_sketch
from medl_scale.pipeline.atlas_of import atlas_of
from medl_scale.pipeline.frozen import frozen_latents
from medl_scale.pipeline.preparing import as_progress
from medl_scale.pipeline.run import SETTINGS_FILE, Run
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.choices import no_such
from medl_scale.store.seal import broken_files
from medl_scale.train.fit_files import latent_path
from medl_scale.train.fitted import FittedNetwork

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from medl_scale.config import ScoredSplit
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Atlas, AtlasRef

__all__ = ["open_sketch", "sketch", "sketch_path"]


def sketch(
    run: Run | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    model: str = "me",
    fold: int | None = None,
    as_batch: Sequence[str] | None = None,
    split: ScoredSplit = "all",
    atlas: AtlasRef | None = None,
    overwrite: bool = False,
    progress: bool | Progress = True,
) -> Sketch:
    """Decode every cell of a run's atlas under every batch, and keep means and variances.

    Parameters
    ----------
    run
        A run with a finished joint model.
    output
        A folder; `sketches/<model>_fold_<fold>.zarr` in the run by default.
    model
        A model whose decoder alone reads the batch: `me`.
    fold
        Whose model; the run's first by default.
    as_batch
        Target batches; all of them by default.
    split
        Cells to sketch: `all`, or the `train`, `val` or `test` ones of the fold.
    atlas
        The run's atlas, if it was moved or is in memory. Only its columns are read.
    overwrite
        Replace a sketch that is there.
    progress
        Show progress, or where to report to.

    Returns
    -------
    Sketch
        Cells without a label are a type of their own, called as the atlas calls them.

    Raises
    ------
    ConfigError
        If the model's latent depends on the batch, its decoder does not, or the disk has no room.
    DataError
        If there is no such batch; those there are get listed.
    RunError, AtlasError, LatentsIncompleteError, StoreError, OutputExistsError
        If the run, its atlas or the output cannot be used.

    Examples
    --------
    >>> sketched = sketch("runs/atlas")
    >>> sketched.moved_genes("T", "donor1", "donor2", top=20)
    >>> sketched.dendrogram("T").strata(3)
    """
    opened = run if isinstance(run, Run) else Run(run)
    number = opened.folds[0] if fold is None else fold
    fitted = _batch_blind(opened, model, number)
    vocabulary = fitted.vocabulary
    targets = tuple(vocabulary.batch_levels if as_batch is None else as_batch)
    for name in targets:
        if name not in vocabulary.batch_levels:
            place = f"The run {opened.path}"
            raise no_such("batch", name, list(vocabulary.batch_levels), place, "as_batch")
    if not targets or len(set(targets)) < len(targets):
        raise ConfigError(f"as_batch must name batches once each; got {list(targets)}.")
    ref = atlas_of(opened, atlas)
    described = describe(ref)
    if described.batch_levels != vocabulary.batch_levels:
        raise RunError(
            f"The atlas {described.path or 'in memory'} has other batches than the run {opened.path}. "
            "Give the atlas that the run was made from."
        )
    frozen = frozen_latents(opened, ref, described, fitted, number)
    if frozen is None:
        blocks = _blocks(_open_latent(opened, model, number, described.n_obs))
    else:
        blocks = frozen.blocks()
    columns = read_columns(ref)
    labels = described.label_levels
    is_unlabelled = columns.label_codes < 0
    if is_unlabelled.any():
        labels = (*labels, described.unlabeled_category)
    groups = np.where(is_unlabelled, np.int32(len(labels) - 1), columns.label_codes)
    groups *= len(described.batch_levels)
    groups += columns.batch_codes
    if split != "all":
        groups[~_in_split(described, number, split)] = -1
    shape = len(labels), len(described.batch_levels)
    decoder = fold_decoder(fitted)
    axes = SketchAxes(
        labels=labels,
        sources=described.batch_levels,
        targets=targets,
        genes=vocabulary.var_names,
        n_cells=count_groups(groups, shape[0] * shape[1]).reshape(shape),
        gene_sd=decoder.gene_sd,
        provenance={"run": str(opened.path), "model": model, "fold": number, "split": split},
    )
    return make_sketch(
        sketch_path(opened, model, number) if output is None else output,
        axes,
        decoder,
        blocks,
        groups,
        target_codes=[vocabulary.batch_levels.index(name) for name in targets],
        overwrite=overwrite,
        progress=as_progress(progress),
    )


def open_sketch(
    place: Run | str | os.PathLike[str], *, model: str = "me", fold: int | None = None
) -> Sketch:
    """Return a sketch that `sketch` made.

    Parameters
    ----------
    place
        The folder of a sketch; or a run, and then that which was left in it of a model and fold.

    Raises
    ------
    RunError
        If there is none.
    StoreError
        If it is damaged.
    """
    if isinstance(place, Run):
        return Sketch(sketch_path(place, model, fold))
    if (Path(place) / SETTINGS_FILE).exists():
        return Sketch(sketch_path(Run(place), model, fold))
    return Sketch(place)


def sketch_path(run: Run, model: str = "me", fold: int | None = None) -> Path:
    """Return where a run keeps its sketch of a model and fold, its first by default."""
    return run.path / "sketches" / f"{model}_fold_{run.folds[0] if fold is None else fold}.zarr"


def _in_split(atlas: Atlas, fold: int, split: ScoredSplit) -> NDArray[np.bool_]:
    """Return (n_obs,) whether a cell is in one split of a fold."""
    parts = atlas.split(fold)
    chosen = {"train": parts.train, "val": (parts.val,), "test": (parts.test,)}
    if split not in chosen:
        raise ConfigError(f"split must be 'all', 'train', 'val' or 'test'; got {split!r}.")
    inside = np.zeros(atlas.n_obs, np.bool_)
    for rows in chosen[split]:
        inside[rows] = True
    return inside


def _batch_blind(run: Run, model: str, fold: int) -> FittedNetwork:
    """Return a trained network whose decoder alone reads the batch."""
    fitted = run.model(model, fold)
    if not isinstance(fitted, FittedNetwork) or not fitted.network.effect_widths:
        raise ConfigError(
            f"Model '{model}' decodes every batch alike; a sketch needs one whose decoder reads the "
            "batch. Sketch 'me'."
        )
    if fitted.network.encoder_effects:
        raise ConfigError(
            f"The encoder of '{model}' reads the batch, so that every cell would have to be encoded "
            "anew under every batch. Sketch 'me', or project chosen cells."
        )
    return fitted


def _open_latent(run: Run, model: str, fold: int, n_obs: int) -> Any:
    """Return the latent of a run as a Zarr array, unread."""
    path = latent_path(run.path / "latents.zarr", model, fold)
    if not path.exists():
        raise LatentsIncompleteError(
            f"The run {run.path} has no latent of model '{model}' fold {fold}. Finish it with --resume."
        )
    broken = broken_files(path)
    if broken:
        raise StoreError(
            f"The latent {path} is truncated: {len(broken):,} of its files are missing or too short, "
            f"such as {broken[0]}. Copy it again, or encode the cells again."
        )
    array: Any = zarr.open_array(path, mode="r", zarr_format=3)
    if array.shape[0] != n_obs:
        raise RunError(
            f"The atlas has {n_obs:,} cells, the latents of {run.path} have {array.shape[0]:,}. Give "
            "the atlas that the run was made from."
        )
    return array


def _blocks(latent: Any) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield rows and their latents, a chunk of the store at a time."""
    for start in range(0, latent.shape[0], latent.chunks[0]):
        rows = slice(start, min(start + latent.chunks[0], latent.shape[0]))
        yield rows, np.asarray(latent[rows], np.float32)

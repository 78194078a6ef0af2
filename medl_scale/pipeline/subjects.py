"""What there is to score: the cells of a run, an atlas or any AnnData, their columns and latents.

Latents are read one at a time, when their turn comes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import ConfigError, DataError
from medl_scale.pipeline.atlas_of import atlas_of
from medl_scale.pipeline.run import SETTINGS_FILE, Run
from medl_scale.pipeline.scores import SCORES_FILE
from medl_scale.seeds import Purpose, generator
from medl_scale.store.annotations import Annotations
from medl_scale.store.atlas import describe, is_prepared
from medl_scale.store.latents import read_latent, read_latent_provenance
from medl_scale.store.places import as_place, is_url, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.config import EvaluateConfig, ScoredSplit
    from medl_scale.store.atlas import Atlas, AtlasRef

    type Rows = NDArray[np.int64]

__all__ = ["Fold", "Space", "Subject", "find_subject"]

_PARTS = 5


@dataclass(frozen=True, eq=False)
class Space:
    """A latent."""

    name: str
    """Its key in obsm, such as `X_medl_me`."""
    read: Callable[[], NDArray[Any]]
    """Returns (n_obs, d)."""
    read_prior_mean: Callable[[Rows], NDArray[Any]] | None = None
    """Returns (m, d) of some cells as if of an unknown batch; None where the batch plays no part."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Cells and latents of one fold of a cross-validation."""

    number: int
    scored: Rows
    """Cells whose latents are scored."""
    train: Rows
    """Cells that forests learn from."""
    test: Rows
    """Cells that forests are asked for."""
    spaces: tuple[Space, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """Cells with what is known of them, and their latents by fold."""

    place: str
    """How messages call it."""
    batch_key: str | None
    labels_key: str | None
    columns: Mapping[str, pd.Series]
    """The batch, the label, and every target, by its column in obs."""
    is_labelled: NDArray[np.bool_]
    """(n_obs,) False for cells of the unlabelled category."""
    folds: tuple[Fold, ...]
    split: ScoredSplit
    default_output: Path | None
    """Where the scores go unless the user says otherwise; None for an AnnData in memory."""


def find_subject(
    source: str | os.PathLike[str] | AnnData | Run, config: EvaluateConfig, atlas: AtlasRef | None
) -> Subject:
    """Return what is to be scored.

    Parameters
    ----------
    source
        A run, a prepared atlas, or any AnnData on disk or in memory.
    atlas
        The run's atlas, where it no longer lies where the run was made.

    Raises
    ------
    DataError
        If a column or a latent is missing (those there are get listed), or labels are missing.
    RunError, AtlasError, StoreError
        If what a path holds cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        source = as_place(source)
        if not is_url(source) and Path(source, SETTINGS_FILE).is_file():
            source = Run(source)
    if isinstance(source, Run):
        return _of_run(source, config, atlas)
    if atlas is not None:
        raise ConfigError("An atlas goes with a run; what is scored here is no run. Leave it out.")
    if is_prepared(source):
        return _of_atlas(source, config)
    return _of_adata(source, config)


def _of_run(run: Run, config: EvaluateConfig, ref: AtlasRef | None) -> Subject:
    """Return the latents of a run, by fold."""
    atlas_ref = atlas_of(run, ref)
    atlas = describe(atlas_ref)
    annotations = Annotations(atlas_ref)
    split = config.split or "test"
    folds = []
    for number in run.folds:
        keys = [
            key
            for (_, fold), summary in run.finished().items()
            if fold == number
            for key in summary.keys
        ]
        spaces = tuple(
            Space(
                key,
                partial(run.latent, key, number),
                partial(_at_prior_mean, run, number, atlas_ref) if key == "X_medl_re" else None,
            )
            for key in _chosen(keys, config.use_rep, str(run.path), "finished latent")
        )
        folds.append(_fold(atlas, number, split, spaces))
    return _subject(
        annotations,
        config,
        batch_key=config.batch_key or atlas.batch_key,
        labels_key=config.labels_key or atlas.labels_key,
        unlabelled=atlas.unlabeled_category,
        folds=tuple(folds),
        split=split,
        place=str(run.path),
        output=run.path / SCORES_FILE,
    )


def _of_atlas(ref: AtlasRef, config: EvaluateConfig) -> Subject:
    """Return the embeddings in obsm of a prepared atlas; forests use the fold of the latents."""
    atlas = describe(ref)
    annotations = Annotations(ref)
    split = config.split or "all"
    keys = _chosen(sorted(annotations.widths), config.use_rep, annotations.place, "embedding")
    by_fold: dict[int, list[Space]] = {}
    for key in keys:
        read = partial(annotations.embedding, key)
        number = 0
        if isinstance(ref, str | os.PathLike):
            made_by = read_latent_provenance(ref, key)
            if "model" in made_by:
                # What `fit` wrote says which cells the model has not seen.
                number = int(made_by["fold"])
                read = partial(read_latent, ref, key)
        by_fold.setdefault(number, []).append(Space(key, read))
    folds = tuple(
        _fold(atlas, number, split, tuple(spaces)) for number, spaces in sorted(by_fold.items())
    )
    return _subject(
        annotations,
        config,
        batch_key=config.batch_key or atlas.batch_key,
        labels_key=config.labels_key or atlas.labels_key,
        unlabelled=atlas.unlabeled_category,
        folds=folds,
        split=split,
        place=annotations.place,
        output=_beside(ref),
    )


def _of_adata(source: str | os.PathLike[str] | AnnData, config: EvaluateConfig) -> Subject:
    """Return the embeddings in obsm of any AnnData; forests test on a fifth of its cells."""
    annotations = Annotations(source)
    if config.split not in {None, "all"}:
        raise ConfigError(
            f"{annotations.place} is not a prepared atlas and has no {config.split} split. Leave "
            "--split out, or score a run."
        )
    if config.batch_key is None:
        listed = ", ".join(repr(str(name)) for name in annotations.obs)
        raise ConfigError(
            f"Name the column of obs that holds the batch with --batch-key. {annotations.place} has: "
            f"{listed}."
        )
    keys = _chosen(sorted(annotations.widths), config.use_rep, annotations.place, "embedding")
    n_obs = len(annotations.obs)
    parts = generator(config.seed, Purpose.FOLDS).permutation(n_obs) % _PARTS
    everything = np.arange(n_obs)
    fold = Fold(
        0,
        everything,
        np.flatnonzero(parts != 0),
        np.flatnonzero(parts == 0),
        tuple(Space(key, partial(annotations.embedding, key)) for key in keys),
    )
    return _subject(
        annotations,
        config,
        batch_key=config.batch_key,
        labels_key=config.labels_key,
        unlabelled="Unknown",
        folds=(fold,),
        split="all",
        place=annotations.place,
        output=_beside(source),
    )


def _subject(
    annotations: Annotations,
    config: EvaluateConfig,
    *,
    batch_key: str | None,
    labels_key: str | None,
    unlabelled: str,
    folds: tuple[Fold, ...],
    split: ScoredSplit,
    place: str,
    output: Path | None,
) -> Subject:
    """Return a subject with its columns read and checked."""
    named = {"--batch-key": batch_key, "--labels-key": labels_key}
    columns = {
        key: annotations.column(key, option) for option, key in named.items() if key is not None
    } | {key: annotations.column(key, "--targets") for key in config.targets}
    for key, column in columns.items():
        n_missing = int(column.isna().sum())
        if n_missing:
            raise DataError(
                f"obs[{key!r}] of {annotations.place} is missing for {n_missing:,} of {len(column):,} "
                f"cells. Leave these cells out, or fill it (with {unlabelled!r} they are left out)."
            )
    is_labelled = np.ones(len(annotations.obs), np.bool_)
    if labels_key is not None:
        is_labelled = (columns[labels_key].astype(str) != unlabelled).to_numpy(np.bool_)
    return Subject(place, batch_key, labels_key, columns, is_labelled, folds, split, output)


def _fold(atlas: Atlas, number: int, split: ScoredSplit, spaces: tuple[Space, ...]) -> Fold:
    """Return a fold of a prepared atlas."""
    parts = atlas.split(number)
    train = np.concatenate([np.arange(rows.start, rows.stop) for rows in parts.train])
    val, test = (np.arange(rows.start, rows.stop) for rows in (parts.val, parts.test))
    scored = {"train": train, "val": val, "test": test, "all": np.arange(atlas.n_obs)}
    return Fold(number, scored[split], train, test, spaces)


def _chosen(
    keys: list[str], asked: tuple[str, ...] | None, place: str, what: str
) -> tuple[str, ...]:
    """Return the latents to score.

    Raises
    ------
    DataError
        If there are none, or not those asked for.
    """
    if not keys:
        raise DataError(f"{place} has no {what} to score. Fit models first, or add one to obsm.")
    if asked is None:
        return tuple(keys)
    # Users may name a model of a run, too.
    full = {key.removeprefix("X_").removeprefix("medl_"): key for key in keys} | {
        k: k for k in keys
    }
    missing = [name for name in asked if name not in full]
    if missing:
        raise DataError(
            f"{place} has no {what} {', '.join(map(repr, missing))}. There are: {', '.join(keys)}. "
            "Choose with --use-rep."
        )
    return tuple(full[name] for name in asked)


def _at_prior_mean(run: Run, fold: int, ref: AtlasRef, rows: Rows) -> NDArray[np.float32]:
    """Return RE's latent of some cells with the random effects at their prior mean."""
    from medl_scale.pipeline.prior_mean import encode_at_prior_mean

    return encode_at_prior_mean(run.model("re", fold), ref, rows)


def _beside(source: AtlasRef) -> Path | None:
    """Return where the scores of an AnnData go: beside it, or for a URL to the working folder."""
    if not isinstance(source, str | os.PathLike):
        return None
    table = f"{name_of(source).split('.')[0]}_scores.csv"
    # There are no tables in object storage; a URL's go to the working folder.
    return Path(table) if is_url(source) else Path(as_place(source)).with_name(table)

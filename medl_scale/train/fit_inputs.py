"""What a fit reads besides its rows: what values mean, labels, an embedding from elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError, DataError
from medl_scale.store.access import named_errors, open_group
from medl_scale.store.atlas import var_names
from medl_scale.stream.densify import Transform
from medl_scale.train.fitted import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.store.atlas import Atlas, AtlasRef, Columns, Split
    from medl_scale.stream.statistics import TrainStatistics
    from medl_scale.train.fit_files import FitTask

__all__ = ["check_labels", "frozen_latent", "vocabulary_of"]


def vocabulary_of(ref: AtlasRef, atlas: Atlas, statistics: TrainStatistics) -> Vocabulary:
    """Return what the model's inputs mean; values are scaled by the train split's maximum."""
    scale = 1.0 / statistics.maximum if statistics.maximum > 0 else 1.0
    return Vocabulary(
        var_names=tuple(str(name) for name in var_names(ref)),
        batch_key=atlas.batch_key,
        batch_levels=atlas.batch_levels,
        label_levels=atlas.label_levels,
        transform=Transform(atlas.input_units, atlas.target_sum, scale),
    )


def frozen_latent(task: FitTask, split: Split) -> NDArray[np.float32] | None:
    """Return the embedding that replaces the encoder, standardised over the train split."""
    if task.fe_rep is None or task.model != "me":
        return None
    latent = _read_obsm(task.ref, task.fe_rep)
    train = np.concatenate([latent[rows] for rows in split.train])
    sd = train.std(axis=0)
    sd[sd == 0.0] = 1.0
    return np.asarray((latent - train.mean(axis=0)) / sd, np.float32)


def _read_obsm(ref: AtlasRef, key: str) -> NDArray[np.float32]:
    """Return an embedding of the atlas."""
    if isinstance(ref, str | os.PathLike):
        with named_errors(ref):
            group = open_group(ref)
            found = sorted(group["obsm"].keys()) if "obsm" in group else []  # type: ignore[union-attr]
            if key not in found:
                raise _no_such_rep(key, found)
            latent = np.asarray(group[f"obsm/{key}"][...], np.float32)  # type: ignore[index]
    else:
        if key not in ref.obsm:
            raise _no_such_rep(key, sorted(ref.obsm))
        latent = np.asarray(ref.obsm[key], np.float32)
    bad = int((~np.isfinite(latent)).any(axis=1).sum())
    if latent.ndim != 2 or bad:
        raise DataError(
            f"fe_rep '{key}' must be a matrix of finite numbers; shape {latent.shape}, {bad:,} cells "
            "with NaN or infinity. Give an embedding of every cell."
        )
    return latent


def _no_such_rep(key: str, found: list[str]) -> ConfigError:
    """Return the error for an embedding that is not there."""
    listed = ", ".join(repr(name) for name in found) or "none"
    return ConfigError(f"fe_rep '{key}' is not in obsm of the atlas. Embeddings: {listed}.")


def check_labels(task: FitTask, atlas: Atlas, columns: Columns, split: Split) -> None:
    """Raise unless a model with a classifier has labels to learn."""
    if task.model not in {"aec", "fec"}:
        return
    known = sum(int((columns.label_codes[rows] >= 0).sum()) for rows in split.train)
    if len(atlas.label_levels) < 2 or known == 0:
        raise DataError(
            f"Model '{task.model}' classifies cell types and needs at least two labels among the "
            f"train cells; the atlas has {len(atlas.label_levels)} "
            f"(labels_key: {atlas.labels_key!r}). Prepare it with --labels-key, or fit 'fe' or 'ae'."
        )

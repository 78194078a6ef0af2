"""`prepare` as users call it: keyword arguments into checked settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from medl_scale.config import PrepareConfig
from medl_scale.progress import BarProgress, Progress, SilentProgress
from medl_scale.settings import build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from medl_scale.store.atlas import Atlas

__all__ = ["as_progress", "default_atlas_path", "prepare"]


def prepare(
    inputs: str | os.PathLike[str] | AnnData | Sequence[str | os.PathLike[str] | AnnData],
    output: str | os.PathLike[str],
    *,
    batch_key: str,
    labels_key: str | None = None,
    overwrite: bool = False,
    progress: bool | Progress = True,
    **settings: Any,
) -> Atlas:
    """Make a prepared atlas from raw counts, out of core.

    Parameters
    ----------
    inputs
        One or several of: `.h5ad` file, AnnData Zarr store, 10x `.h5` file or mtx folder, AnnData.
    output
        Folder of the atlas to write; its name usually ends in `.zarr`.
    batch_key
        Column of `obs` with the experimental batch.
    labels_key
        Column of `obs` with cell types, or None.
    overwrite
        Replace an atlas that is there.
    progress
        Show bars, or where to report to.
    settings
        Any other field of `config.PrepareConfig`, such as `n_top_genes` or `input_units`.

    Returns
    -------
    Atlas
        What was written: sizes, batches, labels, folds.

    Raises
    ------
    ConfigError, DataError, StoreError, OutputExistsError
        As `store.prepare.prepare` does.

    Examples
    --------
    >>> medl_scale.prepare("counts.h5ad", "atlas.zarr", batch_key="donor", labels_key="cell_type")
    """
    from medl_scale.store.prepare import prepare as write_atlas

    values = {"batch_key": batch_key, "labels_key": labels_key, **settings}
    config = build(PrepareConfig, values, place="prepare")
    several = [inputs] if _is_one(inputs) else list(inputs)  # type: ignore[arg-type]
    shown = as_progress(progress)
    return write_atlas(several, output, config, overwrite=overwrite, progress=shown)


def default_atlas_path(run: Path) -> Path:
    """Return where `fit` puts the atlas that it prepares itself."""
    return run / "atlas.zarr"


def as_progress(progress: bool | Progress) -> Progress:  # noqa: FBT001 - a user's keyword
    """Return what a user's `progress` means."""
    if isinstance(progress, Progress):
        return progress
    return BarProgress() if progress else SilentProgress()


def _is_one(inputs: object) -> bool:
    """Say whether this is one input rather than several."""
    return isinstance(inputs, str | os.PathLike) or hasattr(inputs, "obs_names")

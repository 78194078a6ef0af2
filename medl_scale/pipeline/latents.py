"""The latents of a finished run, into its atlas and the AnnData that the user gave."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.store.access import open_group
from medl_scale.store.latents import write_latent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.pipeline.run import Run
    from medl_scale.train.fit_files import FitSummary

__all__ = ["write_latents"]

LATENT_ROWS = 65_536


def write_latents(
    run: Run,
    data: str | os.PathLike[str] | AnnData,
    ref: str | os.PathLike[str] | AnnData,
    done: Sequence[FitSummary],
    fold: int,
    *,
    prepared_here: bool,
) -> None:
    """Write the first fold's latents into the atlas, and into an AnnData that the user gave."""
    own_rows = None
    if prepared_here and not isinstance(data, str | os.PathLike):
        own_rows = _own_rows(ref, data.n_obs)
    for summary in done:
        if summary.fold != fold:
            continue
        for key in summary.keys:
            latent = run.latent(key, fold)
            if isinstance(ref, str | os.PathLike):
                write_latent(
                    ref,
                    key,
                    _in_blocks(latent),
                    n_latent=latent.shape[1],
                    provenance={
                        "model": summary.model,
                        "fold": fold,
                        "run": str(run.path.resolve()),
                        "best_epoch": summary.best_epoch,
                        "version": version("medl-scale"),
                    },
                )
            if not isinstance(data, str | os.PathLike):
                data.obsm[key] = (
                    latent if own_rows is None else _placed(latent, own_rows, data.n_obs)
                )


def _in_blocks(
    latent: NDArray[np.float32],
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield rows and values of a latent."""
    for start in range(0, len(latent), LATENT_ROWS):
        rows = slice(start, min(start + LATENT_ROWS, len(latent)))
        yield rows, latent[rows]


def _own_rows(ref: str | os.PathLike[str] | AnnData, n_obs: int) -> NDArray[np.int64]:
    """Return which cell of the user's AnnData each row of its atlas is; warn of removed ones."""
    group: Any = open_group(ref)
    rows: NDArray[np.int64] = np.asarray(group["obs/medl_original_row"][...], np.int64)
    if len(rows) < n_obs:
        warnings.warn(
            f"{n_obs - len(rows):,} cells were removed by min_genes and have NaN as latent. Filter "
            "adata by `~numpy.isnan(adata.obsm[key]).any(axis=1)`, or lower min_genes.",
            UserWarning,
            stacklevel=4,
        )
    return rows


def _placed(
    latent: NDArray[np.float32], rows: NDArray[np.int64], n_obs: int
) -> NDArray[np.float32]:
    """Return a latent in the order of the AnnData it came from; NaN for cells that were removed."""
    own = np.full((n_obs, latent.shape[1]), np.nan, np.float32)
    own[rows] = latent
    return own

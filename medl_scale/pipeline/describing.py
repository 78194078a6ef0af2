"""`info`: what an atlas or a run is, as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import AtlasError
from medl_scale.pipeline.run import ERROR_FILE, SETTINGS_FILE, Run, fit_folder
from medl_scale.store.access import file_sizes, open_group
from medl_scale.store.atlas import describe, is_prepared, read_columns
from medl_scale.store.latents import read_latent_provenance
from medl_scale.store.places import as_place, is_url
from medl_scale.train.fit_files import STATUS_FILE, read_status

if TYPE_CHECKING:
    import os

__all__ = ["info"]


def info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what lies at a path.

    Returns
    -------
    dict
        For a prepared atlas (`kind` "atlas"): sizes, batches and labels with their cells, density,
        folds, latents, provenance. For a run (`kind` "run"): settings, and per fit its state and
        best losses.

    Raises
    ------
    AtlasError
        If it is neither.
    """
    where = as_place(path)
    if not is_url(where) and Path(where, SETTINGS_FILE).exists():
        return _run_info(Run(where))
    if not is_prepared(where):
        raise AtlasError(
            f"{where} is neither a prepared atlas nor a run. Give a folder that `medl-scale prepare` "
            "or `medl-scale fit` wrote."
        )
    return _atlas_info(where)


def _atlas_info(path: str) -> dict[str, Any]:
    """Return what a prepared atlas is."""
    atlas = describe(path)
    columns = read_columns(path)
    group: Any = open_group(path)
    n_stored = group["X/data"].shape[0]
    labels = _counted(columns.label_codes, atlas.label_levels)
    n_unlabelled = int((columns.label_codes < 0).sum())
    if n_unlabelled and atlas.labels_key is not None:
        labels[atlas.unlabeled_category] = n_unlabelled
    return {
        "kind": "atlas",
        "path": path,
        "n_obs": atlas.n_obs,
        "n_vars": atlas.n_vars,
        "density": n_stored / (atlas.n_obs * atlas.n_vars),
        "input_units": atlas.input_units,
        "batch_key": atlas.batch_key,
        "batches": _counted(columns.batch_codes, atlas.batch_levels),
        "labels_key": atlas.labels_key,
        "labels": labels,
        "folds": np.diff(atlas.part_bounds).tolist(),
        "latents": {key: read_latent_provenance(path, key) for key in sorted(_keys(group))},
        "bytes": sum(file_sizes(path).values()),
        "provenance": dict(atlas.provenance),
    }


def _keys(group: Any) -> list[str]:
    """Return the obsm keys of a store."""
    return list(group["obsm"].keys()) if "obsm" in group else []


def _run_info(run: Run) -> dict[str, Any]:
    """Return what a run is and how its fits stand."""
    finished = run.finished()
    fits = []
    for model in run.models:
        for fold in run.folds:
            summary = finished.get((model, fold))
            line: dict[str, Any] = {"model": model, "fold": fold}
            if summary is None:
                line |= _unfinished(fit_folder(run.path, model, fold))
            if summary is not None:
                line |= {
                    "state": "done",
                    "n_latent": summary.n_latent,
                    "epochs": summary.n_epochs,
                    "best_epoch": summary.best_epoch,
                    "losses": summary.losses,
                    "relative_error": summary.relative_error,
                    "seconds": summary.seconds["total"],
                    "cells_per_s": summary.cells_per_s,
                    "peak_memory_bytes": summary.peak_memory_bytes,
                    "probe": summary.probe,
                }
            fits.append(line)
    return {
        "kind": "run",
        "path": str(run.path),
        "atlas": run.atlas_path,
        "fits": fits,
        "settings": run.settings,
        "environment": run.environment,
    }


def _unfinished(folder: Path) -> dict[str, Any]:
    """Return how far a fit has come."""
    error = folder / ERROR_FILE
    status = read_status(folder)
    found: dict[str, Any] = {"state": "not started"}
    if status is not None:
        found |= {"state": f"unfinished ({status.state})", "epoch": status.epoch}
        found["losses"] = status.losses
    # The error of an earlier attempt is older than what the present one says of itself.
    written_s = (folder / STATUS_FILE).stat().st_mtime if status is not None else 0.0
    if error.exists() and error.stat().st_mtime >= written_s:
        found["state"] = "failed"
        found["error"] = error.read_text().strip().splitlines()[-1]
    return found


def _counted(codes: Any, levels: tuple[str, ...]) -> dict[str, int]:
    """Return cells per level."""
    counts = np.bincount(codes[codes >= 0], minlength=len(levels))
    return dict(zip(levels, counts.tolist(), strict=True))

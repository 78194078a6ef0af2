"""Where a prepared atlas comes from: inputs, configuration, what was removed, versions, date."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medl_scale.config import PrepareConfig
    from medl_scale.progress import Progress
    from medl_scale.store.genes import Selection
    from medl_scale.store.inputs import Inputs
    from medl_scale.store.quality import Quality

__all__ = ["describe_origin", "note_removed"]

_LIBRARIES = ("medl-scale", "anndata", "numpy", "scipy", "zarr")


def describe_origin(
    inputs: Inputs, quality: Quality, selection: Selection, n_rows: int, config: PrepareConfig
) -> dict[str, Any]:
    """Return where an atlas of `n_rows` cells comes from, in types that JSON knows."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": [
            {"place": one.place, "n_obs": one.n_obs, "n_vars": one.n_vars} for one in inputs.inputs
        ],
        "config": asdict(config),
        "n_cells_in": inputs.n_obs,
        "n_cells_removed": {
            "too_few_genes": int((~quality.cells).sum()),
            "no_counts_left": int(quality.cells.sum()) - n_rows,
        },
        "n_genes_in": inputs.n_vars,
        "n_genes_removed": {
            "too_few_cells": int((~quality.genes).sum()),
            "less_variable": int(quality.genes.sum()) - len(selection.genes),
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what is written."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def note_removed(provenance: dict[str, Any], progress: Progress) -> None:
    """Tell how many cells and genes were left out, and why."""
    cells, genes = provenance["n_cells_removed"], provenance["n_genes_removed"]
    progress.note(
        f"{sum(cells.values()):,} of {provenance['n_cells_in']:,} cells were removed "
        f"({cells['too_few_genes']:,} with too few genes, {cells['no_counts_left']:,} without a "
        f"count in the genes that stay), and {sum(genes.values()):,} of "
        f"{provenance['n_genes_in']:,} genes ({genes['too_few_cells']:,} in too few cells, "
        f"{genes['less_variable']:,} less variable).",
        cells=cells,
        genes=genes,
    )

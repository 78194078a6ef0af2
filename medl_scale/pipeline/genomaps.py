"""Genomaps of a run: the layout learnt once and kept with it, and pictures of projected cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args

import numpy as np

from medl_scale.config import LayoutMethod, ProjectConfig, check_choice
from medl_scale.errors import DataError
from medl_scale.interpret.genomap import (
    Panels,
    check_lines,
    check_pictures,
    draw_panels,
    learn_layout,
    load_layout,
    save_layout,
    stream_gene_sums,
)
from medl_scale.pipeline.atlas_of import atlas_of
from medl_scale.pipeline.preparing import as_progress
from medl_scale.pipeline.projecting import project, projection_shape
from medl_scale.store.atlas import describe, read_columns, var_names
from medl_scale.store.atomic import atomic_file
from medl_scale.stream import Transform, open_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from medl_scale.interpret.genomap import Layout
    from medl_scale.pipeline.cells import Cells
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef

__all__ = ["draw_genomaps", "panels_of", "run_layout"]

_FOLDER = "genomaps"


def run_layout(
    run: Run,
    *,
    method: LayoutMethod = "map2d",
    fold: int | None = None,
    atlas: AtlasRef | None = None,
    progress: bool | Progress = True,
) -> Layout:
    """Return where the run's genes lie, learnt from all train cells of a fold when first asked for.

    It is kept in the run's folder, with a table of genes and pixels beside it, so that all pictures of
    the run compare.

    Parameters
    ----------
    run
        A run.
    method
        `map2d`, or the published `genomap`.
    fold
        Whose train cells; the run's first fold by default.
    atlas
        The run's atlas, if it was moved or lies in memory.
    progress
        Whether, or where, to report.

    Raises
    ------
    ConfigError
        If there is no such method or fold.
    DataError
        If the atlas has other genes than the layout that is kept.
    RunError, AtlasError, StoreError
        If the atlas or the layout cannot be read.
    """
    check_choice("method", method, get_args(LayoutMethod))
    fold = run.folds[0] if fold is None else fold
    ref = atlas_of(run, atlas)
    names = tuple(str(name) for name in var_names(ref))
    path = run.path / _FOLDER / f"{method}_fold_{fold}.npz"
    if path.exists():
        layout = load_layout(path)
        if layout.gene_names != names:
            raise DataError(
                f"{path} has {len(layout.gene_names):,} genes and the atlas {len(names):,}, not the "
                "same in the same order. Give the atlas that the run was made from, or remove the file."
            )
        return layout
    described = describe(ref)
    transform = Transform(described.input_units, described.target_sum)
    shown = as_progress(progress)
    with open_source(ref) as source:
        sums = stream_gene_sums(
            source,
            read_columns(ref),
            described.split(fold).train,
            transform,
            len(described.batch_levels),
            progress=shown,
        )
    layout = learn_layout(sums.correlations(), names, method=method, n_cells=sums.n_cells)
    path.parent.mkdir(exist_ok=True)
    _write_table(layout.table(), path.with_suffix(".csv"))
    save_layout(layout, path)
    shown.note(f"Layout {method} of {len(names):,} genes from {sums.n_cells:,} cells: {path}")
    return layout


def draw_genomaps(
    run: Run,
    cells: Cells,
    as_batch: str | Sequence[str],
    outputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    model: str = "me",
    method: LayoutMethod = "map2d",
    fold: int | None = None,
    n_labelled: int = 10,
    atlas: AtlasRef | None = None,
    progress: bool | Progress = True,
) -> pd.DataFrame:
    """Draw cells as measured, as reconstructed, and as if of other batches.

    Parameters
    ----------
    run, method, fold, atlas, progress
        As for `run_layout`.
    cells, as_batch, model
        As for `Run.project`.
    outputs
        Picture or pictures to write: `.png`, `.svg` or `.pdf`. Beside the first, `NAME_genes.csv` has the genes
        that batches move most, by cell.
    n_labelled
        Genes to name for each cell.

    Returns
    -------
    That table; see `Panels.moved_genes`.

    Raises
    ------
    ConfigError, DataError, RunError, AtlasError, StoreError
        As `Run.project`, `run_layout` and `draw_panels` do.
    """
    # What may be wrong with the request is found before any cell is read.
    paths = check_pictures([outputs] if isinstance(outputs, str | os.PathLike) else outputs)
    config = ProjectConfig(model=model, fold=fold)
    check_lines(*projection_shape(run, cells, as_batch, config, atlas=atlas))
    projected = project(run, cells, as_batch, config, atlas=atlas, progress=as_progress(progress))
    panels = panels_of(projected)
    layout = run_layout(run, method=method, fold=fold, atlas=atlas, progress=progress)
    title = f"Cells of {run.path.name} as if of other batches, by model {model}"
    draw_panels(panels, layout, paths, n_labelled=n_labelled, title=title)
    moved = panels.moved_genes(layout, n_labelled)
    _write_table(moved, paths[0].with_name(f"{paths[0].stem}_genes.csv"))
    return moved


def panels_of(projected: AnnData) -> Panels:
    """Return the rows of a projection as panels: a cell a row, as `Run.project` orders them."""
    obs = projected.obs
    cells = obs["cell"].astype(str).to_numpy()
    n_columns = int(np.argmax(cells != cells[0])) or len(cells)
    of_cell = obs.iloc[::n_columns]
    of_column = obs.iloc[:n_columns]
    is_as_if = (of_column["kind"] == "as_if").to_numpy()
    titles = [
        str(row.target_batch) if row.kind == "as_if" else _beside(str(row.kind), str(row.model))
        for row in of_column.itertuples()
    ]
    own = (obs["is_own_batch"] & (obs["kind"] == "as_if")).to_numpy().reshape(-1, n_columns)
    labels = of_cell["label"].astype(str) if "label" in obs else [""] * len(of_cell)
    return Panels(
        values=np.asarray(projected.X).reshape(len(of_cell), n_columns, -1),
        cell_titles=[
            f"{label}\n{batch}".strip()
            for label, batch in zip(labels, of_cell["source_batch"].astype(str), strict=True)
        ],
        column_titles=titles,
        own_column=[int(row.argmax()) if row.any() else -1 for row in own],
        compared=[int(place) for place in np.flatnonzero(is_as_if)],
    )


def _beside(kind: str, model: str) -> str:
    """Return the title of a column that is no projection."""
    return "original" if kind == "measured" else model.upper()


def _write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table, atomically."""
    with atomic_file(path) as scratch:
        table.to_csv(scratch, index=False)

"""From count files to a prepared atlas: the order of the steps, and what each hands to the next.

Cells pass three times, always from first to last and a block at a time: to be measured, to rank
genes (twice with `seurat_v3`, not at all when all genes are kept), and to be written. Each step is
a module of its own; the matrix is never held, the tables of cells and genes are.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import zarr

from medl_scale.progress import SilentProgress
from medl_scale.store.atlas import Atlas, describe, manifest_of
from medl_scale.store.columns import KeyColumns, Levels, check_batches, key_columns
from medl_scale.store.elements import MANIFEST_KEY
from medl_scale.store.embeddings import write_embeddings
from medl_scale.store.folds import deal_parts, row_order
from medl_scale.store.frames import storable
from medl_scale.store.genes import select_genes
from medl_scale.store.inputs import open_inputs
from medl_scale.store.matrix import CsrWriter, index_type
from medl_scale.store.output import check_output, output_folder
from medl_scale.store.places import as_place
from medl_scale.store.provenance import describe_origin, note_removed
from medl_scale.store.quality import measure
from medl_scale.store.seal import seal
from medl_scale.store.shuffle import RowShuffle
from medl_scale.store.units import natural_values

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.config import PrepareConfig
    from medl_scale.progress import Progress
    from medl_scale.store.genes import Selection
    from medl_scale.store.inputs import Inputs
    from medl_scale.store.quality import Quality

__all__ = ["prepare"]

_SILENT = SilentProgress()
_SCRATCH = ".scratch"


def prepare(
    inputs: Sequence[str | os.PathLike[str] | AnnData],
    output: str | os.PathLike[str],
    config: PrepareConfig,
    *,
    overwrite: bool = False,
    progress: Progress = _SILENT,
) -> Atlas:
    """Make a prepared atlas of one or many inputs, out of core.

    Cells and genes are filtered and highly variable genes chosen as scanpy's pipeline does; the
    chosen genes' counts are written in a shuffled order, the parts of the cross-validation one
    after another.

    Parameters
    ----------
    inputs
        `.h5ad` files, AnnData Zarr stores, 10x `.h5` files or mtx folders, AnnData in memory.
    output
        Folder or URL of the atlas, an AnnData Zarr v3 store. It appears complete or not at all. For a
        URL it is made in the system's folder for temporary files (`TMPDIR`), then uploaded.
    config
        What the inputs are, and what to keep of them.
    overwrite
        Whether `output`, if it is a store, is replaced. At a URL there is no store while it is.
    progress
        Where progress and notes go.

    Returns
    -------
    The description of what was written.

    Raises
    ------
    DataError
        If the data cannot be used as they are; the message says what to do.
    StoreError
        If an input is missing or damaged, the disk is full, or a URL cannot be written.
    OutputExistsError
        If `output` exists and may not be overwritten.
    ConfigError
        If `output` is one of the inputs, or an input is a URL.
    """
    target = as_place(output)
    check_output(target, inputs)
    with (
        output_folder(target, progress, overwrite=overwrite) as folder,
        _fast_codecs(),
        open_inputs(
            inputs,
            layer=config.layer,
            join=config.join,
            file_key=config.batch_key if config.batch_from_file else None,
            scratch=folder / _SCRATCH,
            progress=progress,
        ) as joined,
    ):
        columns = key_columns(joined.obs, config, _place(joined))
        quality = measure(joined, config, progress)
        # Batches are checked before the longer passes; the next may still remove a few cells.
        _check_kept(columns, np.flatnonzero(quality.cells), config)
        selection = select_genes(joined, quality, config, progress)
        rows = _rows(columns, quality, selection, config)
        root = zarr.open_group(folder, mode="a", zarr_format=3)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        provenance = describe_origin(joined, quality, selection, len(rows.cells), config)
        atlas = Atlas(
            path=target,
            n_obs=len(rows.cells),
            n_vars=len(selection.genes),
            batch_key=config.batch_key,
            labels_key=config.labels_key,
            unlabeled_category=config.unlabeled_category,
            batch_levels=rows.batch.names,
            label_levels=_label_levels(rows.labels, config),
            input_units=config.input_units,
            target_sum=config.target_sum,
            part_bounds=tuple(np.searchsorted(rows.parts, range(config.folds + 1)).tolist()),
            provenance=provenance,
        )
        # Tables first, so that names and matrix are not held at the same time.
        _write_tables(root, joined, quality, selection, rows, atlas)
        write_embeddings(root, joined, rows.cells, progress)
        joined.forget_cells()
        _write_matrix(root, folder, joined, quality, selection, rows, config, progress)
        shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
        for name in ("X", "obs", "var"):
            seal(folder / name)
    note_removed(provenance, progress)
    return describe(target)


@dataclass(frozen=True)
class _Rows:
    """The rows of the atlas."""

    cells: NDArray[np.int64]
    """(n_rows,), which cell of the inputs each is."""
    parts: NDArray[np.int32]
    """(n_rows,), rising."""
    batch: Levels
    labels: Levels | None


def _rows(
    columns: KeyColumns, quality: Quality, selection: Selection, config: PrepareConfig
) -> _Rows:
    """Return the cells that stay in the order of the atlas."""
    # A cell can lose its last count with the genes that were removed.
    kept = np.flatnonzero(quality.cells & (selection.size_factors > 0))
    batch, labels = _check_kept(columns, kept, config)
    label_codes = np.zeros(len(kept), np.int32) if labels is None else labels.codes
    parts = deal_parts(
        batch.codes, label_codes, batch.names, n_parts=config.folds, seed=config.seed
    )
    order = row_order(parts, seed=config.seed)
    return _Rows(
        kept[order],
        parts[order],
        Levels(batch.codes[order], batch.names),
        None if labels is None else Levels(labels.codes[order], labels.names),
    )


def _check_kept(
    columns: KeyColumns, cells: NDArray[np.int64], config: PrepareConfig
) -> tuple[Levels, Levels | None]:
    """Return the batches and labels of cells, having seen that there are two batches."""
    batch = columns.batch.among(cells)
    check_batches(batch, config.batch_key)
    return batch, None if columns.labels is None else columns.labels.among(cells)


def _label_levels(labels: Levels | None, config: PrepareConfig) -> tuple[str, ...]:
    """Return the names of the labels that are known."""
    names = () if labels is None else labels.names
    return tuple(name for name in names if name != config.unlabeled_category)


def _write_matrix(
    root: zarr.Group,
    folder: Path,
    inputs: Inputs,
    quality: Quality,
    selection: Selection,
    rows: _Rows,
    config: PrepareConfig,
    progress: Progress,
) -> None:
    """Write the chosen genes of the cells that stay, in their new order."""
    shape = (len(rows.cells), len(selection.genes))
    n_entries = int(quality.n_cells[selection.genes].sum())
    dtype = np.dtype(np.float32)
    if config.input_units == "counts":
        dtype = np.min_scalar_type(int(quality.maxima[selection.genes].max()))
    destinations = np.full(inputs.n_obs, -1, np.int64)
    destinations[rows.cells] = np.arange(len(rows.cells))
    positions = np.full(inputs.n_vars, -1, np.int32)
    positions[selection.genes] = np.arange(len(selection.genes), dtype=np.int32)
    scratch = folder / _SCRATCH / "shuffle"
    with RowShuffle(scratch, shape[0], n_entries, dtype, index_type(shape[1])) as shuffle:
        with progress.step("shuffling cells", inputs.n_obs) as advance:
            for block in inputs.blocks():
                block.counts.data = natural_values(block.counts.data, config.input_units)
                shuffle.add(block.counts, destinations[block.rows], positions)
                advance(block.counts.shape[0])
        writer = CsrWriter(root, shape, n_entries, dtype)
        with progress.step("writing cells", shape[0]) as advance:
            for ordered in shuffle.ranges():
                writer.append(ordered)
                advance(len(ordered.lengths))
        writer.close()


def _write_tables(
    root: zarr.Group,
    inputs: Inputs,
    quality: Quality,
    selection: Selection,
    rows: _Rows,
    atlas: Atlas,
) -> None:
    """Write obs, var, uns and the empty groups of an AnnData store."""
    from anndata.io import write_elem

    obs = inputs.obs.iloc[rows.cells]
    obs.index = inputs.cell_names[rows.cells].astype(object)
    obs = storable(obs)
    obs[atlas.batch_key] = _categorical(rows.batch)
    if rows.labels is not None and atlas.labels_key is not None:
        obs[atlas.labels_key] = _categorical(rows.labels)
    obs["medl_part"] = rows.parts.astype(np.min_scalar_type(atlas.n_folds))
    obs["medl_original_row"] = rows.cells
    obs["medl_size_factor"] = selection.size_factors[rows.cells]
    var = storable(inputs.var.iloc[selection.genes])
    var["n_cells"] = quality.n_cells[selection.genes]
    for name in selection.statistics:
        var[name] = selection.statistics[name].to_numpy()
    write_elem(root, "obs", obs)
    write_elem(root, "var", var)
    write_elem(root, "uns", {MANIFEST_KEY: manifest_of(atlas)})
    for name in ("obsm", "varm", "obsp", "varp", "layers"):
        write_elem(root, name, {})


def _categorical(levels: Levels) -> pd.Categorical:
    """Return levels as a pandas column."""
    import pandas as pd

    return pd.Categorical.from_codes(levels.codes, pd.Index(levels.names, dtype=object))


def _place(inputs: Inputs) -> str:
    """Return how errors call all inputs together."""
    return inputs.places[0] if len(inputs.places) == 1 else f"The {len(inputs.places)} inputs"


@contextmanager
def _fast_codecs() -> Iterator[None]:
    """Let `zarrs` decode and encode, several times faster than Python's pipeline."""
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield

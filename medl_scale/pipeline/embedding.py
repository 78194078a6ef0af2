"""New cells through saved models: matched by gene name, streamed in blocks."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import ConfigError, DataError, OutputExistsError, RunError
from medl_scale.store.atomic import atomic_directory, atomic_file
from medl_scale.store.inputs import open_inputs
from medl_scale.store.places import local_path
from medl_scale.store.units import check_values, natural_values
from medl_scale.stream.contract import CsrRows
from medl_scale.stream.densify import densify

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.inputs import Block
    from medl_scale.train.fitted import FittedModel, Vocabulary

__all__ = ["check_output", "embed", "write_embedded"]


def check_output(output: Path, new: Path, *, overwrite: bool) -> None:
    """Raise unless latents of `new` can be written to a path: its suffix, and what is there.

    Raises
    ------
    ConfigError, OutputExistsError
    """
    local_path(output, "An AnnData with latents")
    if output.suffix not in {".h5ad", ".zarr"}:
        raise ConfigError(f"Latents are written to OUT.h5ad or OUT.zarr; got {output.name!r}.")
    if output.resolve() == new.resolve():
        raise ConfigError(f"The output {output} is also the input. Choose another -o.")
    if output.exists() and not overwrite:
        raise OutputExistsError(f"{output} exists already. Choose another -o, or add --overwrite.")


def write_embedded(embedded: AnnData, output: Path, *, overwrite: bool) -> None:
    """Write embedded cells to `.h5ad` or `.zarr`, atomically."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".h5ad":
        with atomic_file(output) as scratch:
            embedded.write_h5ad(scratch)
    else:
        with atomic_directory(output, overwrite=overwrite) as folder:
            embedded.write_zarr(folder)


def embed(
    run: Run,
    adata: str | os.PathLike[str] | AnnData,
    *,
    models: tuple[str, ...] | None,
    fold: int,
    layer: str | None,
    progress: Progress,
) -> AnnData:
    """Return latents of new cells.

    Genes are matched by name; missing ones count as zero, with a warning. Batches that the run
    does not know take the prior mean of the random effects, and are listed in a warning.

    Parameters
    ----------
    adata
        New cells in the units that the run was prepared from: any input of `prepare`.
    models
        Models to embed with; all finished ones by default.
    fold
        Whose models; the run's first fold by default.
    layer
        Layer to read instead of `X`.

    Returns
    -------
    AnnData
        The cells' `obs`, and their latents in `obsm`. If `adata` is an AnnData, its own `obsm`
        gets them too.

    Raises
    ------
    DataError
        If no gene is shared, or values are not in the run's units.
    RunError
        If a model is not finished.
    """
    from anndata import AnnData

    fitted = _models(run, models, fold)
    vocabulary = fitted[0].vocabulary
    with (
        tempfile.TemporaryDirectory(prefix="medl-scale-") as scratch,
        open_inputs(
            [adata],
            layer=layer,
            join="inner",
            file_key=None,
            scratch=Path(scratch),
            progress=progress,
        ) as inputs,
    ):
        columns = _columns(inputs.var.index, vocabulary)
        codes = _batch_codes(inputs.obs, vocabulary)
        latents = {
            key: np.empty((inputs.n_obs, size), np.float32)
            for model in fitted
            for key, size in model.latent_sizes().items()
        }
        with progress.step("Embedding", inputs.n_obs) as advance:
            for block in inputs.blocks():
                check_values(block, vocabulary.transform.units, inputs.cell_names, inputs.var.index)
                x = _dense(block, columns, vocabulary)
                for model in fitted:
                    for key, values in model.encode(x, codes[block.rows]).items():
                        latents[key][block.rows] = values
                advance(len(x))
        obs = inputs.obs.set_index(inputs.cell_names.astype(object))
        embedded = AnnData(obs=obs, obsm=latents)
    embedded.uns["medl_scale"] = {"run": str(run.path), "fold": fold}
    if not isinstance(adata, str | os.PathLike):
        for key, values in latents.items():
            adata.obsm[key] = values
    return embedded


def _models(run: Run, models: tuple[str, ...] | None, fold: int) -> list[FittedModel]:
    """Return the trained models asked for that have an encoder of their own."""
    finished = [model for model, own in run.finished() if own == fold]
    missing = [model for model in models or () if model not in finished]
    if missing or not finished:
        listed = ", ".join(finished) or "none"
        raise RunError(
            f"The run {run.path} has no finished model {', '.join(missing) or 'at all'} of fold "
            f"{fold}; finished: {listed}. Finish it with --resume, or choose one of these."
        )
    fitted = [run.model(model, fold) for model in models or finished]
    with_encoder = [model for model in fitted if model.latent_sizes()]
    if not with_encoder:
        raise RunError(
            f"The models of {run.path} decode an embedding from elsewhere (fe_rep) and cannot embed "
            "cells. Embed them with the method that made it."
        )
    return with_encoder


def _columns(genes: pd.Index, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Return where each new gene stands in the model, -1 for none; warn of missing ones."""
    place = {name: i for i, name in enumerate(vocabulary.var_names)}
    columns: NDArray[np.int64] = np.array([place.get(str(name), -1) for name in genes], np.int64)
    n_found, n_needed = int((columns >= 0).sum()), len(vocabulary.var_names)
    if n_found == 0:
        raise DataError(
            f"None of the {len(genes):,} genes is among the model's {n_needed:,}: the cells name "
            f"{', '.join(map(repr, genes[:3]))}, the model {', '.join(map(repr, vocabulary.var_names[:3]))}. "
            "Name genes as in the data the run was prepared from."
        )
    if n_found < n_needed:
        given = set(map(str, genes))
        missing = [name for name in vocabulary.var_names if name not in given]
        warnings.warn(
            f"{n_needed - n_found:,} of the model's {n_needed:,} genes are missing and count as zero, "
            f"such as {', '.join(map(repr, missing[:3]))}. Provide them if you can.",
            UserWarning,
            stacklevel=4,
        )
    return columns


def _batch_codes(obs: pd.DataFrame, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Return each cell's batch in the model, -1 where unknown; warn of unknown ones."""
    if vocabulary.batch_key not in obs:
        warnings.warn(
            f"obs has no column '{vocabulary.batch_key}': every cell takes the prior mean of the "
            "random effects. Add the column to name batches that the run knows.",
            UserWarning,
            stacklevel=4,
        )
        return np.full(len(obs), -1, np.int32)
    place = {name: i for i, name in enumerate(vocabulary.batch_levels)}
    names = obs[vocabulary.batch_key].astype(str)
    codes: NDArray[np.int32] = names.map(lambda name: place.get(name, -1)).to_numpy(np.int32)
    unknown = sorted(set(names[codes < 0]))
    if unknown:
        listed = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        warnings.warn(
            f"{len(unknown):,} batches are unknown to the run and take the prior mean of the random "
            f"effects: {listed}. Fit again with their cells to learn effects of their own.",
            UserWarning,
            stacklevel=4,
        )
    return codes


def _dense(block: Block, columns: NDArray[np.int64], vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Return (m, n_vars) transformed expression of a block in the model's genes."""
    counts: Any = block.counts
    transform = vocabulary.transform
    counts.data = natural_values(counts.data, transform.units)
    # Normalisation counts all measured genes, as `prepare` does, not the model's alone.
    totals = np.asarray(counts.sum(axis=1), np.float32).ravel()
    if transform.takes_log and not (totals > 0).all():
        raise DataError(
            f"{int((totals <= 0).sum()):,} cells of {block.place} have no counts at all. Remove them."
        )
    known = np.flatnonzero(columns >= 0)
    kept = counts[:, known].tocsr()
    stored = CsrRows(
        kept.data, columns[known][kept.indices].astype(np.int32), kept.indptr.astype(np.int64)
    )
    n_cells = kept.shape[0]
    out = np.empty((n_cells, len(vocabulary.var_names)), np.float32)
    rows = np.arange(n_cells)
    densify(stored, rows, rows, totals, transform, out)
    return out

"""The record of where genes lie: learnt once, saved, and used for every picture, so that they compare."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import pandas as pd

from medl_scale.config import LayoutMethod, check_choice
from medl_scale.errors import ConfigError, DataError, StoreError
from medl_scale.interpret.genomap.grid import grid_shape, pixels_from_centre
from medl_scale.interpret.genomap.map2d import gene_loadings, neighbour_likeness, place_on_map
from medl_scale.interpret.genomap.ring import (
    assign_rings,
    place_on_rings,
    ring_objective,
    rings_of,
)
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Layout", "learn_layout", "load_layout", "save_layout"]

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each gene lies on a grid of pixels."""

    gene_names: tuple[str, ...]
    pixels: NDArray[np.int64]
    """(n_genes,) flat pixel of each gene, row by row from the top left; no two alike."""
    shape: tuple[int, int]
    """(rows, columns); pixels without a gene are padding."""
    is_constant: NDArray[np.bool_]
    """(n_genes,), genes that did not vary in the cells it was learnt from; beside the padding."""
    method: LayoutMethod
    objective: float
    """Of `map2d` the mean correlation of neighbouring genes (higher is better); of `genomap` the
    published objective without its constant terms (lower is better). Genes that vary count."""
    n_cells: int
    """Cells it was learnt from; 0 where that is not known."""

    def __post_init__(self) -> None:
        n, n_pixels = len(self.gene_names), self.shape[0] * self.shape[1]
        inside = self.pixels.size == n and np.all((self.pixels >= 0) & (self.pixels < n_pixels))
        if not inside or np.unique(self.pixels).size != n or self.is_constant.shape != (n,):
            raise DataError(
                f"A layout needs a pixel of its own for each gene; got {self.pixels.size:,} pixels for "
                f"{n:,} genes on a grid of {self.shape[0]} x {self.shape[1]}. Learn the layout again."
            )

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of each gene, (n_genes,), 0 at the top."""
        return self.pixels // self.shape[1]

    @property
    def columns(self) -> NDArray[np.int64]:
        """Column of each gene, (n_genes,), 0 at the left."""
        return self.pixels % self.shape[1]

    def table(self) -> pd.DataFrame:
        """Return one row per gene: `gene`, `row`, `column`, `is_constant`."""
        return pd.DataFrame(
            {
                "gene": self.gene_names,
                "row": self.rows,
                "column": self.columns,
                "is_constant": self.is_constant,
            }
        )

    def to_images(
        self, values: NDArray[np.floating[Any]], *, padding: float = np.nan
    ) -> NDArray[np.float32]:
        """Return cells as images.

        Parameters
        ----------
        values
            (m, n_genes) in the order of `gene_names`; (n_genes,) for one cell. NaN stays NaN.
        padding
            Value of pixels without a gene.

        Returns
        -------
        (m, rows, columns) float32.

        Raises
        ------
        DataError
            If `values` have another number of genes.
        """
        cells = np.atleast_2d(np.asarray(values, np.float32))
        n = len(self.gene_names)
        if cells.ndim != 2 or cells.shape[1] != n:
            raise DataError(
                f"Images are made of (m, {n:,}) values, one for each gene of the layout; got "
                f"{np.shape(values)}. Put genes in the order of the layout's gene_names."
            )
        images = np.full((len(cells), self.shape[0] * self.shape[1]), padding, np.float32)
        images[:, self.pixels] = cells
        return images.reshape(len(cells), *self.shape)

    def to_values(self, images: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return what `to_images` was given: (m, n_genes) of (m, rows, columns)."""
        return images.reshape(len(images), -1)[:, self.pixels]


def learn_layout(
    correlations: NDArray[np.floating[Any]],
    gene_names: Sequence[str],
    *,
    method: LayoutMethod = "map2d",
    shape: tuple[int, int] | None = None,
    rank: int | None = 20,
    n_cells: int = 0,
) -> Layout:
    """Lay genes out on a grid by their correlations; the same every time.

    Parameters
    ----------
    correlations
        (n, n) of genes, such as `GeneSums.correlations` gives; the diagonal tells the genes that
        vary (1) from those that are constant (0).
    gene_names
        (n,), no two alike.
    method
        `map2d` puts genes that go together side by side. `genomap` is the published layout.
    shape
        (rows, columns) of the grid; the smallest that is nearly square by default. Pixels left over
        are padding: at the end of a `map2d`, in the corners of a `genomap`.
    rank
        Components of the correlations that are taken for signal. None lets `genomap` use the
        correlations as they are, as published, though its rings then are those of noise; `map2d`
        then takes 20 all the same.
    n_cells
        Cells that the correlations are of, for the record.

    Raises
    ------
    ConfigError
        If an option is out of range, or the grid has too few pixels.
    DataError
        If the correlations are not square and finite, names are repeated, or fewer than two genes
        vary.

    References
    ----------
    Islam and Xing (2023), Nature Communications 14, 679: genomaps. doi:10.1038/s41467-023-36383-6
    van der Maaten (2014), JMLR 15, 3221-3245: Barnes-Hut t-SNE.
    """
    varies = _check(correlations, gene_names, method, rank)
    n = len(gene_names)
    shape = grid_shape(n, shape)
    genes = np.flatnonzero(varies)
    related = correlations[np.ix_(genes, genes)]
    loadings = gene_loadings(np.asarray(related, np.float64), 20 if rank is None else rank)
    pixels = np.empty(n, np.int64)
    if method == "map2d":
        in_use = np.arange(n)
        pixels[genes] = place_on_map(related, loadings, shape, in_use[: genes.size])
        objective = neighbour_likeness(related, shape, pixels[genes])
    else:
        in_use = pixels_from_centre(shape)[:n]
        rings = rings_of(shape, genes.size)
        signal = related if rank is None else loadings @ loadings.T
        ring_of_gene = assign_rings(signal, rings)
        pixels[genes] = place_on_rings(related, loadings, shape, rings, ring_of_gene)
        objective = ring_objective(related, rings, ring_of_gene)
    pixels[~varies] = in_use[genes.size :]
    return Layout(
        tuple(map(str, gene_names)), pixels, shape, ~varies, method, objective, int(n_cells)
    )


def save_layout(layout: Layout, path: str | os.PathLike[str]) -> None:
    """Write a layout to one `.npz` file, atomically.

    Raises
    ------
    StoreError
        If writing fails.
    """
    about = {
        "format": _FORMAT,
        "method": layout.method,
        "objective": layout.objective,
        "n_cells": layout.n_cells,
    }
    with atomic_file(path) as scratch, scratch.open("wb") as file:
        np.savez_compressed(
            file,
            gene_names=np.asarray(layout.gene_names, np.str_),
            pixels=layout.pixels,
            shape=np.asarray(layout.shape, np.int64),
            is_constant=layout.is_constant,
            about=np.asarray(json.dumps(about), np.str_),
        )


def load_layout(path: str | os.PathLike[str]) -> Layout:
    """Read what `save_layout` wrote.

    Raises
    ------
    StoreError
        If there is no such file, or it holds no whole layout.
    """
    try:
        # Opened here: NumPy leaves a file that is none of its own open.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as found:
            about = json.loads(str(found["about"]))
            if about["format"] != _FORMAT:
                raise StoreError(
                    f"{path} has format {about['format']}; this version reads format {_FORMAT}. "
                    "Update medl-scale, or learn the layout again."
                )
            return Layout(
                tuple(map(str, found["gene_names"])),
                found["pixels"].astype(np.int64),
                (int(found["shape"][0]), int(found["shape"][1])),
                found["is_constant"].astype(np.bool_),
                cast("LayoutMethod", about["method"]),
                float(about["objective"]),
                int(about["n_cells"]),
            )
    except StoreError:
        raise
    except (DataError, OSError, EOFError, LookupError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{path} is not a whole layout ({error!r}). Learn the layout again."
        ) from error


def _check(
    correlations: NDArray[np.floating[Any]],
    gene_names: Sequence[str],
    method: str,
    rank: int | None,
) -> NDArray[np.bool_]:
    """Raise unless a layout can be learnt; return which genes vary."""
    check_choice("method", method, get_args(LayoutMethod))
    if rank is not None and rank < 2:
        raise ConfigError(f"rank must be at least 2; got {rank}. Leave it out for 20.")
    n = len(gene_names)
    if correlations.shape != (n, n):
        raise DataError(
            f"Correlations must be ({n:,}, {n:,}) for {n:,} genes; got {correlations.shape}. "
            "Name the genes that they are of."
        )
    if len(set(gene_names)) != n:
        repeated = next(name for name in gene_names if list(gene_names).count(name) > 1)
        raise DataError(f"Gene names must be unique; {repeated!r} is repeated. Rename the genes.")
    if not np.isfinite(correlations).all():
        raise DataError(
            "Correlations must be finite. Give constant genes the correlation 0 with all genes, as "
            "GeneSums.correlations does."
        )
    varies = np.diagonal(correlations) > 0
    if varies.sum() < 2:
        raise DataError(
            f"A genomap needs at least 2 genes that vary; {int(varies.sum())} of {n:,} do. "
            "Choose more cells or other genes."
        )
    return np.asarray(varies)

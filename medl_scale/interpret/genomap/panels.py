"""What a picture of cells shows: each as measured, as reconstructed, and as if of each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medl_scale.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.interpret.genomap.layout import Layout

__all__ = ["Panels", "z_scores"]


@dataclass(frozen=True, eq=False)
class Panels:
    """Cells and what is shown of each.

    Raises
    ------
    DataError
        If shapes and titles do not fit.
    """

    values: NDArray[np.floating[Any]]
    """(n_cells, n_columns, n_genes), genes as in the layout; a column of NaN is left empty."""
    cell_titles: Sequence[str]
    """(n_cells,), such as `AML420B, Mono`."""
    column_titles: Sequence[str]
    """(n_columns,), such as `original`, `FE`, and the names of batches."""
    own_column: Sequence[int]
    """(n_cells,), column of the cell's own batch; -1 where it is not shown."""
    compared: Sequence[int]
    """Columns over which the genes that move most are found: those of batches."""

    def __post_init__(self) -> None:
        shape = self.values.shape
        wanted = (len(self.cell_titles), len(self.column_titles))
        if len(shape) != 3 or shape[:2] != wanted or not shape[0] or not shape[1]:
            raise DataError(
                f"Panels need values (cells, columns, genes) with a title for each cell and column; "
                f"got {shape} with {wanted[0]} and {wanted[1]} titles. Pass one title for each."
            )
        places = [*self.own_column, *self.compared]
        if len(self.own_column) != shape[0] or not all(-1 <= p < shape[1] for p in places):
            raise DataError(
                f"Own batches and compared columns must be among the columns 0 to {shape[1] - 1}; got "
                f"{list(self.own_column)} and {list(self.compared)}. Give one own column for each cell."
            )

    def moved_genes(self, layout: Layout, n: int = 10) -> pd.DataFrame:
        """Return the genes that the compared columns differ in most, by cell.

        Parameters
        ----------
        layout
            Names and places of the genes.
        n
            Genes for each cell.

        Returns
        -------
        One row per cell and gene, `n` for each cell: `cell`, `rank` from 1, `gene`, `sd` (over the
        compared columns, ddof 1), `row` and `column` of its pixel. Without two compared columns, none.
        """
        tables = []
        for title, of_cell in zip(self.cell_titles, self.values, strict=True):
            if len(self.compared) < 2:
                break
            spread = of_cell[list(self.compared)].std(axis=0, ddof=1)
            top = np.argsort(-np.nan_to_num(spread, nan=-1.0), kind="stable")[:n]
            tables.append(
                pd.DataFrame(
                    {
                        "cell": title,
                        "rank": np.arange(1, top.size + 1),
                        "gene": [layout.gene_names[gene] for gene in top],
                        "sd": spread[top],
                        "row": layout.rows[top],
                        "column": layout.columns[top],
                    }
                )
            )
        columns = ["cell", "rank", "gene", "sd", "row", "column"]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def z_scores(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return each gene's z-score over all cells and columns, (..., n_genes), as in the papers.

    Deviations are divided by the standard deviation (ddof 1); a constant gene is 0; NaN is left out.
    """
    flat = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
    known = np.isfinite(flat)
    n = known.sum(axis=0)
    mean = np.where(known, flat, 0.0).sum(axis=0) / np.maximum(n, 1)
    centred = flat - mean
    squares = np.where(known, centred, 0.0) ** 2
    sd = np.sqrt(squares.sum(axis=0) / np.maximum(n - 1, 1))
    is_constant = sd <= 1e-12 * np.abs(mean)
    scaled = np.where(is_constant & known, 0.0, centred / np.where(is_constant, 1.0, sd))
    return scaled.reshape(values.shape).astype(np.float32)

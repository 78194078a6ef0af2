"""The first pass over the cells: their totals and genes, and which cells and genes stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import DataError
from medl_scale.store.kernels import measure_rows
from medl_scale.store.units import check_values, looks_like_counts, natural_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.config import PrepareConfig
    from medl_scale.progress import Progress
    from medl_scale.store.inputs import Inputs

__all__ = ["Quality", "measure"]


@dataclass(frozen=True)
class Quality:
    """What filtering needs to know of every cell and gene."""

    cells: NDArray[np.bool_]
    """(n_obs,), cells with enough genes."""
    genes: NDArray[np.bool_]
    """(n_vars,), genes found in enough of these cells."""
    totals: NDArray[np.float64]
    """(n_obs,), sum of a cell's values over all genes."""
    n_cells: NDArray[np.int64]
    """(n_vars,), kept cells in which a gene is found."""
    maxima: NDArray[np.float64]
    """(n_vars,), highest value of a gene in kept cells."""


def measure(inputs: Inputs, config: PrepareConfig, progress: Progress) -> Quality:
    """Read all cells once, check their values, and filter as `scanpy.pp` does.

    Cells with fewer than `min_genes` genes go first, then genes found in fewer than `min_cells` of
    the cells left. Cells without a single count go in any case.

    Raises
    ------
    DataError
        If values are not of the units that the configuration states, or nothing is left.
    """
    n_genes = np.zeros(inputs.n_obs, np.int32)
    totals = np.zeros(inputs.n_obs)
    n_cells = np.zeros(inputs.n_vars, np.int64)
    maxima = np.zeros(inputs.n_vars)
    least = max(1, config.min_genes)
    all_integers = config.input_units != "counts"
    with progress.step("measuring cells", inputs.n_obs) as advance:
        for block in inputs.blocks():
            counts = block.counts
            check_values(block, config.input_units, inputs.cell_names, inputs.var.index)
            all_integers = all_integers and looks_like_counts(counts.data)
            values = natural_values(counts.data, config.input_units)
            measure_rows(
                values,
                counts.indices,
                counts.indptr,
                least,
                n_genes[block.rows],
                totals[block.rows],
                n_cells,
                maxima,
            )
            advance(counts.shape[0])
    if all_integers and inputs.n_obs:
        raise DataError(
            f"The values are said to be {config.input_units}, but all are integers, up to "
            f"{maxima.max():g}: they look like counts. Leave --input-units at counts."
        )
    cells = n_genes >= least
    genes = n_cells >= max(1, config.min_cells)
    _check_something_left(cells, genes, config)
    return Quality(cells, genes, totals, n_cells, maxima)


def _check_something_left(
    cells: NDArray[np.bool_], genes: NDArray[np.bool_], config: PrepareConfig
) -> None:
    """Raise if the filters leave no cell or no gene."""
    if not cells.any():
        raise DataError(
            f"None of the {len(cells):,} cells has {max(1, config.min_genes):,} genes or more. "
            "Lower --min-genes."
        )
    if not genes.any():
        raise DataError(
            f"None of the {len(genes):,} genes is found in {max(1, config.min_cells):,} cells or "
            "more. Lower --min-cells."
        )

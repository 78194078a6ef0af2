"""Choosing genes and size factors by streaming the cells once or twice more.

Gene totals are known only after the first pass, and normalised values only after them: the moments
that `store.hvg` ranks by take a pass of their own, `seurat_v3`, which clips at a bound that depends
on its moments, two. Values are normalised with scanpy's arithmetic (float32 for counts), so that
the genes chosen are scanpy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from medl_scale.errors import DataError
from medl_scale.store.hvg import (
    expected_scale,
    rank_by_dispersion,
    rank_by_dispersion_within,
    rank_by_standardised_variance,
)
from medl_scale.store.kernels import add_clipped, add_moments, add_totals, add_welford
from medl_scale.store.units import natural_values

if TYPE_CHECKING:
    from typing import Literal

    import pandas as pd
    from numpy.typing import NDArray

    from medl_scale.config import PrepareConfig
    from medl_scale.progress import Progress
    from medl_scale.store.inputs import Inputs
    from medl_scale.store.quality import Quality

__all__ = ["Selection", "select_genes"]


@dataclass(frozen=True)
class Selection:
    """The genes of the atlas, and what each cell is divided by."""

    genes: NDArray[np.int64]
    """(n_chosen,), rising positions among all genes."""
    statistics: pd.DataFrame
    """One row a chosen gene: what it was ranked by."""
    size_factors: NDArray[np.float32]
    """(n_obs,), totals over the genes that passed `min_cells`; 1 for log-normalised values."""


def select_genes(
    inputs: Inputs, quality: Quality, config: PrepareConfig, progress: Progress
) -> Selection:
    """Choose the highly variable genes, as scanpy does, among those that passed the filter.

    Raises
    ------
    DataError
        If the genes cannot be ranked, or a level of `hvg_batch_key` has fewer than 2 cells.
    """
    import pandas as pd

    kept = np.flatnonzero(quality.genes)
    filtered = bool(quality.n_cells[~quality.genes].any())
    totals = quality.totals
    if config.n_top_genes is None:
        table = pd.DataFrame(index=range(len(kept)))
        table["highly_variable"] = True
        if filtered:
            totals = _Pass(inputs, quality, config, progress, "adding up cells").run()
    elif config.hvg_flavor == "seurat_v3":
        table, totals = _by_standardised_variance(inputs, quality, config, progress)
    else:
        table, totals = _by_dispersion(inputs, quality, config, progress)
    chosen = table["highly_variable"].to_numpy()
    if config.n_top_genes is not None and chosen.sum() < config.n_top_genes:
        progress.note(
            f"{int(chosen.sum()):,} genes are kept: of the {config.n_top_genes:,} asked for, no "
            "more can be ranked."
        )
    factors = np.ones(inputs.n_obs) if config.input_units == "lognorm" else totals
    # A cell whose every gene was filtered has no size factor: total 0 tells so.
    factors = np.where(totals > 0, factors, 0)
    return Selection(kept[chosen], table[chosen], factors.astype(np.float32))


class _Pass:
    """One pass over the cells that stay: their totals over genes that stay, and more if asked."""

    def __init__(
        self,
        inputs: Inputs,
        quality: Quality,
        config: PrepareConfig,
        progress: Progress,
        name: str,
    ) -> None:
        self.inputs, self.quality, self.config = inputs, quality, config
        self.progress, self.name = progress, name
        levels, codes = _levels(inputs.obs, quality.cells, config.hvg_batch_key)
        self.groups = codes
        self.sizes = np.bincount(codes[codes >= 0], minlength=len(levels))
        self.shape = (len(levels), inputs.n_vars)
        _check_sizes(levels, self.sizes, config.hvg_batch_key)

    def run(self, add: Any = None) -> NDArray[np.float64]:
        """Read all cells, hand each block to `add(counts, values, totals, groups)`; return totals."""
        totals = np.zeros(self.inputs.n_obs)
        with self.progress.step(self.name, self.inputs.n_obs) as advance:
            for block in self.inputs.blocks():
                counts = block.counts
                values = natural_values(counts.data, self.config.input_units)
                part = totals[block.rows]
                add_totals(values, counts.indices, counts.indptr, self.quality.genes, part)
                if add is not None:
                    add(counts, values, part, self.groups[block.rows])
                advance(counts.shape[0])
        return totals


def _by_dispersion(
    inputs: Inputs, quality: Quality, config: PrepareConfig, progress: Progress
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Rank genes by normalised dispersion; return the table and the totals of the cells."""
    reading = _Pass(inputs, quality, config, progress, "ranking genes")
    sums, squares = np.zeros(reading.shape), np.zeros(reading.shape)
    flavor = cast("Literal['seurat', 'cell_ranger']", config.hvg_flavor)

    def add(counts: Any, values: Any, totals: Any, groups: Any) -> None:
        normalised = _log_normalised(counts, values, totals, config)
        if flavor == "seurat":
            np.expm1(normalised, out=normalised)
        add_moments(normalised, counts.indices, counts.indptr, groups, sums, squares)

    totals = reading.run(add)
    means, variances = _moments(sums, squares, reading.sizes[:, None])
    means, variances = means[:, quality.genes], variances[:, quality.genes]
    n_top = cast("int", config.n_top_genes)
    if config.hvg_batch_key is None:
        return rank_by_dispersion(means[0], variances[0], n_top, flavor), totals
    names = inputs.var.index[quality.genes]
    return rank_by_dispersion_within(means, variances, n_top, flavor, names), totals


def _by_standardised_variance(
    inputs: Inputs, quality: Quality, config: PrepareConfig, progress: Progress
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Rank genes by standardised variance; return the table and the totals of the cells."""
    reading = _Pass(inputs, quality, config, progress, "ranking genes, 1 of 2")
    sizes = reading.sizes[:, None]
    sums, squares = np.zeros((1, inputs.n_vars)), np.zeros((1, inputs.n_vars))
    found, means, spreads = (np.zeros(reading.shape) for _ in range(3))

    def add(counts: Any, values: Any, totals: Any, groups: Any) -> None:
        together = np.minimum(groups, 0)
        add_moments(values, counts.indices, counts.indptr, together, sums, squares)
        if len(sizes) > 1:
            add_welford(values, counts.indices, counts.indptr, groups, found, means, spreads)

    totals = reading.run(add)
    mean, variance = _moments(sums, squares, sizes.sum())
    if len(sizes) > 1:
        means, variances = _with_zeros(found, means, spreads, sizes)
    else:
        means, variances = mean, variance
    scales = np.ones(reading.shape)
    for level in range(len(sizes)):
        scales[level, quality.genes] = expected_scale(
            means[level, quality.genes], variances[level, quality.genes]
        )
    bounds = scales * np.sqrt(sizes) + means
    clipped_sums, clipped_squares = np.zeros(reading.shape), np.zeros(reading.shape)

    def add_cut(counts: Any, values: Any, totals: Any, groups: Any) -> None:
        add_clipped(
            values, counts.indices, counts.indptr, groups, bounds, clipped_sums, clipped_squares
        )

    reading.name = "ranking genes, 2 of 2"
    reading.run(add_cut)
    standardised = (1 / ((sizes - 1) * np.square(scales))) * (
        (sizes * np.square(means)) + clipped_squares - 2 * clipped_sums * means
    )
    table = rank_by_standardised_variance(
        standardised[:, quality.genes], cast("int", config.n_top_genes)
    )
    table.insert(1, "means", mean[0, quality.genes])
    table.insert(2, "variances", variance[0, quality.genes])
    if config.hvg_batch_key is None:
        del table["highly_variable_nbatches"]
    return table, totals


def _log_normalised(
    counts: Any, values: NDArray[Any], totals: NDArray[np.float64], config: PrepareConfig
) -> NDArray[Any]:
    """Return log1p of the values at `target_sum` a cell, in float32 unless they are float64."""
    dtype = np.float64 if values.dtype == np.float64 else np.float32
    if config.input_units == "lognorm":
        return values.astype(dtype)
    scales: NDArray[Any] = totals.astype(dtype)
    scales /= config.target_sum
    scales[scales == 0] = 1
    normalised: NDArray[Any] = values.astype(dtype) / np.repeat(scales, np.diff(counts.indptr))
    np.log1p(normalised, out=normalised)
    return normalised


def _levels(
    obs: pd.DataFrame, cells: NDArray[np.bool_], key: str | None
) -> tuple[list[str], NDArray[np.int32]]:
    """Return the levels to rank within and each cell's code, -1 for cells that do not stay."""
    import pandas as pd

    if key is None:
        return ["all"], np.where(cells, 0, -1).astype(np.int32)
    column = pd.Categorical(obs[key][cells]).remove_unused_categories()
    codes = np.full(len(cells), -1, np.int32)
    codes[cells] = column.codes
    return [str(level) for level in column.categories], codes


def _check_sizes(levels: list[str], sizes: NDArray[np.int64], key: str | None) -> None:
    """Raise if genes cannot be ranked within a level because it has a single cell."""
    small = [level for level, size in zip(levels, sizes, strict=True) if size < 2]
    if small:
        listed = ", ".join(repr(level) for level in small[:5])
        raise DataError(
            f"Genes are ranked within levels of {key!r}, each of which needs 2 cells; these have "
            f"one: {listed}. Leave them out, or choose another --hvg-batch-key."
            if key
            else "Genes can only be ranked over 2 cells or more; one is left after filtering."
        )


def _moments(
    sums: NDArray[np.float64], squares: NDArray[np.float64], sizes: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and unbiased variances."""
    means = sums / sizes
    return means, (squares / sizes - means**2) * (sizes / (sizes - 1))


def _with_zeros(
    found: NDArray[np.float64],
    means: NDArray[np.float64],
    spreads: NDArray[np.float64],
    sizes: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and unbiased variances, given those of the entries that are not 0."""
    zeros = sizes - found
    variances = (spreads + np.where(zeros > 0, means * means * found * zeros / sizes, 0)) / sizes
    return np.where(zeros > 0, means * found / sizes, means), variances * (sizes / (sizes - 1))

"""Ranking genes by variability from their means and variances, as `scanpy.pp` ranks them.

scanpy needs the matrix in memory, or lazy in Dask; here the moments come from a streamed pass and
only the ranking is done, so that the genes chosen are those of
`scanpy.pp.highly_variable_genes(n_top_genes=...)`: flavours `seurat` and `cell_ranger` by
normalised dispersion, `seurat_v3` by standardised variance.

References
----------
Satija et al. (2015), doi:10.1038/nbt.3192. Zheng et al. (2017), doi:10.1038/ncomms14049.
Stuart et al. (2019), doi:10.1016/j.cell.2019.05.031.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import norm

from medl_scale.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]

__all__ = [
    "expected_scale",
    "rank_by_dispersion",
    "rank_by_dispersion_within",
    "rank_by_standardised_variance",
]

_BINS = 20
_LOESS_SPAN = 0.3
_ADVICE = "Choose another flavour with --hvg-flavor, or keep all genes."


def rank_by_dispersion(
    mean: Floats, variance: Floats, n_top: int, flavor: Literal["seurat", "cell_ranger"]
) -> pd.DataFrame:
    """Rank genes by their dispersion, normalised among genes of like mean.

    Parameters
    ----------
    mean, variance
        (n_genes,) of normalised expression (`seurat`) or of its log1p (`cell_ranger`); the
        variance is the unbiased one.
    n_top
        How many genes to choose; more are where the last ones tie.
    flavor
        How means are binned and dispersions normalised within a bin.

    Returns
    -------
    One row a gene: `highly_variable`, `means`, `dispersions`, `dispersions_norm`.

    Raises
    ------
    DataError
        If no gene varies, or the means are too alike to be binned.
    """
    import pandas as pd

    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    if flavor == "seurat":
        with np.errstate(invalid="ignore"):
            dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
        mean = np.log1p(mean)
    table = pd.DataFrame({"means": mean, "dispersions": dispersion})
    groups = table.groupby(_bins(table["means"], flavor), observed=True)["dispersions"]
    if flavor == "seurat":
        centre, spread = groups.transform("mean"), groups.transform("std")
        # A gene alone in its bin has no spread: its normalised dispersion becomes 1.
        alone = spread.isna()
        spread = spread.where(~alone, centre)
        centre = centre.where(~alone, 0.0)
    else:
        centre, spread = groups.transform("median"), groups.transform(_absolute_deviation)
    table["dispersions_norm"] = (table["dispersions"] - centre) / spread
    table.insert(0, "highly_variable", _highest(table["dispersions_norm"].to_numpy(), n_top))
    return table


def rank_by_dispersion_within(
    means: Floats,
    variances: Floats,
    n_top: int,
    flavor: Literal["seurat", "cell_ranger"],
    genes: pd.Index,
) -> pd.DataFrame:
    """Rank genes within each batch, then by in how many of them they are chosen.

    Parameters
    ----------
    means, variances
        (n_batches, n_genes), as for `rank_by_dispersion`; genes of mean 0 are not ranked.
    n_top
        How many genes to choose, in each batch and in the end.
    flavor
        As for `rank_by_dispersion`.
    genes
        Names; the last to break a tie.

    Returns
    -------
    As `rank_by_dispersion`, averaged over batches, with `highly_variable_nbatches` and
    `highly_variable_intersection`.
    """
    import pandas as pd

    names = ("means", "dispersions", "dispersions_norm")
    n_genes = means.shape[1]
    sums = {name: np.zeros(n_genes) for name in names}
    sizes = {name: np.zeros(n_genes) for name in names}
    n_chosen = np.zeros(n_genes, np.int64)
    for mean, variance in zip(means, variances, strict=True):
        expressed = np.flatnonzero(mean > 0)
        ranked = rank_by_dispersion(mean[expressed], variance[expressed], n_top, flavor)
        n_chosen[expressed] += ranked["highly_variable"].to_numpy()
        for name in names:
            # A gene that is not expressed counts as 0, one without a dispersion does not count.
            values = np.zeros(n_genes)
            values[expressed] = ranked[name].to_numpy()
            present = ~np.isnan(values)
            sums[name][present] += values[present]
            sizes[name] += present
    with np.errstate(invalid="ignore"):
        table = pd.DataFrame({name: sums[name] / sizes[name] for name in names})
    alphabetical = np.argsort(np.argsort(genes.to_numpy(dtype=object), kind="stable"))
    dispersion = table["dispersions_norm"].to_numpy()
    order = np.lexsort(
        (alphabetical, np.where(np.isnan(dispersion), np.inf, -dispersion), -n_chosen)
    )
    table.insert(0, "highly_variable", _first(order, n_top))
    table["highly_variable_nbatches"] = n_chosen
    table["highly_variable_intersection"] = n_chosen == len(means)
    return table


def expected_scale(mean: Floats, variance: Floats) -> Floats:
    """Return the standard deviation that a gene of this mean is expected to have.

    Parameters
    ----------
    mean, variance
        (n_genes,) of counts in one batch.

    Returns
    -------
    (n_genes,), from a loess of log10 variance on log10 mean; 1 where the variance is 0.

    Raises
    ------
    DataError
        If the loess cannot be fitted.
    """
    from skmisc.loess import loess

    varies = variance > 0
    logarithm = np.zeros(len(mean))
    if varies.any():
        try:
            model = loess(
                np.log10(mean[varies]), np.log10(variance[varies]), span=_LOESS_SPAN, degree=2
            )
            model.fit()
        except ValueError as error:
            cause = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise DataError(
                f"seurat_v3 cannot fit the variance of {int(varies.sum()):,} genes on their mean: "
                f"{cause} Too few cells, or too few distinct counts, do this. {_ADVICE}"
            ) from error
        logarithm[varies] = model.outputs.fitted_values
    scale: Floats = np.sqrt(10**logarithm)
    return scale


def rank_by_standardised_variance(standardised: Floats, n_top: int) -> pd.DataFrame:
    """Rank genes by the median, over batches, of their rank in standardised variance.

    Parameters
    ----------
    standardised
        (n_batches, n_genes), variance of counts after division by the expected scale and clipping.
    n_top
        How many genes to choose, in each batch and in the end.

    Returns
    -------
    One row a gene: `highly_variable`, `highly_variable_rank`, `highly_variable_nbatches`,
    `variances_norm`.
    """
    import pandas as pd

    ranks = np.argsort(np.argsort(-standardised, axis=1), axis=1).astype(np.float32)
    n_chosen = (ranks < n_top).sum(axis=0)
    top = np.ma.masked_where(ranks >= n_top, ranks)
    median = np.ma.filled(np.ma.median(top, axis=0).astype(np.float64), np.nan)
    order = np.lexsort((-n_chosen, np.where(np.isnan(median), np.inf, median)))
    return pd.DataFrame(
        {
            "highly_variable": _first(order, n_top),
            "highly_variable_rank": median,
            "highly_variable_nbatches": n_chosen,
            "variances_norm": standardised.mean(axis=0),
        }
    )


def _bins(means: pd.Series[float], flavor: str) -> pd.Series[str]:
    """Return the bin of each mean: equally wide ones, or by percentiles."""
    import pandas as pd

    if flavor == "seurat":
        return pd.cut(means, bins=_BINS)
    edges = np.r_[-np.inf, np.percentile(means, np.arange(10, 105, 5)), np.inf]
    if len(np.unique(edges)) < len(edges):
        raise DataError(
            f"cell_ranger bins genes by percentiles of their mean, but of {len(means):,} genes too "
            f"many have the same. {_ADVICE}"
        )
    return pd.cut(means, bins=edges)


def _absolute_deviation(values: pd.Series[float]) -> float:
    """Return the median absolute deviation, scaled to a normal's standard deviation."""
    return float(np.median(np.abs(values - np.median(values)) / norm.ppf(0.75)))


def _highest(values: Floats, n_top: int) -> NDArray[np.bool_]:
    """Return which values are among the `n_top` highest, ties included and NaN never."""
    ordered = np.sort(values[~np.isnan(values)])[::-1]
    if len(ordered) == 0:
        raise DataError(f"None of the {len(values):,} genes varies between cells. {_ADVICE}")
    cutoff = ordered[min(n_top, len(ordered)) - 1]
    chosen: NDArray[np.bool_] = np.nan_to_num(values, nan=-np.inf) >= cutoff
    return chosen


def _first(order: NDArray[np.int64], n_top: int) -> NDArray[np.bool_]:
    """Return a mask of the first entries of an order."""
    chosen = np.zeros(len(order), bool)
    chosen[order[:n_top]] = True
    return chosen

"""Which cells a picture of all cells draws, where there are too many: every batch and label keeps its share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.config import check_at_least
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

__all__ = ["DrawnCells", "draw_cells"]


@dataclass(frozen=True, eq=False)
class DrawnCells:
    """Cells that a picture shows."""

    rows: NDArray[np.int64]
    """(m,) rows of the atlas, ascending."""
    n_obs: int
    n_strata: int
    """Combinations of batch and label that have cells."""
    seed: int

    def in_words(self, stratum: str) -> str:
        """Return how many of how many cells there are, and how they were drawn from strata so called."""
        if len(self.rows) == self.n_obs:
            return f"All {self.n_obs:,} cells"
        return (
            f"{len(self.rows):,} of {self.n_obs:,} cells, drawn at random (seed {self.seed}) from each of "
            f"{self.n_strata:,} {stratum} in proportion to its cells, at least one of each"
        )


def draw_cells(batch_codes: Codes, label_codes: Codes, max_cells: int, seed: int) -> DrawnCells:
    """Return the cells to draw: all, or some of every combination of batch and label.

    Parameters
    ----------
    batch_codes, label_codes
        (n_obs,) codes; negative ones are a level of their own.
    max_cells
        How many at most; as many as there are combinations if these are more.
    seed
        Of the draw.

    Raises
    ------
    ConfigError
        If `max_cells` is below 1.
    """
    check_at_least("max_cells", max_cells, 1)
    n = len(batch_codes)
    n_labels = int(label_codes.max(initial=0)) + 2
    pairs = (batch_codes.astype(np.int64) + 1) * n_labels + label_codes + 1
    _, strata, sizes = np.unique(pairs, return_inverse=True, return_counts=True)
    if n <= max_cells:
        return DrawnCells(np.arange(n), n, len(sizes), seed)
    wanted = _shares(sizes, max(max_cells, len(sizes)))
    # Within each stratum in random order; its first cells are taken.
    order = generator(seed, Purpose.UMAP, 3).permutation(n)
    order = order[np.argsort(strata[order], kind="stable")]
    place = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = np.sort(order[place < np.repeat(wanted, sizes)])
    return DrawnCells(rows, n, len(sizes), seed)


def _shares(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Return how many cells each stratum gives: one, and its share of what is left."""
    rest = sizes - 1
    exact = rest * ((total - len(sizes)) / max(1, int(rest.sum())))
    whole = np.floor(exact).astype(np.int64)
    missing = total - len(sizes) - int(whole.sum())
    # Those with the largest remainders get one more.
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole + 1

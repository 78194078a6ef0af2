"""Which cells and batches the what-if viewer of a run shows, so that they fit into a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.report.viewer_data import BYTES_OF_NUMBER
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.models.network import DataSummary

    Rows = NDArray[np.int64]

__all__ = ["Extent", "choose_batches", "choose_test_cells", "extent_for", "notes_on"]

MOST_TARGETS = 24
"""More would be no choice but a search."""
FEWEST_TARGETS = 8
FEWER_INTERVALS = 200
"""Genes with an interval, per cell and target, where those of all genes do not fit."""
_BYTES_OF_SPARSE_INTERVAL = 14


class Extent(NamedTuple):
    """How much is shown."""

    n_labels: int
    cells_per_label: int
    n_batches: int
    """Targets, beside the population."""
    n_intervals: int
    """Genes with an interval, per cell and target."""

    def n_bytes(self, n_genes: int) -> float:
        """Return about how much the packed numbers take."""
        n_cells = self.n_labels * self.cells_per_label
        n_projections = n_cells * (self.n_batches + 1)
        numbers = (2 * n_cells + n_projections) * n_genes * BYTES_OF_NUMBER
        if self.n_intervals < n_genes:
            return numbers + n_projections * self.n_intervals * _BYTES_OF_SPARSE_INTERVAL
        return numbers + 2 * n_projections * n_genes * BYTES_OF_NUMBER


def extent_for(
    n_labels: int, cells_per_label: int, n_batches: int, n_genes: int, max_bytes: int
) -> Extent:
    """Return how much can be shown, giving up first what matters least.

    First fewer cells of each label, down to two; then intervals of the genes that move most alone;
    then fewer batches, down to `FEWEST_TARGETS`; then the second cell; last of all labels.

    Raises
    ------
    ConfigError
        If not even that fits into `max_bytes`.
    """
    pair = min(2, cells_per_label)
    most = min(n_batches, MOST_TARGETS)
    fewest = min(most, FEWEST_TARGETS)
    few = min(n_genes, FEWER_INTERVALS)
    steps = [
        *((n_labels, cells, most, n_genes) for cells in range(cells_per_label, pair - 1, -1)),
        *((n_labels, pair, n, few) for n in range(most, fewest - 1, -1)),
        *((n_labels, 1, n, few) for n in range(most, fewest - 1, -1)),
        *((n, 1, fewest, few) for n in range(n_labels - 1, 0, -1)),
    ]
    for step in steps:
        extent = Extent(*step)
        if extent.n_bytes(n_genes) <= max_bytes:
            return extent
    raise ConfigError(
        f"The what-if viewer needs {Extent(*steps[-1]).n_bytes(n_genes):,.0f} bytes for one cell and "
        f"{fewest} batches of {n_genes:,} genes; max_bytes is {max_bytes:,}. Allow more."
    )


def choose_test_cells(
    label_codes: NDArray[np.int32],
    batch_codes: NDArray[np.int32],
    chosen: Sequence[int],
    cells_per_label: int,
    seed: int,
) -> Rows:
    """Draw cells of some labels, each label's from as many batches as can be.

    Parameters
    ----------
    label_codes, batch_codes
        (m,) of the cells to draw from.
    chosen
        Labels; what is drawn of one does not depend on the others.
    cells_per_label
        Cells of each, at most.
    seed
        The same seed draws the same cells.

    Returns
    -------
    Positions among the m cells, those of one label beside each other.
    """
    drawn = []
    for label in chosen:
        rng = generator(seed, Purpose.VIEWER_CELLS, label + 1)
        cells = rng.permutation(np.flatnonzero(label_codes == label))
        # The first of each batch, in the order drawn; only then second ones.
        first = np.sort(np.unique(batch_codes[cells], return_index=True)[1])
        rest = np.delete(np.arange(len(cells)), first)
        drawn.append(cells[np.concatenate([first, rest])[:cells_per_label]])
    return np.concatenate(drawn).astype(np.int64)


def choose_batches(summary: DataSummary, n: int) -> NDArray[np.int32]:
    """Return the codes of n batches in ascending order: half of them the largest, half the most distant.

    Distance is that of a batch's mean expression from the mean over all cells, in s.d. of the genes.
    """
    n_batches = summary.n_batches
    if n >= n_batches:
        return np.arange(n_batches, dtype=np.int32)
    sd = np.where(summary.sd > 0, summary.sd, np.inf)
    distance = np.square((summary.batch_mean - summary.mean) / sd).sum(axis=1)
    # A batch without train cells has no mean.
    distance[summary.batch_n == 0] = -1.0
    largest = np.argsort(-summary.batch_n, kind="stable")[: n - n // 2]
    others = np.setdiff1d(np.argsort(-distance, kind="stable"), largest, assume_unique=True)
    return np.sort(np.concatenate([largest, others[: n // 2]])).astype(np.int32)


def notes_on(extent: Extent, n_labels: int, n_batches: int, n_genes: int) -> tuple[str, ...]:
    """Return in sentences what is shown, and what is left out by what rule."""
    drawn = (
        "Cells are drawn at random from the test split, which the model did not learn from: up to "
        f"{extent.cells_per_label} of each type, from different batches where there are several."
    )
    notes = [drawn]
    if extent.n_labels < n_labels:
        notes.append(
            f"To keep the page small, the {extent.n_labels} of {n_labels} types with most test cells "
            "are shown."
        )
    if extent.n_batches < n_batches:
        notes.append(
            f"To keep the page small, {extent.n_batches} of {n_batches:,} batches can be chosen: half of "
            "them the largest, half those whose mean expression lies farthest from that of all cells."
        )
    if extent.n_intervals < n_genes:
        notes.append(
            f"To keep the page small, intervals are given for the {extent.n_intervals} genes that move "
            "most in a cell and batch; the others have none."
        )
    return tuple(notes)

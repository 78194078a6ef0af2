"""The sketch of an atlas: how cells of each type and batch would look had they come from another.

A sketch holds, per cell type, source batch and target batch, the mean and the variance of the
as-if expression, log-normalised, and the number of cells. It is made in one pass over the latents
and answers questions on batches without decoding a cell again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medl_scale.errors import DataError
from medl_scale.interpret.dendrogram import Dendrogram, dendrogram
from medl_scale.interpret.sketch_files import read_axes, read_moments
from medl_scale.store.choices import no_such

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Sketch"]

LEAST_CELLS = 10
"""Batches with fewer cells of a type do not take part in its distances."""


class Sketch:
    """A sketch on disk; its moments are read when they are asked for.

    Parameters
    ----------
    path
        What `interpret.sketching.make_sketch` wrote.

    Raises
    ------
    RunError
        If there is no sketch.
    StoreError
        If files of it are missing or too short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.axes = read_axes(self.path)

    def __repr__(self) -> str:
        n_labels, n_sources, n_targets, n_genes = self.axes.shape
        return (
            f"Sketch({str(self.path)!r}: {int(self.axes.n_cells.sum()):,} cells; {n_labels} types x "
            f"{n_sources} source x {n_targets} target batches x {n_genes:,} genes)"
        )

    @property
    def n_cells(self) -> pd.DataFrame:
        """Cells of each type (rows) in each source batch (columns)."""
        return pd.DataFrame(self.axes.n_cells, list(self.axes.labels), list(self.axes.sources))

    def moments(self, label: str, source: str, target: str) -> pd.DataFrame:
        """Return how cells of a type from one batch would look had they come from another.

        Returns
        -------
        By gene: `mean` and `variance` between these cells, log-normalised. With `target` their own
        batch it is the reconstruction.

        Raises
        ------
        DataError
            If there is no such type or batch (those there are get listed), or no such cell.
        """
        place, own = self._label(label), self._present_source(label, source)
        mean, variance = self._moments(place, [own], [self._target(target)])
        return pd.DataFrame({"mean": mean[0], "variance": variance[0]}, list(self.axes.genes))

    def moved_genes(
        self,
        label: str,
        from_batch: str,
        to_batch: str,
        *,
        all_sources: bool = False,
        top: int | None = None,
    ) -> pd.DataFrame:
        """Return what moving from one batch to another changes in a cell type.

        Parameters
        ----------
        label
            A cell type.
        from_batch, to_batch
            The batches. The type's cells of `from_batch` are decoded under both.
        all_sources
            Decode the type's cells of every batch under both instead, batches weighing equally:
            for a type that `from_batch` lacks, or to compare pairs of batches on the same cells.
        top
            Genes to return, those that move most; all by default.

        Returns
        -------
        By gene, the one that moves most first: `shift_in_sd`, the change of the mean in units of
        the gene's s.d. in the train split; `shift`, `mean_from` and `mean_to`, log-normalised;
        `sd_from` and `sd_to`, between the decoded cells (noise is not part of it).

        Raises
        ------
        DataError
            If there is no such type or batch, or no cell to move.
        """
        place = self._label(label)
        if all_sources:
            sources = self._sources(place, 1)
        else:
            sources = [self._present_source(label, from_batch)]
        both = [self._target(from_batch), self._target(to_batch)]
        mean, variance = self._moments(place, sources, both)
        shift = mean[1] - mean[0]
        table = pd.DataFrame(
            {
                "shift_in_sd": shift / self.axes.gene_sd,
                "shift": shift,
                "mean_from": mean[0],
                "mean_to": mean[1],
                "sd_from": np.sqrt(variance[0]),
                "sd_to": np.sqrt(variance[1]),
            },
            pd.Index(self.axes.genes, name="gene"),
        )
        order = np.argsort(-table["shift_in_sd"].abs().to_numpy(), kind="stable")
        return table.iloc[order[:top]]

    def distances(self, label: str | None = None, *, min_cells: int = LEAST_CELLS) -> pd.DataFrame:
        """Return how differently the same cells look under every two target batches.

        Parameters
        ----------
        label
            A cell type; by default all, the root mean square over types.
        min_cells
            Source batches with fewer cells of a type take no part in it.

        Returns
        -------
        (n_targets, n_targets): the root mean square over source batches and genes of the difference
        of means, each gene in units of its s.d. in the train split. Source batches weigh equally,
        however many cells they have.

        Raises
        ------
        DataError
            If there is no such type, or no batch with enough cells of it.
        """
        if label is None:
            enough = (self.axes.n_cells >= min_cells).any(axis=1)
            places = np.flatnonzero(enough).tolist()
            if not places:
                raise DataError(
                    f"No type has {min_cells} cells in any batch of {self.path}; the most are "
                    f"{int(self.axes.n_cells.max())}. Lower min_cells."
                )
        else:
            places = [self._label(label)]
        squares = np.mean([self._squared_distances(place, min_cells) for place in places], axis=0)
        names = list(self.axes.targets)
        return pd.DataFrame(np.sqrt(squares), names, names)

    def dendrogram(self, label: str | None = None, *, min_cells: int = LEAST_CELLS) -> Dendrogram:
        """Return the batches joined by their distances in a cell type; see `distances`.

        `sketch.dendrogram("T").strata(3)` divides the batches into three.
        """
        return dendrogram(self.distances(label, min_cells=min_cells))

    def _squared_distances(self, label: int, min_cells: int) -> NDArray[np.float64]:
        """Return (n_targets, n_targets) mean squares over sources and genes of one type."""
        sources = self._sources(label, min_cells)
        _, _, n_targets, n_genes = self.axes.shape
        total = np.zeros((n_targets, n_targets))
        for source in sources:
            mean = read_moments(self.path, "mean", label, source).astype(np.float64)
            mean /= self.axes.gene_sd
            # Batches differ by little beside what their genes differ by: take the difference first.
            mean -= mean.mean(axis=0)
            norms = np.square(mean).sum(axis=1)
            total += norms[:, None] + norms - 2.0 * (mean @ mean.T)
        total = np.maximum(total + total.T, 0.0) / (2 * len(sources) * n_genes)
        np.fill_diagonal(total, 0.0)
        return total

    def _moments(
        self, label: int, sources: Sequence[int], targets: list[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (len(targets), n_genes) mean and variance over source batches that weigh equally."""
        shape = len(targets), len(self.axes.genes)
        first, second, within = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for n, source in enumerate(sources, start=1):
            mean = read_moments(self.path, "mean", label, source)[targets].astype(np.float64)
            within += read_moments(self.path, "variance", label, source)[targets]
            # Welford's update: `second` sums the squared deviations of the sources' means.
            deviation = mean - first
            first += deviation / n
            second += deviation * (mean - first)
        return first, (within + second) / len(sources)

    def _label(self, label: str) -> int:
        """Return the place of a cell type."""
        return self._place("cell type", label, self.axes.labels, "label")

    def _target(self, batch: str) -> int:
        """Return the place of a target batch."""
        return self._place("target batch", batch, self.axes.targets, "to_batch")

    def _place(self, what: str, name: str, names: tuple[str, ...], option: str) -> int:
        """Return where a name stands."""
        if name not in names:
            raise no_such(what, name, list(names), f"The sketch {self.path}", option)
        return names.index(name)

    def _present_source(self, label: str, batch: str) -> int:
        """Return the place of a source batch that has cells of a type."""
        source = self._place("source batch", batch, self.axes.sources, "from_batch")
        counts = self.axes.n_cells[self._label(label)]
        if not counts[source]:
            listed = ", ".join(repr(self.axes.sources[i]) for i in np.flatnonzero(counts))
            raise DataError(
                f"The batch {batch!r} has no cell of type {label!r}. Batches that have: {listed}. "
                "Choose one of these, or decode the cells of all batches (all_sources=True)."
            )
        return source

    def _sources(self, label: int, min_cells: int) -> list[int]:
        """Return the source batches with enough cells of a type."""
        counts = self.axes.n_cells[label]
        found: list[int] = np.flatnonzero(counts >= max(1, min_cells)).tolist()
        if not found:
            raise DataError(
                f"Type {self.axes.labels[label]!r} needs {min_cells} cells in one batch or more; the "
                f"most are {int(counts.max())}. Lower min_cells, or choose another type."
            )
        return found

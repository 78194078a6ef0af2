"""All figures of one latent, one after another, each with its error.

Forests are left to `classification`: they compare latents with each other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np

from medl_scale.config import METRIC_GROUPS
from medl_scale.errors import ScoreUndefinedError
from medl_scale.evaluate.agreement import ari, cluster_by_kmeans, nmi
from medl_scale.evaluate.backend import on_chosen
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.budget import Budget, OutOfTimeError
from medl_scale.evaluate.inputs import check_n_labels, encode_labels
from medl_scale.evaluate.neighbours.connectivity import graph_connectivity
from medl_scale.evaluate.neighbours.kbet import kbet
from medl_scale.evaluate.neighbours.kbet_per_label import kbet_per_label
from medl_scale.evaluate.neighbours.lisi import (
    clisi,
    ilisi,
    lisi_of_latent,
    scale_clisi,
    scale_ilisi,
)
from medl_scale.evaluate.neighbours.neighbours import (
    CONNECTIVITY_NEIGHBOURS,
    KBET_NEIGHBOURS,
    LISI_NEIGHBOURS,
    Neighbours,
    nearest_neighbours,
)
from medl_scale.evaluate.neighbours.search import search_seconds
from medl_scale.evaluate.separation import calinski_harabasz, inverse_davies_bouldin
from medl_scale.evaluate.silhouettes.silhouette import silhouette_score
from medl_scale.evaluate.silhouettes.silhouette_batch import bras, silhouette_batch
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from medl_scale.config import Backend
    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.score import Score

    type Figures = dict[tuple[str, Of], Callable[[], Score]]

__all__ = ["PAPER_CELLS", "Cells", "Figure", "Options", "score_latent"]

Of = Literal["batch", "label"]
PAPER_CELLS = 10_000
"""Cells that the papers score."""
_MOST_KEPT = 1_000_000
"""Beyond so many cells LISI lets its neighbours go block by block: they are a kilobyte a cell."""
_MOST_SPECTRAL = 50_000
_SHARED = 10.0
"""Figures that neighbours serve, and may take the time of."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How figures are made."""

    metrics: frozenset[str]
    tol: float | None = None
    confidence: float = 0.99
    seed: int = 0
    backend: Backend = "auto"
    map_blocks: BlockMap = map_here
    with_paper: bool = False
    """Add the papers' figures of 10,000 cells drawn at random."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one latent."""

    latent: NDArray[Any]
    """(n, d)."""
    batches: NDArray[np.integer] | None
    """(n,) codes, or None."""
    labels: NDArray[np.integer] | None
    """(n,) codes, or None."""
    is_labelled: NDArray[np.bool_]
    """(n,) cells that figures of labels are about."""

    def some(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Cells:
        """Return some of the cells."""
        return Cells(
            self.latent[rows],
            None if self.batches is None else self.batches[rows],
            None if self.labels is None else self.labels[rows],
            self.is_labelled[rows],
        )


@dataclass(frozen=True)
class Figure:
    """One figure of a latent, or else why there is none."""

    metric: str
    of: Of
    """What its groups are; figures of both batch and label say `batch`."""
    score: Score | None
    reason: str = ""


def score_latent(cells: Cells, options: Options, budget: Budget) -> Iterator[Figure]:
    """Yield the figures of one latent.

    Figures of batches are about all cells, those with labels about the labelled ones.

    Parameters
    ----------
    cells
        Without batches or labels, the figures that need them are left out.
    options
        Which figures, and how exactly.
    budget
        Seconds they may take.

    Raises
    ------
    DataError
        If the latent has NaN or infinite values.
    """
    battery = _Battery(cells, options, budget)
    figures = battery.figures()
    wanted = {key: make for key, make in figures.items() if key[0] in options.metrics}
    if options.with_paper:
        wanted |= battery.paper_figures()
    for (metric, of), make in wanted.items():
        try:
            yield Figure(metric, of, make())
        except ScoreUndefinedError as error:
            yield Figure(metric, of, None, f"undefined: {error}")
        except OutOfTimeError as error:
            yield Figure(metric, of, None, f"left out: {error}")
        budget.count_one()


@dataclass(eq=False)
class _Battery:
    """Figures of one latent that share their neighbours and silhouettes."""

    cells: Cells
    options: Options
    budget: Budget
    _silhouettes: dict[Of, Score] = field(default_factory=dict)
    _lisis: dict[Of, Score] = field(default_factory=dict)

    @cached_property
    def labelled(self) -> Cells:
        """The cells that have a label."""
        every = self.cells.is_labelled.all()
        return self.cells if every else self.cells.some(self.cells.is_labelled)

    @cached_property
    def neighbours(self) -> Neighbours:
        """Neighbours among all cells."""
        return self._neighbours_in(self.cells)

    @cached_property
    def labelled_neighbours(self) -> Neighbours:
        """Neighbours among the labelled cells."""
        same = self.labelled is self.cells
        return self.neighbours if same else self._neighbours_in(self.labelled)

    @cached_property
    def clusters(self) -> NDArray[np.int32]:
        """k-means clusters of the labelled cells, as many as labels."""
        n_labels = len(np.unique(self._groups("label")[1]))
        return cluster_by_kmeans(self.labelled.latent, n_labels, self.options.seed)

    def figures(self) -> Figures:
        """Return how every figure is made, in the order of the table."""
        made: Figures = {}
        has_batches = self.cells.batches is not None
        has_labels = self.labelled.labels is not None and len(self.labelled.latent) > 0
        if has_labels:
            made |= {
                ("silhouette_label", "label"): self._silhouette_label,
                ("nmi", "label"): lambda: self._of_clusters(nmi),
                ("ari", "label"): lambda: self._of_clusters(ari),
                ("graph_connectivity", "label"): self._graph_connectivity,
                ("clisi_knn", "label"): self._clisi_knn,
            }
        if has_batches:
            made["ilisi_knn", "batch"] = self._ilisi_knn
        if has_batches and has_labels:
            made |= {
                ("silhouette_batch", "batch"): self._silhouette_batch,
                ("bras", "batch"): self._bras,
                ("kbet", "batch"): self._kbet,
                ("kbet_per_label", "batch"): self._kbet_per_label,
            }
        if has_labels:
            made |= self._published("label")
            made["cLISI", "label"] = lambda: self._lisi("label")
        if has_batches:
            made |= self._published("batch")
            made["iLISI", "batch"] = lambda: self._lisi("batch")
        return made

    def paper_figures(self) -> Figures:
        """Return how the papers' figures of 10,000 cells are made, under names of their own."""
        n = len(self.cells.latent)
        if n <= PAPER_CELLS:
            drawn = np.arange(n)
        else:
            random = generator(self.options.seed, Purpose.PROTOCOL_SAMPLE)
            drawn = np.sort(random.choice(n, PAPER_CELLS, replace=False))
        sample = _Battery(self.cells.some(drawn), self.options, self.budget)
        return {
            (f"{metric} of {len(drawn)} cells", of): _as_drawn(make, n)
            for (metric, of), make in sample.figures().items()
            if metric in METRIC_GROUPS["published"]
        }

    def _published(self, of: Of) -> Figures:
        """Return the papers' figures of one grouping."""

        def from_moments(metric: Callable[..., Score]) -> Score:
            cells, groups = self._groups(of)
            return metric(cells.latent, groups, map_blocks=self.options.map_blocks)

        return {
            ("ASW", of): lambda: self._silhouette(of),
            ("CH", of): lambda: from_moments(calinski_harabasz),
            ("1/DB", of): lambda: from_moments(inverse_davies_bouldin),
        }

    def _silhouette(self, of: Of) -> Score:
        """Return the mean silhouette of one grouping, computed once."""
        if of not in self._silhouettes:
            cells, groups = self._groups(of)
            found = silhouette_score(cells.latent, groups, **self._silhouette_options())
            self._silhouettes[of] = found
        return self._silhouettes[of]

    def _silhouette_label(self) -> Score:
        """Return scib-metrics' silhouette of labels: the mean one, from 0 to 1."""
        found = self._silhouette("label")
        return replace(found, value=(found.value + 1.0) / 2.0, error=found.error / 2.0)

    def _silhouette_batch(self) -> Score:
        """Return scib-metrics' silhouette of batches within labels."""
        return silhouette_batch(*self._labels_and_batches(), **self._silhouette_options())

    def _bras(self) -> Score:
        """Return the batch-removal-adapted silhouette."""
        return bras(*self._labels_and_batches(), map_blocks=self.options.map_blocks)

    def _lisi(self, of: Of) -> Score:
        """Return the median LISI of batches or labels, computed once."""
        if of not in self._lisis:
            cells, groups = self._groups(of)
            if len(cells.latent) > _MOST_KEPT:
                self._check_time(cells)
                found = lisi_of_latent(
                    cells.latent,
                    {of: groups},
                    n_neighbours=LISI_NEIGHBOURS,
                    seed=self.options.seed,
                    map_blocks=self.options.map_blocks,
                )
                self._lisis[of] = found[of]
            elif of == "batch":
                self._lisis[of] = ilisi(self.neighbours, groups)
            else:
                self._lisis[of] = clisi(self.labelled_neighbours, groups)
        return self._lisis[of]

    def _ilisi_knn(self) -> Score:
        """Return scib-metrics' iLISI."""
        return scale_ilisi(self._lisi("batch"), len(np.unique(self._groups("batch")[1])))

    def _clisi_knn(self) -> Score:
        """Return scib-metrics' cLISI."""
        return scale_clisi(self._lisi("label"), len(np.unique(self._groups("label")[1])))

    def _kbet(self) -> Score:
        """Return kBET among all labelled cells."""
        _, _, batches = self._labels_and_batches()
        return kbet(self.labelled_neighbours.first(KBET_NEIGHBOURS), batches)

    def _kbet_per_label(self) -> Score:
        """Return kBET per label, unless there is little time: it takes a spectrum of every label."""
        latent, labels, batches = self._labels_and_batches()
        if len(latent) > _MOST_SPECTRAL and self.budget.share() is not None:
            raise OutOfTimeError(
                f"it takes long for {len(latent):,} cells; ask for it without --max-seconds"
            )
        return kbet_per_label(self.labelled_neighbours.first(KBET_NEIGHBOURS), batches, labels)

    def _graph_connectivity(self) -> Score:
        """Return how far the cells of each label hang together."""
        _, labels = self._groups("label")
        return graph_connectivity(self.labelled_neighbours.first(CONNECTIVITY_NEIGHBOURS), labels)

    def _of_clusters(self, agreement: Callable[..., Score]) -> Score:
        """Return how far k-means clusters agree with the labels."""
        started = time.perf_counter()
        clusters = self.clusters
        _, labels = self._groups("label")
        found = agreement(labels, clusters, map_blocks=self.options.map_blocks)
        method = f"k-means, {len(np.unique(clusters))} clusters, seed {self.options.seed}"
        return replace(found, method=method, seconds=time.perf_counter() - started)

    def _groups(self, of: Of) -> tuple[Cells, NDArray[np.integer]]:
        """Return the cells that figures of batches or labels are about, and the groups.

        Raises
        ------
        ScoreUndefinedError
            If there are fewer than two groups, or as many as cells.
        """
        cells = self.cells if of == "batch" else self.labelled
        groups = cells.batches if of == "batch" else cells.labels
        if groups is None:
            raise ScoreUndefinedError(f"there is no {of}")
        check_n_labels(encode_labels(groups, len(groups), name=of), name=of)
        return cells, groups

    def _labels_and_batches(
        self,
    ) -> tuple[NDArray[Any], NDArray[np.integer], NDArray[np.integer]]:
        """Return latent, labels and batches of the labelled cells."""
        _, labels = self._groups("label")
        if self.labelled.batches is None:
            raise ScoreUndefinedError("there is no batch")
        return self.labelled.latent, labels, self.labelled.batches

    def _silhouette_options(self) -> Mapping[str, Any]:
        """Return the options of a silhouette."""
        return {
            "tol": self.options.tol,
            "confidence": self.options.confidence,
            "max_seconds": self.budget.share(),
            "backend": self.options.backend,
            "seed": self.options.seed,
            "map_blocks": self.options.map_blocks,
        }

    def _check_time(self, cells: Cells) -> None:
        """Raise unless there is time to find the neighbours of cells."""
        n, d = cells.latent.shape
        expected = search_seconds(n, d, numba.get_num_threads())
        allowed = self.budget.share(_SHARED)
        if allowed is not None and expected > allowed:
            raise OutOfTimeError(
                f"the neighbours of {n:,} cells take about {expected:,.0f} s, and {allowed:,.0f} s are "
                "left for them; allow more with --max-seconds"
            )

    def _neighbours_in(self, cells: Cells) -> Neighbours:
        """Return as many neighbours of every cell as figures need that are made from kept ones."""
        self._check_time(cells)
        options = self.options
        kept = KBET_NEIGHBOURS if len(cells.latent) > _MOST_KEPT else LISI_NEIGHBOURS

        def on_gpu() -> Neighbours:
            from medl_scale.evaluate.gpu.neighbours import gpu_nearest_neighbours

            return gpu_nearest_neighbours(cells.latent, kept, seed=options.seed)

        def on_cpu() -> Neighbours:
            return nearest_neighbours(
                cells.latent, kept, seed=options.seed, map_blocks=options.map_blocks
            )

        return on_chosen(
            on_gpu, on_cpu, asked=options.backend, what="nearest neighbours", library="cuml"
        )


def _as_drawn(make: Callable[[], Score], n: int) -> Callable[[], Score]:
    """Return the figure of a draw, which says that it is one."""

    def made() -> Score:
        found = make()
        return replace(
            found, method=f"{found.method}; {found.n:,} of {n:,} cells, the papers' protocol"
        )

    return made

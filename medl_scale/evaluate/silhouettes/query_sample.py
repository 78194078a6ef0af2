"""Cells whose silhouettes are summed exactly, to learn what guesses miss."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.evaluate.blocks import row_blocks
from medl_scale.evaluate.silhouettes.pruned import silhouettes_of
from medl_scale.evaluate.silhouettes.strata import Design, cut_by_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.silhouettes.exact import ExactResult
    from medl_scale.evaluate.silhouettes.layout import Clusters
    from medl_scale.evaluate.silhouettes.subclusters import SubClusters

__all__ = ["QuerySample"]

_N_STRATA = 5
_PILOT_CELLS = 1_000
_QUERY_ROWS = 2_048
_VALUE_ROWS = 65_536


class QuerySample:
    """Cells drawn so far: a pilot that fits the guesses, then draws that measure what they miss.

    Parameters
    ----------
    clusters, sub
        The cells.
    guesses
        (n, 4) two guesses, a lower and an upper bound of each silhouette.
    rng
        Draws the cells.
    map_blocks
        Who sums.
    absolute
        Whether guesses are of absolute values.
    """

    def __init__(
        self,
        clusters: Clusters,
        sub: SubClusters,
        guesses: NDArray[np.float32],
        rng: np.random.Generator,
        map_blocks: BlockMap,
        *,
        absolute: bool,
    ) -> None:
        self._shared, self._map_blocks, self._absolute = (clusters, sub), map_blocks, absolute
        self._seconds, self.rounding = 0.0, 0.0
        self.n_summed = 0
        lower, upper = guesses[:, 2], guesses[:, 3]
        strata = [rng.permutation(cells) for cells in cut_by_bound(upper - lower, _N_STRATA)]
        pilot = [cells[: _PILOT_CELLS // len(strata)] for cells in strata]
        weights = [np.full(len(p), len(c) / len(p)) for p, c in zip(pilot, strata, strict=True)]
        rows = np.concatenate(pilot)
        exact, errors = self._sum(rows)

        self.values = _fitted(guesses, rows, exact, np.concatenate(weights))
        self.bounds = np.maximum(self.values - lower, upper - self.values)
        self._reaches = np.array([np.sqrt(np.mean(self.bounds[c] ** 2)) for c in strata])
        self._residuals = self._learn(pilot, exact, errors)
        self._cells = [cells[len(p) :] for p, cells in zip(pilot, strata, strict=True)]
        self._sizes = np.array([len(cells) for cells in self._cells], np.int64)
        self.drawn = np.zeros(len(strata), np.int64)

    @property
    def n_left(self) -> int:
        """Cells of unknown silhouette."""
        return int((self._sizes - self.drawn).sum())

    @property
    def seconds_each(self) -> float:
        """Seconds that an exact silhouette takes."""
        return self._seconds / self.n_summed

    def design(self) -> Design:
        """Return what is known of the cells beside the pilot; before any draw, by the pilot."""
        spreads = [float(np.std(r, ddof=1)) if len(r) > 1 else 0.0 for r in self._residuals]
        sizes = self._sizes.astype(np.float64)
        return Design(sizes, sizes / len(self.values), np.array(spreads), self._reaches)

    def draw_up_to(self, wanted: NDArray[np.int64]) -> None:
        """Draw until each stratum has the draws that are wanted, or none of its cells is left."""
        wanted = np.maximum(np.minimum(wanted, self._sizes), self.drawn)
        new = [
            cells[have:want]
            for cells, have, want in zip(self._cells, self.drawn, wanted, strict=True)
        ]
        found = self._learn(new, *self._sum(np.concatenate(new)))
        if self.drawn.any():
            found = [np.append(a, b) for a, b in zip(self._residuals, found, strict=True)]
        self._residuals, self.drawn = found, wanted

    def mean(self) -> float:
        """Return the mean silhouette: all values as known, and what guesses of the rest miss."""
        total = float(self.values.sum())
        for size, residuals in zip(self._sizes - self.drawn, self._residuals, strict=True):
            if size:
                total += float(size * residuals.mean())
        return total / len(self.values)

    def _sum(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return exact silhouettes of some cells, in their order, and bounds on their rounding."""
        started = time.perf_counter()
        order = np.argsort(rows, kind="stable")
        values, errors = np.empty(len(rows)), np.empty(len(rows))
        blocks = [order[part] for part in row_blocks(len(rows), _QUERY_ROWS)]
        items = [rows[block] for block in blocks]
        for block, found in zip(blocks, self._map_blocks(_exact, self._shared, items), strict=True):
            values[block], errors[block] = found.values, found.errors
        if self._absolute:
            np.abs(values, out=values)
        self.n_summed += len(rows)
        self._seconds += time.perf_counter() - started
        self.rounding = max(self.rounding, float(errors.max(initial=0.0)))
        return values, errors

    def _learn(
        self,
        cells: list[NDArray[np.int64]],
        values: NDArray[np.float64],
        errors: NDArray[np.float64],
    ) -> list[NDArray[np.float64]]:
        """Put exact values in the place of guesses; return, by stratum, what these missed."""
        rows = np.concatenate(cells)
        missed = values - self.values[rows]
        self.values[rows], self.bounds[rows] = values, errors
        return np.split(missed, np.cumsum([len(part) for part in cells])[:-1])


def _exact(shared: tuple[Clusters, SubClusters], rows: NDArray[np.int64]) -> ExactResult:
    """Return exact silhouettes of some cells."""
    clusters, sub = shared
    return silhouettes_of(rows, clusters, sub)


def _fitted(
    guesses: NDArray[np.float32],
    rows: NDArray[np.int64],
    exact: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the combination of guesses that is nearest to some exact values, within the bounds."""

    def terms(some: NDArray[np.float32]) -> NDArray[np.float64]:
        middle = (some[:, 2] + some[:, 3]) / 2
        return np.stack([np.ones(len(some)), some[:, 0], some[:, 1], middle], axis=1)

    root = np.sqrt(weights)
    factors = np.linalg.lstsq(terms(guesses[rows]) * root[:, None], exact * root, rcond=None)[0]
    values = np.empty(len(guesses))
    for block in row_blocks(len(guesses), _VALUE_ROWS):
        some = guesses[block]
        # Term by term: how a matrix product is summed depends on threads.
        sums = (terms(some) * factors).sum(axis=1)
        values[block] = np.clip(sums, some[:, 2], some[:, 3])
    return values

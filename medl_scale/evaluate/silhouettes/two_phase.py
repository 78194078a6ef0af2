"""The mean silhouette of very many cells, estimated with a confidence interval.

All cells get a guess of their silhouette and proven bounds, from sub-clusters and without sums over
cells. Exact silhouettes of sampled cells, against all cells, then say how far the guesses are off on
average. The estimate is unbiased whatever the guesses are: nothing is estimated from a sample of the
cells that distances go to, which would bias the minimum over labels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.evaluate.blocks import map_here, row_blocks
from medl_scale.evaluate.silhouettes.query_sample import QuerySample
from medl_scale.evaluate.silhouettes.subclusters import (
    SubClusters,
    build_subclusters,
    silhouette_bounds,
)
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.score import Kind
    from medl_scale.evaluate.silhouettes.layout import Clusters

__all__ = ["TwoPhaseResult", "check_wanted", "two_phase"]

_GUESS_ROWS = 32_768
_MOST_GROWTH = 4
"""A round of draws is at most so many times what was drawn before: its speed is known from there."""
_LEAST_ROUND = 64
"""Draws that are worth a round."""


@dataclass(frozen=True, eq=False)
class TwoPhaseResult:
    """An estimated mean silhouette, and a guess for every cell in sorted order."""

    value: float
    """Mean silhouette."""
    half_width: float
    """Around `value`, at the confidence asked for; proven where `n_queries` is 0."""
    values: NDArray[np.float64]
    """(n,) guess of each silhouette; exact for sampled cells."""
    bounds: NDArray[np.float64]
    """(n,) proven bound on the error of each guess."""
    n_queries: int
    """Cells whose silhouette was summed exactly."""
    limit: Literal["tolerance", "time", "cells"]
    """What ended the sampling: the tolerance or the time was reached, or no cell was left."""

    @property
    def kind(self) -> Kind:
        """What `half_width` promises."""
        if not self.n_queries:
            return "certified"
        return "exact" if self.limit == "cells" else "confidence"

    @property
    def method(self) -> str:
        """In words."""
        if not self.n_queries:
            return "two_phase (bounds alone)"
        ends = {"tolerance": "", "time": ", time was up", "cells": ", all cells"}
        return f"two_phase ({self.n_queries:,} exact queries{ends[self.limit]})"


def two_phase(
    clusters: Clusters,
    *,
    tol: float = 1e-4,
    confidence: float = 0.99,
    max_seconds: float | None = None,
    seed: int = 0,
    subclusters: SubClusters | None = None,
    absolute: bool = False,
    map_blocks: BlockMap = map_here,
) -> TwoPhaseResult:
    """Estimate the mean silhouette to within `tol`.

    Parameters
    ----------
    clusters
        The cells.
    tol
        Half-width wanted, > 0.
    confidence
        Level of the interval, between 0 and 1.
    max_seconds
        Sampling ends about then, whatever was reached; guesses and a pilot sample are always made.
        None waits for `tol`.
    seed
        The user's seed.
    subclusters
        Those of `clusters`, if they are there already.
    absolute
        Whether the mean of absolute values is wanted.
    map_blocks
        Who does the work.

    Raises
    ------
    ConfigError
        If `tol`, `confidence` or `max_seconds` is out of range.

    Notes
    -----
    A pilot sample fits a linear combination of guesses, which is cut to the proven bounds of each
    cell. Cells are then drawn anew, without replacement, from strata of like bounds, and the mean
    of exact values minus guesses is added: given the pilot, the estimate is unbiased.
    """
    started = time.perf_counter()
    check_wanted(tol, confidence, max_seconds)
    sub = build_subclusters(clusters, seed=seed) if subclusters is None else subclusters
    guesses = np.empty((clusters.n, 4), np.float32)
    blocks = row_blocks(clusters.n, _GUESS_ROWS)
    for rows, found in zip(blocks, map_blocks(_guess, (clusters, sub), blocks), strict=True):
        guesses[rows] = _absolute(found) if absolute else found
    proven = _proven(guesses)
    if proven.half_width <= tol:
        return proven

    rng = generator(seed, Purpose.QUERY_SAMPLE)
    sample = QuerySample(clusters, sub, guesses, rng, map_blocks, absolute=absolute)
    limit: Literal["tolerance", "time", "cells"] | None = None
    while limit is None:
        design, drawn = sample.design(), sample.drawn
        half_width = design.half_width(drawn, confidence)
        target = max(tol - sample.rounding, tol / 2)
        allowed = _MOST_GROWTH * sample.n_summed
        if max_seconds is not None:
            left = max_seconds - (time.perf_counter() - started)
            allowed = min(allowed, int(left / sample.seconds_each))
        if sample.n_left == 0:
            limit = "cells"
        elif half_width <= target and drawn.any():
            limit = "tolerance"
        elif allowed < _LEAST_ROUND and drawn.any():
            limit = "time"
        else:
            wanted = design.draws_for(target, confidence)
            if int(np.maximum(wanted - drawn, 0).sum()) > allowed:
                wanted = design.draws_within(int(drawn.sum()) + max(allowed, _LEAST_ROUND))
            sample.draw_up_to(wanted if (wanted > drawn).any() else drawn + _LEAST_ROUND)
    return TwoPhaseResult(
        sample.mean(),
        half_width + sample.rounding,
        sample.values,
        sample.bounds,
        sample.n_summed,
        limit,
    )


def check_wanted(tol: float, confidence: float, max_seconds: float | None) -> None:
    """Raise unless options are in range."""
    if not tol > 0:
        raise ConfigError(f"tol must be greater than 0; got {tol!r}.")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, such as 0.99; got {confidence!r}.")
    if max_seconds is not None and not max_seconds > 0:
        raise ConfigError(f"max_seconds must be greater than 0, or None; got {max_seconds!r}.")


def _guess(shared: tuple[Clusters, SubClusters], rows: slice) -> NDArray[np.float32]:
    """Return guesses and bounds of a stretch of cells."""
    clusters, sub = shared
    return silhouette_bounds(clusters.points(rows), clusters.codes[rows], clusters, sub)


def _absolute(guesses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return guesses and bounds of absolute values."""
    sizes = np.abs(guesses)
    crosses = (guesses[:, 2] < 0) & (guesses[:, 3] > 0)
    lower = np.where(crosses, np.float32(0), np.minimum(sizes[:, 2], sizes[:, 3]))
    upper = np.maximum(sizes[:, 2], sizes[:, 3])
    return np.stack([sizes[:, 0], sizes[:, 1], lower, upper], axis=1)


def _proven(guesses: NDArray[np.float32]) -> TwoPhaseResult:
    """Return what guesses and bounds say without any sample."""
    lower, upper = guesses[:, 2].astype(np.float64), guesses[:, 3].astype(np.float64)
    values = np.clip(guesses[:, 1].astype(np.float64), lower, upper)
    value = float(values.mean())
    half_width = max(value - float(lower.mean()), float(upper.mean()) - value)
    bounds = np.maximum(values - lower, upper - values)
    return TwoPhaseResult(value, half_width, values, bounds, 0, "tolerance")

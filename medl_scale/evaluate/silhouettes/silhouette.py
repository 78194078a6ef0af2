"""Silhouettes of all cells, Euclidean, with the error of every figure."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.inputs import check_latent, check_n_labels, encode_labels
from medl_scale.evaluate.score import Score
from medl_scale.evaluate.silhouettes.layout import sort_by_label
from medl_scale.evaluate.silhouettes.silhouette_methods import Options, find_silhouettes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from medl_scale.config import Backend
    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.silhouettes.silhouette_methods import Method, SilhouetteOptions

__all__ = ["silhouette_samples", "silhouette_score"]


def silhouette_samples(
    latent: ArrayLike,
    labels: ArrayLike | Any,
    *,
    method: Method = "auto",
    tol: float | None = None,
    confidence: float = 0.99,
    max_seconds: float | None = None,
    backend: Backend = "auto",
    seed: int = 0,
    map_blocks: BlockMap = map_here,
) -> Score:
    """Return the silhouette of every cell and their mean, the average silhouette width (ASW).

    The silhouette of a cell is (b - a) / max(a, b), a being its mean distance to the other cells of
    its label, b the least of its mean distances to the cells of other labels; it is 0 for a cell
    without company.

    Parameters
    ----------
    latent
        (n, d) finite numbers, one row a cell.
    labels
        (n,) text, numbers or categories.
    method
        `gridded` (d = 2 only): fields on grids, each value with a proven bound. `pruned`: exact, labels
        that cannot be the nearest are skipped. `brute`: exact, all pairs. `two_phase`: guesses for all
        cells, and exact values for a sample that corrects their mean. `auto`: exact for few cells or
        where the time allows it, else gridded or two_phase; `Score.method` says what was chosen.
    tol
        `gridded`: largest error of a cell, 1e-3 unless given. `two_phase`: half-width of the mean's
        interval, 1e-4 unless given. Without meaning for exact methods.
    confidence
        Level of two_phase's interval.
    max_seconds
        Time that `auto` chooses for (300 unless given) and after which two_phase ends.
    backend
        Where exact methods run: `cpu`, `gpu`, or `auto` for a GPU if there is one.
    seed
        Of samples.
    map_blocks
        Who does the work; exact and certified figures do not depend on it.

    Returns
    -------
    Score
        `value` the mean; `per_cell` and `per_cell_error` of every cell. Those of two_phase are guesses
        with proven, wide bounds: its `kind` and `error` are about the mean alone.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range, or the method cannot take this latent.
    DataError
        If values are missing or infinite, or sizes differ.
    ScoreUndefinedError
        If there are fewer than 2 labels, or as many as cells.
    """
    started = time.perf_counter()
    options = Options(
        method=method,
        tol=tol,
        confidence=confidence,
        max_seconds=max_seconds,
        backend=backend,
        seed=seed,
        map_blocks=map_blocks,
    )
    cells = check_latent(latent)
    codes = encode_labels(labels, len(cells))
    check_n_labels(codes)
    clusters = sort_by_label(cells, codes)
    found = find_silhouettes(clusters, options)
    values, errors = np.empty(clusters.n), np.empty(clusters.n)
    values[clusters.order], errors[clusters.order] = found.values, found.bounds
    return Score(
        value=found.value,
        kind=found.kind,
        error=found.error,
        method=found.method,
        n=clusters.n,
        seconds=time.perf_counter() - started,
        confidence=confidence if found.kind == "confidence" else None,
        per_cell=values,
        per_cell_error=errors,
    )


def silhouette_score(
    latent: ArrayLike, labels: ArrayLike | Any, **options: Unpack[SilhouetteOptions]
) -> Score:
    """Return the average silhouette width; arguments and errors are those of `silhouette_samples`.

    Returns
    -------
    Score
        Without values of cells.
    """
    return dataclasses.replace(
        silhouette_samples(latent, labels, **options), per_cell=None, per_cell_error=None
    )

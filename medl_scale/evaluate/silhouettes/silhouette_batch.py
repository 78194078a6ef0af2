"""Silhouettes as integration is scored by them: of labels, of batches within labels, and BRAS.

Definitions are those of scib-metrics. Whatever the method, each figure states its error.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from medl_scale.config import check_choice
from medl_scale.errors import ScoreUndefinedError
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.inputs import Labels, check_latent, encode_labels
from medl_scale.evaluate.score import Score
from medl_scale.evaluate.silhouettes.layout import sort_by_label
from medl_scale.evaluate.silhouettes.other_distances import BETWEEN, METRICS, silhouettes_between
from medl_scale.evaluate.silhouettes.silhouette import silhouette_samples
from medl_scale.evaluate.silhouettes.silhouette_methods import Options, find_silhouettes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.score import Kind
    from medl_scale.evaluate.silhouettes.other_distances import Between, Metric
    from medl_scale.evaluate.silhouettes.silhouette_methods import SilhouetteOptions

__all__ = ["bras", "silhouette_batch", "silhouette_label"]


def silhouette_label(
    latent: ArrayLike,
    labels: ArrayLike | Any,
    *,
    rescale: bool = True,
    **options: Unpack[SilhouetteOptions],
) -> Score:
    """Return the average silhouette width of labels, as (ASW + 1) / 2 if rescaled.

    Parameters
    ----------
    latent, labels, options
        As for `silhouette_samples`.
    rescale
        Whether to bring it into [0, 1]. Values of cells remain silhouettes.

    References
    ----------
    Luecken et al. (2022), Nature Methods 19, 41-50. doi:10.1038/s41592-021-01336-8
    """
    found = silhouette_samples(latent, labels, **options)
    if not rescale:
        return found
    return dataclasses.replace(found, value=(found.value + 1.0) / 2.0, error=found.error / 2.0)


def silhouette_batch(
    latent: ArrayLike,
    labels: ArrayLike | Any,
    batches: ArrayLike | Any,
    *,
    rescale: bool = True,
    **options: Unpack[SilhouetteOptions],
) -> Score:
    """Return how well batches are mixed within labels; 1 is perfect if rescaled.

    Within each label by itself, with batches as clusters, 1 - abs(s) is averaged over its cells;
    labels then weigh equally. Without rescaling it is abs(s) that is averaged.

    Parameters
    ----------
    latent
        (n, d) finite numbers, one row a cell.
    labels, batches
        (n,) text, numbers or categories.
    rescale
        Whether 1 is best.
    options
        As for `silhouette_samples`; `max_seconds` is for all labels together, each getting its share
        by the square of its cells.

    Returns
    -------
    Score
        `per_cell` holds 1 - abs(s), NaN in labels that are left out.

    Raises
    ------
    ScoreUndefinedError
        If every label occurs in one batch only, or has as many batches as cells.

    Notes
    -----
    Labels of a single batch, or of as many batches as cells, are left out with a warning. With many
    small batches the score is biased: compare it only between latents of the same cells.

    References
    ----------
    Luecken et al. (2022), Nature Methods 19, 41-50. doi:10.1038/s41592-021-01336-8
    """
    started = time.perf_counter()
    checked = Options(**options)

    def score(cells: NDArray[Any], own: Labels, share: float) -> _Part:
        clusters = sort_by_label(cells, own)
        found = find_silhouettes(clusters, checked.for_share(share), absolute=True)
        values, errors = np.empty(clusters.n), np.empty(clusters.n)
        values[clusters.order], errors[clusters.order] = found.values, found.bounds
        return _Part(found.value, found.error, found.kind, found.method, values, errors)

    whole = _over_labels(latent, labels, batches, score, rescale=rescale)
    return dataclasses.replace(
        whole,
        seconds=time.perf_counter() - started,
        confidence=checked.confidence if whole.kind == "confidence" else None,
    )


def bras(
    latent: ArrayLike,
    labels: ArrayLike | Any,
    batches: ArrayLike | Any,
    *,
    metric: Metric = "cosine",
    between: Between = "mean_other",
    map_blocks: BlockMap = map_here,
) -> Score:
    """Return the batch removal adapted silhouette, in [0, 1]; 1 is perfect mixing.

    As `silhouette_batch`, but b is not the mean distance to the nearest other batch: that one is
    always near when batches are nested in groups of like ones.

    Parameters
    ----------
    latent, labels, batches
        As for `silhouette_batch`.
    metric
        `cosine` or `euclidean`. Mean cosine distances follow from mean directions, exactly and in
        time O(n d n_batches); Euclidean ones take all pairs of cells within a label.
    between
        `mean_other`: b is the mean distance to all cells of other batches. `furthest`: to the furthest
        batch.
    map_blocks
        Who sums Euclidean distances.

    Raises
    ------
    ConfigError
        If `metric` or `between` is unknown.
    DataError
        If a cell at the origin has no direction (cosine).
    ScoreUndefinedError
        As for `silhouette_batch`.

    References
    ----------
    Rautenstrauch and Ohler (2025), Shortcomings of silhouette in single-cell integration
    benchmarking, Nature Biotechnology.
    """
    started = time.perf_counter()
    check_choice("metric", metric, METRICS)
    check_choice("between", between, BETWEEN)

    def score(cells: NDArray[Any], own: Labels, share: float) -> _Part:
        values, errors = silhouettes_between(cells, own, metric, between, map_blocks)
        values = np.abs(values)
        error, name = float(errors.mean()), f"{metric}, {between}"
        return _Part(float(values.mean()), error, "exact", name, values, errors)

    whole = _over_labels(latent, labels, batches, score, rescale=True)
    return dataclasses.replace(whole, seconds=time.perf_counter() - started)


class _Part(NamedTuple):
    """Absolute silhouettes of the cells of one label."""

    value: float
    error: float
    kind: Kind
    method: str
    values: NDArray[np.float64]
    errors: NDArray[np.float64]


def _over_labels(
    latent: ArrayLike,
    labels: ArrayLike | Any,
    batches: ArrayLike | Any,
    score: Callable[[NDArray[Any], Labels, float], _Part],
    *,
    rescale: bool,
) -> Score:
    """Return the mean over labels of what is scored within each."""
    cells = check_latent(latent)
    by_label = encode_labels(labels, len(cells))
    by_batch = encode_labels(batches, len(cells), name="batches")
    groups = np.split(np.argsort(by_label.codes, kind="stable"), np.cumsum(by_label.counts)[:-1])
    n_batches = [len(np.unique(by_batch.codes[rows])) for rows in groups]
    scored = [1 < k < len(rows) for k, rows in zip(n_batches, groups, strict=True)]
    left_out = [
        str(level)
        for level, is_scored in zip(by_label.levels, scored, strict=True)
        if not is_scored
    ]
    if not any(scored):
        raise ScoreUndefinedError(
            "labels must include one that occurs in several batches, and in fewer batches than it has "
            f"cells; none of {len(groups):,} does. A silhouette of batches is undefined here: are labels "
            "and batches the same column?"
        )
    if left_out:
        named = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        warnings.warn(
            f"{len(left_out):,} of {len(groups):,} labels occur in one batch only, or in as many as they "
            f"have cells, and are left out ({named}). Merge rare labels to have them scored.",
            UserWarning,
            stacklevel=3,
        )
    kept = [rows for rows, is_scored in zip(groups, scored, strict=True) if is_scored]
    total = sum(len(rows) ** 2 for rows in kept)
    values, errors = np.full(len(cells), np.nan), np.full(len(cells), np.nan)
    parts = []
    for rows in kept:
        own = encode_labels(by_batch.codes[rows], len(rows))
        part = score(cells[rows], own, len(rows) ** 2 / total)
        values[rows] = 1.0 - part.values if rescale else part.values
        errors[rows] = part.errors
        parts.append(part._replace(values=part.values[:0], errors=part.errors[:0]))
    value = sum(part.value for part in parts) / len(parts)
    kinds = {part.kind for part in parts}
    return Score(
        value=1.0 - value if rescale else value,
        kind=max(kinds, key=("exact", "certified", "confidence").index),
        error=_joint_error(parts),
        method=_joint_method(parts),
        n=int(sum(len(rows) for rows in kept)),
        seconds=0.0,
        confidence=0.99 if "confidence" in kinds else None,
        per_cell=values,
        per_cell_error=errors,
    )


def _joint_error(parts: list[_Part]) -> float:
    """Return the error of a mean: samples are independent of each other, bounds add up."""
    bounds = sum(part.error for part in parts if part.kind != "confidence")
    widths = math.sqrt(sum(part.error**2 for part in parts if part.kind == "confidence"))
    return (bounds + widths) / len(parts)


def _joint_method(parts: list[_Part]) -> str:
    """Return how the labels were scored, by the first words of each."""
    names = sorted({part.method.split(" (")[0].split(";")[0] for part in parts})
    return f"{' and '.join(names)} within {len(parts):,} labels"

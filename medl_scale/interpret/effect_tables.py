"""Tables of random effects: a row per gene and batch, and the genes that batches move most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

from medl_scale.errors import ConfigError
from medl_scale.interpret.moves import between_shares, moves_of
from medl_scale.store.choices import no_such

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from medl_scale.interpret.effects import OutputEffects

    Doubles = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["effect_rows", "moved_genes"]

BLOCK_VALUES = 1 << 18
"""Gene-batch pairs computed at once; some 50 MB."""


def effect_rows(
    effects: OutputEffects,
    *,
    batches: Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    level: float = 0.95,
) -> Iterator[pd.DataFrame]:
    """Yield a table with one row per gene and batch, some genes at a time.

    Parameters
    ----------
    effects
        Of `output_effects`.
    batches, genes
        Names to list, in this order; all by default.
    level
        Probability of the credible intervals, in (0, 1).

    Yields
    ------
    DataFrame
        `gene`, `batch` (categories), `n_cells` (train cells of the batch), and for each of `scale`,
        `shift` and `move` its posterior mean, `_sd`, `_lower` and `_upper`, float32. `move` is by how
        much the batch moves the average cell, away from the average batch, in s.d. of the gene.

    Raises
    ------
    DataError
        If there is no such batch or gene; those there are get listed.
    ConfigError
        If the level is not between 0 and 1, or a list is empty.

    Notes
    -----
    A shift that all batches share cannot be told from the gene's own mean; so moves are relative to
    the mean over all batches of the run, weighted by their train cells. Effects of hidden layers come
    on top and are not in this table.
    """
    z = _z(level)
    rows = _positions(batches, effects.batches, "batch", "batches")
    columns = _positions(genes, effects.genes, "gene", "genes")
    for block in _blocks(effects, columns):
        e = moves_of(effects, block)
        values: dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]] = {
            "scale": (effects.scale[:, block], effects.scale_sd[:, block]),
            "shift": (effects.shift[:, block], effects.shift_sd[:, block]),
            "move": (e.move, e.move_sd),
        }
        frame = pd.DataFrame(
            {
                "gene": _category(np.repeat(block, len(rows)), effects.genes),
                "batch": _category(np.tile(rows, len(block)), effects.batches),
                "n_cells": np.tile(effects.batch_n[rows], len(block)),
            }
        )
        for name, (mean, sd) in values.items():
            centre, spread = mean[rows].T.ravel(), sd[rows].T.ravel()
            frame[name] = centre.astype(np.float32)
            frame[f"{name}_sd"] = spread.astype(np.float32)
            frame[f"{name}_lower"] = (centre - z * spread).astype(np.float32)
            frame[f"{name}_upper"] = (centre + z * spread).astype(np.float32)
        yield frame


def moved_genes(
    effects: OutputEffects, *, batches: Sequence[str] | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Return the genes, those first that batches surely move most.

    Parameters
    ----------
    effects
        Of `output_effects`.
    batches
        Whose moves count; all by default. One name asks what that batch moves.
    level
        Probability of the credible intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row per gene: `gene`; `score`; `rms_move`, how far the batches move a cell, root mean
        square over cells and batches at the posterior mean; `batch`, which of them surely moves the
        gene most, with its `move`, `move_lower`, `move_upper`; `share`, `share_lower`,
        `share_upper` and `observed_share`; `gene_sd`. Moves and scores are in s.d. of the gene.

    Raises
    ------
    DataError
        If there is no such batch; those there are get listed.
    ConfigError
        If the level is not between 0 and 1, or a list is empty.

    Notes
    -----
    `score` is `rms_move` with every move and every stretch (scale times the s.d. of what it
    multiplies) replaced by the distance from 0 to the nearer end of its credible interval, or by 0 if
    the interval holds 0. So a large move that is unsure counts as little as a small one, and a batch
    without information adds nothing.

    `share` is V / (V + W): V the variance between all batches of the run that the output's effects
    make, averaged over cells, W the gene's variance within batches in the train split. Its interval
    is that of a gamma distribution with the posterior's mean and variance of V, which are closed forms;
    measured against draws it is off by a few hundredths of itself, more near 0.
    `observed_share` is that of the batches' plain means, in which differing cell types count too. Both
    are NaN for a gene that does not vary.
    """
    z = _z(level)
    rows = _positions(batches, effects.batches, "batch", "batches")
    weights = effects.batch_n[rows].astype(np.float64)
    weights = weights / weights.sum() if weights.any() else np.full(len(rows), 1 / len(rows))
    parts = []
    for block in _blocks(effects, np.arange(len(effects.genes))):
        e = moves_of(effects, block)
        move, stretch = e.move[rows], e.stretch[rows]
        sure_move = np.maximum(np.abs(move) - z * e.move_sd[rows], 0.0)
        sure_stretch = np.maximum(np.abs(stretch) - z * e.stretch_sd[rows], 0.0)
        sure = np.square(sure_move) + np.square(sure_stretch)
        # Where no batch surely moves the gene, the one that comes nearest to it is shown.
        nearest = np.abs(move) - z * e.move_sd[rows]
        most = np.argmax(np.where(sure.any(axis=0), sure, nearest), axis=0)
        own, own_sd = _pick(move, most), _pick(e.move_sd[rows], most)
        share, lower, upper = between_shares(e, effects.within[block], level)
        parts.append(
            pd.DataFrame(
                {
                    "gene": np.asarray(effects.genes, dtype=object)[block],
                    "score": np.sqrt(weights @ sure),
                    "rms_move": np.sqrt(weights @ (np.square(move) + np.square(stretch))),
                    "batch": _category(rows[most], effects.batches),
                    "move": own,
                    "move_lower": own - z * own_sd,
                    "move_upper": own + z * own_sd,
                    "share": share,
                    "share_lower": lower,
                    "share_upper": upper,
                    "observed_share": effects.observed_share[block],
                    "gene_sd": effects.gene_sd[block],
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    # Ties of 0 in the order of how nearly they are sure, and then as the genes lie.
    order = np.lexsort((-table["rms_move"], -table["score"]))
    return table.iloc[order].reset_index(drop=True)


def _positions(
    names: Sequence[str] | None, known: tuple[str, ...], what: str, option: str
) -> Integers:
    """Return where each name lies in `known`; everywhere if names is None."""
    if names is None:
        return np.arange(len(known))
    chosen = [names] if isinstance(names, str) else list(names)
    place = {name: position for position, name in enumerate(known)}
    for name in chosen:
        if name not in place:
            raise no_such(what, name, list(known), "The model", option)
    if not chosen:
        raise ConfigError(
            f"{option} must name at least one {what}; got none. Leave it out for all."
        )
    return np.array([place[name] for name in dict.fromkeys(chosen)], np.int64)


def _z(level: float) -> float:
    """Return the normal quantile of a two-sided interval."""
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level must lie between 0 and 1, such as 0.95; got {level!r}.")
    return float(ndtri(0.5 * (1.0 + level)))


def _blocks(effects: OutputEffects, columns: Integers) -> list[Integers]:
    """Return genes in blocks of which all batches are computed at once."""
    n_genes = max(1, BLOCK_VALUES // len(effects.batches))
    return [columns[start : start + n_genes] for start in range(0, len(columns), n_genes)]


def _category(codes: Integers, levels: tuple[str, ...]) -> pd.Categorical:
    """Return names as categories, all levels known."""
    return pd.Categorical.from_codes(codes, pd.Index(levels, dtype=object))


def _pick(values: Doubles, rows: NDArray[np.intp]) -> Doubles:
    """Return values[rows[j], j] for every column j."""
    picked: Doubles = np.take_along_axis(values, rows[None, :], axis=0)[0]
    return picked

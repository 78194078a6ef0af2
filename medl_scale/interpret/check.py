"""Is an as-if projection right? Held against cells that the target batch really has, and baselines.

A projection moves the cells of a type from a source batch to a target batch. What the type's own cells
in the target show is the truth; cells not trained on are used for both sides. Errors are of means over
cells, as means are all that separate cells of two donors can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medl_scale.interpret.baselines import AdditiveBaselines
    from medl_scale.interpret.check_cells import CheckedCells

    type Doubles = NDArray[np.float64]

__all__ = ["BASELINES", "WhatIfCheck", "checked_pairs_table", "judged"]

BASELINES = {
    "two_way_shift": "additive shift by type and batch",
    "batch_shift": "difference of the batches' means",
    "two_way_profile": "mean of the type plus the batch's effect",
    "no_shift": "no change",
}
"""What a model is compared with, and how people call it."""
USES_LABELS = {
    "model": False,
    "two_way_shift": True,
    "batch_shift": False,
    "two_way_profile": True,
    "no_shift": False,
}
FLOORS = ("noise_floor", "noise_floor_of_shifts")
_CLEARLY = 0.6
"""Share of pairs from which on one prediction is called better than another."""


@dataclass(frozen=True, eq=False)
class WhatIfCheck:
    """How well models tell what cells would express in another batch."""

    pairs: pd.DataFrame
    """A row for each model and move of a type from a source to a target batch: `model`, `fold`, `label`,
    `source`, `target`, `n_source` and `n_target` (cells compared), `n_train` (train cells of the type in
    the target), `seen` (whether there are any), `correlation` of predicted and true shift over genes,
    `error` of the model and `error_...` of each baseline, mean squared over genes, 1 being that of no
    change; `noise_floor`, the error of one who knows the target's expected expression; and
    `noise_floor_of_shifts`, that of one who knows the true shift and adds it to the source's mean."""
    summary: pd.DataFrame
    """A row for each model, seen or unseen pairs, and prediction (`model` or a baseline): `n_pairs`,
    `uses_labels`, mean and median `error`, mean `correlation`, and `model_wins`, the share of pairs in
    which the model's error is less; last the two noise floors."""
    words: str
    """What that says, and what to do."""


def checked_pairs_table(
    cells: CheckedCells,
    baselines: AdditiveBaselines,
    *,
    label_levels: Sequence[str],
    batch_levels: Sequence[str],
    fold: int,
) -> pd.DataFrame:
    """Return the errors of every model and baseline on every pair; see `WhatIfCheck.pairs`.

    Parameters
    ----------
    cells
        Means of the cells compared, measured and as the models make them.
    baselines
        Fitted on train cells, in the same units.
    label_levels, batch_levels
        Names of the codes.
    fold
        Whose train cells.
    """
    pairs, measured = cells.pairs, cells.measured
    mean, noise = measured.mean, measured.mean_variance
    groups = zip(pairs.source_groups().tolist(), pairs.target_groups().tolist(), strict=True)
    rows = []
    for move, (source_group, target_group) in enumerate(groups):
        label, source, target = (
            int(codes[move]) for codes in (pairs.labels, pairs.sources, pairs.targets)
        )
        start, truth = mean[source_group], mean[target_group]
        unit = float(np.mean(np.square(truth - start)))
        if unit == 0.0:
            continue
        predicted = baselines.predict(label, source, target, start)
        by_baselines = {
            name: _told(values, start, truth, unit) for name, values in predicted.items()
        }
        n_train = int(baselines.n[label, target])
        same = {
            "fold": fold,
            "label": label_levels[label],
            "source": batch_levels[source],
            "target": batch_levels[target],
            "n_source": int(measured.n[source_group]),
            "n_target": int(measured.n[target_group]),
            "n_train": n_train,
            "seen": n_train > 0,
        }
        floor = float(np.mean(noise[target_group])) / unit
        floor_of_shifts = floor + float(np.mean(noise[source_group])) / unit
        for name, model in cells.models.items():
            error, correlation = _told(model.mean(move), start, truth, unit)
            rows.append(
                {"model": name, **same, "correlation": correlation, "error": error}
                | {f"error_{key}": by_baselines[key][0] for key in BASELINES}
                | {
                    f"correlation_{key}": by_baselines[key][1]
                    for key in BASELINES
                    if key != "no_shift"
                }
                | {"noise_floor": floor, "noise_floor_of_shifts": floor_of_shifts}
            )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    # One model after another.
    return table.sort_values("model", kind="stable", ignore_index=True)


def judged(pairs: pd.DataFrame, *, n_possible: int, min_cells: int, split: str) -> WhatIfCheck:
    """Return what a table of pairs says.

    Parameters
    ----------
    pairs
        Of `checked_pairs_table`, not empty.
    n_possible
        Pairs that could have been compared.
    min_cells
        Cells that a type needs in either batch.
    split
        How people call the cells compared, such as `test`.
    """
    summary = _summary(pairs)
    words = [_scope(pairs, n_possible, min_cells, split)]
    for model in pairs["model"].unique():
        for seen in (True, False):
            own = summary[(summary["model"] == model) & (summary["seen"] == seen)]
            if len(own):
                words.append(_verdict(str(model), own.set_index("prediction"), seen=seen))
    return WhatIfCheck(pairs, summary, " ".join(words))


def _told(predicted: Doubles, start: Doubles, truth: Doubles, unit: float) -> tuple[float, float]:
    """Return the relative error of a prediction, and the correlation of its shift with the true one."""
    shift, true = predicted - start, truth - start
    error = float(np.mean(np.square(predicted - truth))) / unit
    shift, true = shift - shift.mean(), true - true.mean()
    norm = float(np.sqrt(np.square(shift).sum() * np.square(true).sum()))
    return error, float(shift @ true) / norm if norm > 0 else 0.0


def _summary(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, seen or unseen, and prediction."""
    rows = []
    # Seen moves first.
    for (model, unseen), part in pairs.groupby(["model", ~pairs["seen"]]):
        for name in ("model", *BASELINES, *FLOORS):
            column = "error" if name == "model" else name if name in FLOORS else f"error_{name}"
            correlation = "correlation" if name == "model" else f"correlation_{name}"
            rival = name in BASELINES
            known = part[part[column].notna()]
            rows.append(
                {
                    "model": model,
                    "seen": not unseen,
                    "prediction": name,
                    "uses_labels": USES_LABELS.get(name, False),
                    "n_pairs": len(known),
                    "error": known[column].mean(),
                    "error_median": known[column].median(),
                    "correlation": known[correlation].mean() if correlation in known else np.nan,
                    "model_wins": (known["error"] < known[column]).mean() if rival else np.nan,
                }
            )
    return pd.DataFrame(rows)


def _scope(pairs: pd.DataFrame, n_possible: int, min_cells: int, split: str) -> str:
    """Return what was compared with what."""
    one = pairs[pairs["model"] == pairs["model"].iloc[0]]
    drawn = f", drawn from {n_possible:,}" if len(one) < n_possible else ""
    seen = int(one["seen"].sum())
    if seen == len(one):
        training = (
            "All these types were in their target batch in training, by other cells, so this says "
            "nothing of types that a batch has not shown."
        )
    else:
        training = f"In {len(one) - seen:,} of them training had no cell of the type in the target."
    return (
        f"Means of {split} cells as if from another batch against that batch's own {split} cells of the "
        f"type: {len(one):,} moves of {one['label'].nunique()} types between {one['target'].nunique()} "
        f"batches{drawn}, {min_cells} cells or more on either side. They share cells, and are not "
        f"independent. {training} Errors are mean squared over genes; 1 is that of no change."
    )


def _verdict(model: str, rows: pd.DataFrame, *, seen: bool) -> str:
    """Return how a model fares, and what to do about it."""
    error = rows["error"]
    own, shift, floor = error["model"], error["two_way_shift"], error["noise_floor"]
    wins = rows["model_wins"]
    where = "where the type was seen in the target" if seen else "where it was not"
    # Of a type without train cells nothing is known to put together.
    beaten = [
        f"the {called}{' (labels known)' if USES_LABELS[name] else ''} in {100 * wins[name]:.0f} % "
        f"({error[name]:.2f})"
        for name, called in BASELINES.items()
        if name != "no_shift" and rows["n_pairs"][name]
    ]
    told = (
        f"{model}, {where}: error {own:.2f} ({rows['n_pairs']['model']:,} moves; noise alone makes "
        f"{floor:.2f}). It beats no change in {100 * wins['no_shift']:.0f} % of moves, "
        f"{', '.join(beaten[:-1])}, and {beaten[-1]}. A shift keeps the sampling noise of the source's "
        f"mean: knowing the truth it would have {error['noise_floor_of_shifts']:.2f}."
    )
    if own >= 1.0:
        advice = "It is worse than no change: do not use its projections."
    elif wins["two_way_shift"] >= _CLEARLY and own < shift:
        advice = "Prefer it to an additive shift."
    elif wins["two_way_shift"] <= 1 - _CLEARLY and own > shift:
        advice = "For means of types prefer the additive shift."
    else:
        advice = "It is neither clearly better nor worse than an additive shift."
    if error["two_way_profile"] < own:
        advice += (
            " If all you need is a type's mean, the type's mean plus the batch's effect comes nearer; it "
            "says nothing of single cells."
        )
    return f"{told} {advice}"

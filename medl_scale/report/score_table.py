"""The table of scores as a picture: a row for each latent, a column for each metric."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import ConfigError, DataError
from medl_scale.evaluate.forests.spaces import ONE_HOT
from medl_scale.report.sections.metrics import FOREST_METRICS, MIXING, TYPES
from medl_scale.report.sections.scores import KNOW_THE_BATCH
from medl_scale.report.theme import LIGHT

if TYPE_CHECKING:
    from typing import Literal

    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["score_table"]

_COLUMNS = ("space", "split", "metric", "of", "value")
_FORMATS = ("png", "svg")
# What takes no latent to get right.
_BASELINES = ("ChanceAccuracy", "MajorityAccuracy")


def score_table(
    summary: pd.DataFrame, form: Literal["png", "svg"], *, batch_key: str | None = None
) -> bytes:
    """Return a picture of scores.

    Parameters
    ----------
    summary
        One row per latent and metric: `space`, `split`, `metric`, `of`, `value`, as `Scores.summary`.
        Only the first split is drawn.
    form
        `png` or `svg`.
    batch_key
        Column of obs that holds the batch: of its groups, silhouettes and their like are better when low.

    Returns
    -------
    The picture. Shades go from the worst to the best of each column, and the best is in bold with a
    mark, controls apart, and RE's mixing of batches, which it holds on purpose; columns without a good
    end, such as chance, are not shaded.

    Raises
    ------
    ConfigError
        If the form is another one.
    DataError
        If a column is missing or there are no scores.
    """
    if form not in _FORMATS:
        raise ConfigError(
            f"The table of scores is drawn as one of 'png', 'svg'; got {form!r}. Choose one of these."
        )
    missing = [name for name in _COLUMNS if name not in summary]
    if missing or summary.empty:
        raise DataError(
            f"A table of scores needs the columns {', '.join(_COLUMNS)} and a row or more; it lacks "
            f"{', '.join(missing) or 'rows'}. Pass run.scores.summary."
        )
    first = summary[summary["split"] == summary["split"].iloc[0]]
    wide = first.pivot_table(index="space", columns=["of", "metric"], values="value", sort=False)
    wide = wide.sort_index(axis=1, level=0, sort_remaining=False, kind="stable")
    return _draw(wide, form, batch_key)


def _draw(wide: pd.DataFrame, form: str, batch_key: str | None) -> bytes:
    """Return the picture of a table."""
    import matplotlib as mpl
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    n_rows, n_columns = wide.shape
    colours = LinearSegmentedColormap.from_list("accent", ["#ffffff", LIGHT["accent"]])
    names = max(len(str(name)) for name in wide.index) * 0.085 + 0.25
    width, high = 0.68, 0.34
    figure = Figure(figsize=(names + width * n_columns + 0.2, high * n_rows + 1.95), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-names / width, n_columns + 0.2 / width)
    axes.set_ylim(n_rows + 0.6, -1.35 / high)
    axes.set_axis_off()
    # Texts of the figure: those of axes are clipped one by one, which takes most of the time.
    write = partial(figure.text, transform=axes.transData)
    boxes: list[Rectangle] = []
    fills: list[Any] = []
    for i, name in enumerate(wide.index):
        write(-0.1, i + 0.5, _plain(name), ha="right", va="center", fontsize=9)
    start = 0
    groups = wide.columns.get_level_values(0)
    for j, (of, metric) in enumerate(wide.columns):
        if j and groups[j - 1] != of:
            start = j
        if j == start:
            write(
                j + 0.08, -1.2 / high, _plain(f"of {of}"), fontsize=9, fontweight="bold", va="top"
            )
            span = int((groups == of).sum())
            axes.plot([j + 0.08, j + span - 0.08], [-0.98 / high] * 2, color=LIGHT["muted"], lw=0.8)
        write(
            j + 0.3,
            -0.15,
            _plain(metric),
            fontsize=8,
            rotation=38,
            rotation_mode="anchor",
            ha="left",
        )
        values = wide.iloc[:, j].to_numpy(np.float64)
        better = _better(metric, is_batch=of == batch_key)
        shades = _shades(values, better)
        best = _best(shades, _is_out(wide.index, is_batch=of == batch_key))
        for i in np.flatnonzero(np.isfinite(values)).tolist():
            boxes.append(Rectangle((j + 0.02, i + 0.04), 0.96, 0.92))
            fills.append(colours(0.5 * np.nan_to_num(shades[i])))
            text = _short(values[i]) + (" ◂" if i == best else "")
            weight = "bold" if i == best else "normal"
            write(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, fontweight=weight)
    write(
        -names / width + 0.1,
        n_rows + 0.35,
        "◂ best of its column (controls apart; where batches are meant, the latents that hold them apart)",
        fontsize=8,
        color=LIGHT["muted"],
    )
    axes.add_collection(PatchCollection(boxes, facecolors=fills, linewidths=0))
    buffer = io.BytesIO()
    # Without a date, and with names that do not change, the same scores give the same file.
    with mpl.rc_context({"svg.hashsalt": "medl-scale"}):
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def _better(metric: str, *, is_batch: bool) -> str | None:
    """Return which end of a metric is good, None where neither is."""
    if metric in _BASELINES:
        return None
    listed = (*(MIXING if is_batch else TYPES), *FOREST_METRICS)
    return next((known.better for known in listed if known.name == metric), None)


def _shades(values: NDArray[np.float64], better: str | None) -> NDArray[np.float64]:
    """Return how good each value of a column is, in [0, 1]; NaN where nothing can be said."""
    found = values[np.isfinite(values)]
    if better is None or found.size < 2 or np.ptp(found) == 0:
        return np.full(values.size, np.nan)
    shares = (values - found.min()) / np.ptp(found)
    return shares if better == "higher" else 1.0 - shares


def _is_out(spaces: pd.Index, *, is_batch: bool) -> NDArray[np.bool_]:
    """Return which spaces cannot be the best: controls, and of mixing those that hold the batch on purpose."""
    return np.array(
        [ONE_HOT in str(space) or (is_batch and space in KNOW_THE_BATCH) for space in spaces]
    )


def _best(shades: NDArray[np.float64], is_out: NDArray[np.bool_]) -> int | None:
    """Return the row of the best value, None where there is none."""
    rated = np.where(is_out | ~np.isfinite(shades), -1.0, shades)
    return int(rated.argmax()) if rated.max() > 0 else None


def _short(value: float) -> str:
    """Return a number in five letters or so."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _plain(text: object) -> str:
    """Return a text that matplotlib does not take for a formula."""
    return str(text).replace("$", r"\$")

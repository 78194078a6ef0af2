"""Pictures of chosen cells: a row for each, as measured, as reconstructed, and as if of each batch.

All images of a picture share their colour limits; the cell's own batch is outlined in red and named
so; the genes that batches move most are circled, and named at the end of the row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import ConfigError, DataError
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from medl_scale.interpret.genomap.layout import Layout
    from medl_scale.interpret.genomap.panels import Panels

__all__ = ["check_lines", "check_pictures", "draw_panels"]

_FORMATS = ("png", "svg", "pdf")
_OWN = "#d3130b"
_PADDING = "#ededed"
_IMAGE_INCHES = 1.45
_KEY_WIDTH = 1.75
# Of 1.7 inches each: more would be too large to draw or to look at.
_MOST_LINES = 60
_IMAGES_A_LINE = 8
# Shares of the values that lie below and above the colours, as in the papers.
_PERCENTILES = (1.0, 99.0)


def check_pictures(outputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return where pictures are to be written.

    Raises
    ------
    ConfigError
        If there is none, or a suffix is not `.png`, `.svg` or `.pdf`.
    """
    paths = [Path(output) for output in outputs]
    wrong = [path.name for path in paths if path.suffix.removeprefix(".") not in _FORMATS]
    if wrong or not paths:
        listed = ", ".join(f"'.{known}'" for known in _FORMATS)
        raise ConfigError(
            f"A picture is written as one of {listed}; got {', '.join(wrong) or 'no output'}. "
            "Give the output one of these suffixes."
        )
    return paths


def check_lines(n_cells: int, n_columns: int, images_a_line: int = _IMAGES_A_LINE) -> None:
    """Raise if so many cells, with so many images each, are too many for one picture.

    Raises
    ------
    ConfigError
        It says how many lines of images they would make.
    """
    if (n_lines := n_cells * -(-n_columns // images_a_line)) > _MOST_LINES:
        raise ConfigError(
            f"A picture has at most {_MOST_LINES} lines of {images_a_line} images; {n_cells:,} cells "
            f"with {n_columns:,} images each make {n_lines:,}. Choose fewer cells or batches, or more "
            "images a line."
        )


def draw_panels(
    panels: Panels,
    layout: Layout,
    outputs: Sequence[str | os.PathLike[str]],
    *,
    n_labelled: int = 10,
    limits: tuple[float, float] | None = None,
    images_a_line: int = _IMAGES_A_LINE,
    colour_title: str = "log-normalised expression",
    title: str = "",
) -> None:
    """Draw cells as genomaps.

    Parameters
    ----------
    panels
        What to show.
    layout
        Where genes lie.
    outputs
        Files to write; the suffix of each, `.png`, `.svg` or `.pdf`, says how.
    n_labelled
        Genes to circle and to name for each cell; 0 for none.
    limits
        Values of the first and the last colour; the 1st and 99th percentile of all by default.
    images_a_line
        Images side by side before a cell goes on in the next line.
    colour_title
        What the colours are.
    title
        Line above the picture.

    Raises
    ------
    ConfigError
        If a suffix is another one, or an option is out of range.
    DataError
        If `panels` have other genes than the layout, or no finite value.
    StoreError
        If writing fails.
    """
    paths = check_pictures(outputs)
    if images_a_line < 1 or n_labelled < 0:
        raise ConfigError(
            f"images_a_line must be at least 1 and n_labelled at least 0; got {images_a_line} and "
            f"{n_labelled}. Choose others."
        )
    check_lines(len(panels.cell_titles), len(panels.column_titles), images_a_line)
    low, high = limits or _colour_limits(panels.values)
    if not low < high:
        raise ConfigError(f"limits must ascend; got {low:g} and {high:g}. Choose others.")

    import matplotlib as mpl

    # Without a date, and with names that do not change, the same panels give the same file.
    with mpl.rc_context({"svg.hashsalt": "medl-scale"}):
        figure = _draw(panels, layout, (low, high), n_labelled, images_a_line)
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        figure.get_axes()[-1].set_ylabel(colour_title, fontsize=8)
        # Laid out once, whatever the number of files: that takes most of the time.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for path in paths:
            form = path.suffix.removeprefix(".")
            metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as scratch:
                figure.savefig(scratch, format=form, dpi=150, metadata=metadata.get(form))


def _colour_limits(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return percentiles of all finite values, apart from one another."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise DataError("Panels need finite values; all are NaN. Pass expression values.")
    low, high = np.percentile(finite, _PERCENTILES)
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(low) + 0.5)


def _draw(
    panels: Panels,
    layout: Layout,
    limits: tuple[float, float],
    n_labelled: int,
    images_a_line: int,
) -> Figure:
    """Return the figure; its last axes are the colour bar's."""
    from matplotlib.figure import Figure

    n_cells, n_columns = panels.values.shape[:2]
    width = min(n_columns, images_a_line)
    n_lines = -(-n_columns // width)
    has_key = n_labelled > 0 and len(panels.compared) >= 2
    ratios = [1.0] * width + ([_KEY_WIDTH] if has_key else [])
    figure = Figure(
        figsize=(
            _IMAGE_INCHES * sum(ratios) + 1.3,
            (_IMAGE_INCHES + 0.28) * n_cells * n_lines + 0.5,
        ),
        layout="constrained",
    )
    axes = figure.subplots(n_cells * n_lines, len(ratios), squeeze=False, width_ratios=ratios)
    moved = panels.moved_genes(layout, n_labelled)
    n_moved = len(moved) // n_cells
    shown: Any = None
    for cell in range(n_cells):
        lines = axes[cell * n_lines : (cell + 1) * n_lines]
        # By position: two cells may have the same title.
        of_cell = moved[cell * n_moved : (cell + 1) * n_moved]
        images = layout.to_images(panels.values[cell])
        places = lines[:, :width].ravel()
        for column, image in enumerate(images):
            drawn = _draw_image(places[column], image, limits)
            shown = shown or drawn
            _name_image(
                places[column],
                panels.column_titles[column],
                is_own=column == panels.own_column[cell],
            )
            places[column].scatter(
                of_cell["column"],
                of_cell["row"],
                s=16,
                facecolors="none",
                edgecolors="white",
                lw=0.6,
            )
        for empty in places[n_columns:]:
            empty.set_axis_off()
        places[0].set_ylabel(panels.cell_titles[cell], fontsize=8, fontweight="bold")
        if has_key:
            spread = panels.values[cell][list(panels.compared)].std(axis=0, ddof=1)
            _draw_key(lines[0, -1], layout.to_images(spread)[0], of_cell)
            for empty in lines[1:, -1]:
                empty.set_axis_off()
    bar = figure.colorbar(
        shown, ax=axes, fraction=0.02, aspect=30, pad=0.01, extend="both", shrink=0.9
    )
    bar.ax.tick_params(labelsize=7)
    return figure


def _draw_image(place: Axes, image: NDArray[np.float32], limits: tuple[float, float]) -> Any:
    """Draw one image; padding is grey."""
    import matplotlib as mpl

    colours = mpl.colormaps["viridis"].with_extremes(bad=_PADDING)
    drawn = place.imshow(
        np.ma.masked_invalid(image), cmap=colours, vmin=limits[0], vmax=limits[1],
        interpolation="nearest",
    )  # fmt: skip
    place.set_xticks([])
    place.set_yticks([])
    return drawn


def _name_image(place: Axes, name: str, *, is_own: bool) -> None:
    """Put a title above an image, and an outline around that of the cell's own batch."""
    shown = name if len(name) <= 18 else f"{name[:17]}…"
    place.set_title(
        f"{shown} (own)" if is_own else shown,
        fontsize=7.5,
        pad=3,
        color=_OWN if is_own else "black",
        fontweight="bold" if is_own else "normal",
    )
    for side in place.spines.values():
        side.set(color=_OWN if is_own else "#8a8a8a", linewidth=2.2 if is_own else 0.4)


def _draw_key(place: Axes, spread: NDArray[np.float32], moved: pd.DataFrame) -> None:
    """Draw how much genes differ between batches, with lines to the names of those that move most."""
    import matplotlib as mpl

    n_rows, n_columns = spread.shape
    colours = mpl.colormaps["Greys"].with_extremes(bad="white")
    place.imshow(np.ma.masked_invalid(spread), cmap=colours, vmin=0, interpolation="nearest")
    place.set_title("s.d. over batches", fontsize=7.5, pad=3, loc="left")
    place.set_xlim(-0.5, n_columns * _KEY_WIDTH - 0.5)
    place.set_anchor("W")
    place.set_axis_off()
    # Names stand in the order of their rows, so that the lines to them hardly cross.
    ordered = moved.sort_values(["row", "column"])
    heights = (np.arange(len(ordered)) + 0.5) * n_rows / max(len(ordered), 1) - 0.5
    for gene, row, column, height in zip(
        ordered["gene"], ordered["row"], ordered["column"], heights, strict=True
    ):
        place.plot(
            [column, n_columns + 0.02 * n_columns, n_columns * 1.08],
            [row, height, height],
            color="#b3450c",
            linewidth=0.5,
        )
        place.plot(column, row, "o", markersize=2.2, color="#b3450c")
        place.text(n_columns * 1.1, height, gene, fontsize=6, va="center", fontstyle="italic")

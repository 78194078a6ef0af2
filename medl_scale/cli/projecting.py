"""The command that asks what if: project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import LogJson, Overwrite, Quiet, as_names
from medl_scale.config import IntervalSource, ProjectConfig, ProjectedUnits, SwitchedSides
from medl_scale.errors import ConfigError

__all__ = ["project"]

DEFAULTS = ProjectConfig()


@app.command()
def project(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    cells: Annotated[
        str,
        typer.Option(
            help="Cells of the atlas: a query on obs, such as \"cell_type == 'T'\", or a file with a "
            "cell's name a line."
        ),
    ],
    as_batch: Annotated[
        str,
        typer.Option(
            help="Batches they come from: names, comma-separated; all; or average (random effects at "
            "zero)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="OUT.zarr or OUT.h5ad.")],
    model: Annotated[str, typer.Option(help="me, or the published re.")] = DEFAULTS.model,
    fold: Annotated[int | None, typer.Option(help="Whose model (the run's first).")] = None,
    units: Annotated[
        ProjectedUnits,
        typer.Option(help="lognorm: log-normalised expression; model: as the network sees it."),
    ] = DEFAULTS.units,
    draws: Annotated[
        int, typer.Option(help="Posterior draws, such as 50, for a credible interval per gene.")
    ] = DEFAULTS.draws,
    level: Annotated[float, typer.Option(help="Level of the interval.")] = DEFAULTS.level,
    intervals: Annotated[
        IntervalSource,
        typer.Option(
            help="Width of the interval: calibrated on validation cells, or the model's own, which is "
            "too narrow (auto: calibrated if labels and cells suffice)."
        ),
    ] = DEFAULTS.intervals,
    switch: Annotated[
        SwitchedSides,
        typer.Option(
            help="Sides of re that read the target batch: both, as published, or decoder."
        ),
    ] = DEFAULTS.switch,
    reconstructions: Annotated[
        bool,
        typer.Option(
            help="Add rows measured and reconstructed (by the model, FE, AE) to each cell."
        ),
    ] = DEFAULTS.with_reconstructions,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = DEFAULTS.seed,
    atlas: Annotated[str | None, typer.Option(help="The run's atlas, if it was moved.")] = None,
    max_gib: Annotated[
        float | None, typer.Option(help="Largest output, in GiB (64, or what the disk has free).")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Show chosen cells as if they came from other batches.

    Each cell is decoded under each batch's effects. The output is an AnnData
    of cells x batches: X in log-normalised expression; obs tells the cell, its
    own and the target batch, and rows that were measured or reconstructed
    (kind). With --draws, layers mean, lower and upper hold a credible interval,
    widened so that it holds as often as it says for the mean of a type's cells.

    medl-scale project runs/atlas --cells "cell_type == 'T'" --as-batch all
    -o t.zarr

    medl-scale project runs/atlas --cells names.txt --as-batch BM1,BM3
    --draws 50 -o t.h5ad
    """
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    config = ProjectConfig(
        model=model,
        fold=fold,
        units=units,
        draws=draws,
        level=level,
        intervals=intervals,
        switch=switch,
        with_reconstructions=reconstructions,
        seed=seed,
        max_bytes=None if max_gib is None else int(max_gib * 2**30),
    )
    chosen = chosen_cells(cells)
    from medl_scale.pipeline import Run
    from medl_scale.pipeline.projecting import write_projection

    n_cells, n_batches = write_projection(
        Run.load(run),
        output,
        chosen,
        as_names(as_batch) or (),
        config,
        atlas=atlas,
        overwrite=overwrite,
        progress=talk.progress(),
    )
    talk.say(f"{output}: {n_cells:,} cells as if from {n_batches:,} batches")


def chosen_cells(text: str) -> str | list[str]:
    """Return a query, or the names in a file."""
    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:
        # A query may be longer than a name of a file.
        is_file = False
    if not is_file:
        if path.suffix in {".txt", ".csv", ".tsv", ".list"} and " " not in text:
            raise ConfigError(f"--cells {text}: there is no such file. Give a file or a query.")
        return text
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--cells {text} is no text. Give a file with a cell's name a line."
        ) from error
    return [name for name in names if name]

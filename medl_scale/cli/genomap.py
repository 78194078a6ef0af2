"""The command that draws cells as images: genomap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import LogJson, Quiet, as_names
from medl_scale.cli.projecting import chosen_cells
from medl_scale.config import LayoutMethod

__all__ = ["genomap"]


@app.command()
def genomap(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    cells: Annotated[
        str,
        typer.Option(
            help="A few cells of the atlas: a query on obs, such as \"cell_type == 'T'\", or a file "
            "with a cell's name a line."
        ),
    ],
    as_batch: Annotated[
        str, typer.Option(help="Batches they come from: names, comma-separated; all; or average.")
    ],
    output: Annotated[
        list[Path],
        typer.Option("--output", "-o", help="OUT.png, OUT.svg or OUT.pdf; may be given again."),
    ],
    layout: Annotated[
        LayoutMethod,
        typer.Option(
            help="map2d: neighbouring pixels are genes that go together; genomap: the published rings."
        ),
    ] = "map2d",
    model: Annotated[str, typer.Option(help="me, or the published re.")] = "me",
    fold: Annotated[int | None, typer.Option(help="Whose model (the run's first).")] = None,
    label_genes: Annotated[
        int, typer.Option(help="Genes to name for each cell: those that batches move most.")
    ] = 10,
    atlas: Annotated[str | None, typer.Option(help="The run's atlas, if it was moved.")] = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Draw cells as images in which every gene has its pixel.

    A row for each cell: as measured, as reconstructed, and as if of each
    batch; its own batch is outlined in red. Where genes lie is learnt from all
    train cells when first asked for, and kept in RUN/genomaps, so that all
    pictures of a run compare.

    medl-scale genomap runs/atlas --cells names.txt --as-batch all -o cells.png
    """
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    chosen = chosen_cells(cells)
    from medl_scale.pipeline import Run
    from medl_scale.pipeline.genomaps import draw_genomaps

    moved = draw_genomaps(
        Run.load(run),
        chosen,
        as_names(as_batch) or (),
        output,
        model=model,
        method=layout,
        fold=fold,
        n_labelled=label_genes,
        atlas=atlas,
        progress=talk.progress(),
    )
    genes = ", ".join(moved["gene"].value_counts().index[:5])
    written = ", ".join(map(str, output))
    talk.say(f"{written}{f'; batches move most: {genes}' if genes else ''}")

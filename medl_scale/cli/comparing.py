"""The command that tests groups of donors: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import LogJson, Overwrite, Quiet
from medl_scale.cli.projecting import chosen_cells
from medl_scale.config import ComparedTest, ComparedValues, SwitchedSides

__all__ = ["compare"]


@app.command()
def compare(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run whose batches are donors.")],
    groups: Annotated[str, typer.Option(help="Column of obs with each donor's group.")],
    a: Annotated[str, typer.Option("--a", help="First group, such as healthy.")],
    b: Annotated[str, typer.Option("--b", help="Second group; differences are b minus a.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="OUT.csv with every gene.")
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(
            help="Cells of the atlas, such as \"cell_type == 'T'\", or a file with a cell's name a "
            "line (all cells)."
        ),
    ] = None,
    of: Annotated[
        ComparedValues,
        typer.Option(
            help="as_if: the same cells as if from each donor; measured: each donor's own cells; "
            "average: these without their donor's effects."
        ),
    ] = "as_if",
    test: Annotated[
        ComparedTest, typer.Option(help="Whose p-values sort the genes; the table has both.")
    ] = "mixed",
    model: Annotated[str, typer.Option(help="me, or the published re.")] = "me",
    fold: Annotated[int | None, typer.Option(help="Whose model (the run's first).")] = None,
    switch: Annotated[
        SwitchedSides,
        typer.Option(help="Sides of re that read the target batch: both, or decoder."),
    ] = "both",
    level: Annotated[float, typer.Option(help="Level of the confidence intervals.")] = 0.95,
    top: Annotated[int, typer.Option(help="Genes to list.", min=1)] = 20,
    atlas: Annotated[str | None, typer.Option(help="The run's atlas, if it was moved.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Test every gene for a difference between two groups of donors.

    Donors are the unit, not cells: each counts once, and every p-value stands
    beside the number of donors. q is p adjusted over the genes (Benjamini and
    Hochberg).

    medl-scale compare runs/atlas --groups condition --a healthy --b AML
    --cells "cell_type == 'Mono'" -o mono.csv
    """
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    chosen = None if cells is None else chosen_cells(cells)
    from medl_scale.cli.answers import check_csv, print_comparison, write_csv
    from medl_scale.pipeline import Run

    if output is not None:
        check_csv(output, overwrite=overwrite)
    table = Run.load(run).compare(
        groups,
        (a, b),
        cells=chosen,
        of=of,
        test=test,
        model=model,
        fold=fold,
        switch=switch,
        level=level,
        atlas=atlas,
        progress=talk.progress(),
    )
    if not quiet and not log_json:
        print_comparison(table, test=test, n=top)
    if output is not None:
        write_csv(table, output)
        talk.say(f"Every gene: {output}")

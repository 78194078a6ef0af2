"""The command that lists what batches do to genes: effects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import LogJson, Overwrite, Quiet, as_names

__all__ = ["effects"]


@app.command()
def effects(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="OUT.csv or OUT.csv.gz: every gene and batch, with intervals."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="me, or the published re.")] = "me",
    fold: Annotated[int | None, typer.Option(help="Whose model (the run's first).")] = None,
    batches: Annotated[
        str | None, typer.Option(help="Batches whose moves are listed, comma-separated (all).")
    ] = None,
    level: Annotated[float, typer.Option(help="Level of the credible intervals.")] = 0.95,
    top: Annotated[int, typer.Option(help="Genes to list; 0 for all.", min=0)] = 20,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """List the genes that batches move most, as the model's random effects say.

    Moves are in standard deviations of the gene, away from the average batch;
    genes come in the order of how far batches surely move them.

    medl-scale effects runs/atlas --top 30 -o effects.csv
    """
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    from medl_scale.cli.answers import print_moved_genes
    from medl_scale.pipeline import Run
    from medl_scale.pipeline.effect_files import write_effects

    loaded = Run.load(run)
    moved = loaded.moved_genes(model, fold=fold, batches=as_names(batches), level=level)
    if output is not None:
        write_effects(
            loaded,
            output,
            model=model,
            fold=fold,
            level=level,
            overwrite=overwrite,
            progress=talk.progress(),
        )
    if not quiet and not log_json:
        print_moved_genes(moved, n=top or len(moved), level=level)
    if output is not None:
        talk.say(f"Effects of every gene and batch: {output}")

"""Commands that read what is there: embed, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import LogJson, Overwrite, Quiet, as_names

__all__ = ["embed", "info"]


@app.command()
def embed(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    new: Annotated[Path, typer.Argument(help="New cells: any input of prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="OUT.h5ad or OUT.zarr.")],
    models: Annotated[
        str | None, typer.Option(help="Comma-separated (all finished models of the run).")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Whose models (the run's first).")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to read instead of X.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Write the latents of new cells from a saved run; the atlas is not needed."""
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    from medl_scale.pipeline import Run
    from medl_scale.pipeline.embedding import check_output, write_embedded

    check_output(output, new, overwrite=overwrite)
    loaded = Run.load(run)
    embedded = loaded.embed(
        new, models=as_names(models), fold=fold, layer=layer, progress=talk.progress()
    )
    write_embedded(embedded, output, overwrite=overwrite)
    talk.say(f"{output}: {embedded.n_obs:,} cells, {', '.join(sorted(embedded.obsm))}")


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="Prepared atlas, its URL, or a run.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an atlas or a run is."""
    from medl_scale.pipeline import info as describe

    found = describe(path)
    if json_:
        import json

        typer.echo(json.dumps(found, indent=1, default=str))
        return
    from medl_scale.cli.tables import print_info

    print_info(found)

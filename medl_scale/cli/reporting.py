"""The command that writes a page on a run: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import LogJson, Quiet

__all__ = ["report"]


@app.command()
def report(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write (RUN/report.html).")
    ] = None,
    no_umaps: Annotated[
        bool, typer.Option("--no-umaps", help="Leave out the UMAPs of the latents.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Leave out the check of the what-if.")
    ] = False,
    no_viewer: Annotated[
        bool, typer.Option("--no-viewer", help="Leave out the viewer of the what-if.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.")] = 0,
    atlas: Annotated[str | None, typer.Option(help="The run's atlas, if it was moved.")] = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Write what a run holds as one page that opens in any browser.

    Data, fits, scores, pictures, what batches do to genes, and a viewer of
    cells as if they came from other batches. The page needs no network. One
    that is there already is replaced; fit writes it at its end.

    medl-scale report runs/atlas -o report.html
    """
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    from medl_scale.pipeline.reporting import report as write

    written = write(
        run,
        output,
        atlas=atlas,
        umaps=not no_umaps,
        check=not no_check,
        viewer=not no_viewer,
        seed=seed,
        progress=talk.progress(),
    )
    talk.say(f"Report: {written}")

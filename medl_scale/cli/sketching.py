"""The command that sketches a whole atlas under all batches, and asks the sketch: sketch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import LogJson, Overwrite, Quiet, as_names
from medl_scale.config import ScoredSplit
from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from medl_scale.interpret.sketch import Sketch
    from medl_scale.pipeline import Run

__all__ = ["sketch"]

EVERY_TYPE = "all"


@app.command()
def sketch(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the sketch goes (RUN/sketches); .zarr."),
    ] = None,
    from_batch: Annotated[
        str | None, typer.Option("--from", help="Ask: move cells from this batch ...")
    ] = None,
    to_batch: Annotated[str | None, typer.Option("--to", help="... to this one.")] = None,
    cell_type: Annotated[str | None, typer.Option(help="Whose cells are moved.")] = None,
    distances: Annotated[
        str | None,
        typer.Option(
            help="Ask: how differently cells of this type look in every two batches; all for the mean "
            "over types."
        ),
    ] = None,
    strata: Annotated[
        int | None, typer.Option(help="With --distances: divide the batches into so many.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Write the answer to this CSV file.")] = None,
    top: Annotated[int, typer.Option(help="Genes to list.", min=1)] = 20,
    model: Annotated[str, typer.Option(help="A model whose decoder alone reads the batch.")] = "me",
    fold: Annotated[int | None, typer.Option(help="Whose model (the run's first).")] = None,
    as_batch: Annotated[
        str | None, typer.Option(help="Batches to decode under, comma-separated (all).")
    ] = None,
    split: Annotated[ScoredSplit, typer.Option(help="Cells to sketch.")] = "all",
    atlas: Annotated[str | None, typer.Option(help="The run's atlas, if it was moved.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Decode every cell under every batch, keep means and variances, and ask them.

    Per cell type, source batch and target batch: mean and variance of the
    expression, and the number of cells. A question is put to the sketch that is
    there, without decoding again; --overwrite then replaces the --table, and
    without a question the sketch.

    medl-scale sketch runs/atlas

    medl-scale sketch runs/atlas --from BM1 --to BM3 --cell-type T

    medl-scale sketch runs/atlas --distances T --table distances.csv
    """
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    asks_moves = _asks_moves(from_batch, to_batch, cell_type)
    asks = asks_moves or distances is not None
    if asks_moves and distances is not None:
        raise ConfigError("Ask one thing at a time: --from, --to and --cell-type, or --distances.")
    if table is not None and not asks:
        raise ConfigError(
            "--table holds an answer: ask with --from, --to and --cell-type, or with --distances."
        )
    if strata is not None and distances is None:
        raise ConfigError("--strata divides batches by their distances: add --distances TYPE.")
    from medl_scale.cli.answers import check_csv, print_frame, write_csv
    from medl_scale.pipeline import Run

    if table is not None:
        check_csv(table, overwrite=overwrite)
    loaded = Run.load(run)
    made = _present(loaded, output, model, fold) if asks else None
    if made is None:
        made = loaded.sketch(
            output,
            model=model,
            fold=fold,
            as_batch=as_names(as_batch),
            split=split,
            atlas=atlas,
            overwrite=overwrite,
            progress=talk.progress(),
        )
        n_labels, n_sources, n_targets, n_genes = made.axes.shape
        talk.say(
            f"{made.path}: {int(made.axes.n_cells.sum()):,} cells; {n_labels} types x {n_sources} source "
            f"x {n_targets} target batches x {n_genes:,} genes"
        )
    shown = not quiet and not log_json
    if distances is not None:
        label = None if distances == EVERY_TYPE else distances
        answer = made.distances(label)
        if shown:
            print_frame(answer, title="Distances of batches, in s.d. of the genes", index="batch")
        if strata is not None:
            cut = made.dendrogram(label).strata(strata)
            answer = answer.assign(stratum=cut.reindex(answer.index))
            if shown:
                print_frame(cut.to_frame(), title="Strata, by average linkage", index="batch")
    elif asks_moves:
        answer = made.moved_genes(str(cell_type), str(from_batch), str(to_batch))
        if shown:
            title = f"What moving {cell_type} from {from_batch} to {to_batch} changes most"
            print_frame(answer.iloc[:top], title=title, index="gene")
    else:
        return
    if table is not None:
        write_csv(answer, table, index=True)
        talk.say(f"Answer: {table}")


def _asks_moves(*parts: str | None) -> bool:
    """Say whether it is asked what moving cells changes; the question must be whole."""
    given = [part is not None for part in parts]
    if any(given) and not all(given):
        raise ConfigError("To ask what moving changes, give --from, --to and --cell-type together.")
    return all(given)


def _present(run: Run, output: Path | None, model: str, fold: int | None) -> Sketch | None:
    """Return the sketch that is there already; None if there is none."""
    from medl_scale.interpret.sketch import Sketch
    from medl_scale.pipeline.sketching import sketch_path

    place = sketch_path(run, model, fold) if output is None else output
    return Sketch(place) if place.exists() else None

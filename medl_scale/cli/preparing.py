"""Commands that make data: simulate, prepare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.options import (
    BatchKey,
    ConfigFile,
    LabelsKey,
    LogJson,
    Overwrite,
    PrintConfig,
    Quiet,
)
from medl_scale.config import HvgFlavor, InputUnits, Join
from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from medl_scale.config import PrepareConfig

__all__ = ["prepare", "simulate"]


@app.command()
def simulate(
    ctx: typer.Context,
    output: Annotated[Path, typer.Argument(help="OUT.zarr or OUT.h5ad.")],
    cells: Annotated[int, typer.Option(help="Number of cells.")] = 20_000,
    genes: Annotated[int, typer.Option(help="Number of genes.")] = 2_000,
    batches: Annotated[int, typer.Option(help="Number of batches.")] = 12,
    labels: Annotated[int, typer.Option(help="Number of cell types.")] = 8,
    seed: Annotated[int, typer.Option(help="The same seed gives the same file.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Simulate raw counts with cell types and batch effects, in blocks."""
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    from medl_scale.store.simulate import simulate as write_simulation

    write_simulation(
        output,
        n_cells=cells,
        n_genes=genes,
        n_batches=batches,
        n_labels=labels,
        seed=seed,
        overwrite=overwrite,
        progress=talk.progress(),
    )
    talk.say(
        f"{output}: {cells:,} cells x {genes:,} genes, batch_key 'batch', labels_key 'cell_type'"
    )


@app.command()
def prepare(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help=".h5ad, AnnData .zarr, 10x .h5, or 10x mtx folder; several are joined."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Atlas to write: a folder, or a URL such as s3://..."),
    ] = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    layer: Annotated[str | None, typer.Option(help="Layer to read instead of X.")] = None,
    n_top_genes: Annotated[
        int | None, typer.Option(help="Highly variable genes to keep (3000); 0 keeps all.")
    ] = None,
    min_genes: Annotated[
        int | None, typer.Option(help="Remove cells with fewer detected genes (10).")
    ] = None,
    min_cells: Annotated[
        int | None, typer.Option(help="Remove genes detected in fewer cells (3).")
    ] = None,
    input_units: Annotated[
        InputUnits | None, typer.Option(help="What the values are (counts).")
    ] = None,
    hvg_flavor: Annotated[
        HvgFlavor | None, typer.Option(help="How highly variable genes are chosen (seurat).")
    ] = None,
    hvg_batch_key: Annotated[
        str | None, typer.Option(help="Choose genes within the levels of this column first.")
    ] = None,
    join: Annotated[
        Join | None, typer.Option(help="Genes of several inputs: inner (shared) or outer (any).")
    ] = None,
    batch_from_file: Annotated[
        bool | None, typer.Option("--batch-from-file", help="Each file is a batch.")
    ] = None,
    unlabeled_category: Annotated[
        str | None, typer.Option(help="Label of cells of unknown type (Unknown).")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Parts of the cross-validation (5).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of shuffling and folds (0).")] = None,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Make a prepared atlas of raw counts: filter, choose genes, shuffle, split; out of core."""
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    given = {
        "batch_key": batch_key,
        "labels_key": labels_key,
        "layer": layer,
        "n_top_genes": n_top_genes,
        "min_genes": min_genes,
        "min_cells": min_cells,
        "input_units": input_units,
        "hvg_flavor": hvg_flavor,
        "hvg_batch_key": hvg_batch_key,
        "join": join,
        "batch_from_file": batch_from_file,
        "unlabeled_category": unlabeled_category,
        "folds": folds,
        "seed": seed,
    }
    settings = _prepare_config(config, given)
    if print_config:
        from medl_scale.settings import to_toml

        # TOML cannot say None, and to leave it out would mean the default.
        typer.echo(
            to_toml(prepare=vars(settings) | {"n_top_genes": settings.n_top_genes or 0}), nl=False
        )
        return
    if output is None:
        raise ConfigError("The atlas needs a place: name it with --output, such as -o atlas.zarr.")
    from medl_scale.store.prepare import prepare as write_atlas

    atlas = write_atlas(inputs, output, settings, overwrite=overwrite, progress=talk.progress())
    talk.say(
        f"{output}: {atlas.n_obs:,} cells x {atlas.n_vars:,} genes, {len(atlas.batch_levels)} batches, "
        f"{len(atlas.label_levels)} labels, {atlas.n_folds} folds\nNext: medl-scale fit {output}"
    )


def _prepare_config(path: Path | None, given: dict[str, Any]) -> PrepareConfig:
    """Return the settings of `prepare` from a file and the command line."""
    from medl_scale.config import PrepareConfig
    from medl_scale.settings import build, merge, read_sections

    values = merge(read_sections(path)["prepare"], given)
    if values.get("batch_from_file"):
        values.setdefault("batch_key", "batch")
    if "batch_key" not in values:
        raise ConfigError("The batch is needed: name its column of obs with --batch-key.")
    return build(PrepareConfig, values, place="prepare")

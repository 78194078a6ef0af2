"""The command line: options into calls of the pipeline, results into tables, errors into exit codes.

Nothing heavy is imported here, so that `medl-scale --help` answers at once.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, override

import typer  # noqa: TID253 - the command line is what it is for
from typer.core import TyperGroup  # noqa: TID253

from medl_scale.config import (
    MODELS,
    Adversary,
    Compile,
    HvgFlavor,
    InputUnits,
    Join,
    Preset,
    PresetData,
)
from medl_scale.errors import ConfigError, MedlError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medl_scale.config import PrepareConfig, RunConfig
    from medl_scale.progress import Progress

__all__ = ["app", "main"]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands: what users can mend, and Ctrl-C, become one line and an exit code."""

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MedlError as error:
            notes = getattr(error, "__notes__", [])
            _talk(ctx).fail("error", " ".join([f"Error: {error}", *notes]))
            raise typer.Exit(EXIT_USER_ERROR) from error
        except KeyboardInterrupt as error:
            rest = "Continue the run with --resume." if ctx.invoked_subcommand == "fit" else ""
            _talk(ctx).fail("interrupted", f"Interrupted. {rest}".rstrip())
            raise typer.Exit(EXIT_INTERRUPTED) from error


app = typer.Typer(
    name="medl-scale",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Separate what a cell [b]is[/b] from the batch it came from, at atlas scale.\n\n"
        "Typical use:\n\n"
        "  medl-scale prepare counts.h5ad -o atlas.zarr --batch-key donor --labels-key cell_type\n\n"
        "  medl-scale fit atlas.zarr --workers 4\n\n"
        "The latents are then in obsm of atlas.zarr: X_medl_me (integrated), X_medl_fe, X_medl_re."
    ),
)


@dataclass
class Talk:
    """How much the command says."""

    quiet: bool = False
    verbose: bool = False
    log_json: bool = False

    def progress(self) -> Progress:
        """Return where long steps report to."""
        from medl_scale.progress import BarProgress, JsonProgress, SilentProgress

        if self.log_json:
            return JsonProgress()
        return SilentProgress() if self.quiet else BarProgress(verbose=self.verbose)

    def say(self, message: str) -> None:
        """Print a line of the result, unless it is to be quiet or for machines."""
        if not self.quiet and not self.log_json:
            typer.echo(message)

    def warn(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        """Print a warning meant for users as one line; leave out those of libraries to each other."""
        if not issubclass(category, UserWarning):
            return
        if self.log_json:
            self.progress().note(str(message), level="warning")
        elif not self.quiet:
            typer.echo(f"Warning: {message}", err=True)

    def fail(self, level: str, message: str) -> None:
        """Print why the command ends."""
        if self.log_json:
            self.progress().note(message, level=level)
        else:
            typer.echo(message, err=True)


def _talk(ctx: typer.Context, **how: bool) -> Talk:
    """Return how the running command talks, having set it where options are given."""
    root = ctx.find_root()
    if how or root.obj is None:
        root.obj = Talk(**how)
        warnings.showwarning = root.obj.warn
    talk: Talk = root.obj
    return talk


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="One line an epoch.")]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Progress as one JSON object a line, on standard error.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")]
BatchKey = Annotated[
    str | None, typer.Option(help="Column of obs with the batch (donor, sample, protocol).")
]
LabelsKey = Annotated[str | None, typer.Option(help="Column of obs with cell types.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings; options on the command line win."),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings as TOML and stop.")
]


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
    talk = _talk(ctx, quiet=quiet, log_json=log_json)
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
        list[Path],
        typer.Argument(
            help=".h5ad, AnnData .zarr, 10x .h5, or 10x mtx folder; several are joined."
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Atlas to write.")] = None,
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
    talk = _talk(ctx, quiet=quiet, log_json=log_json)
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

    atlas = write_atlas(
        list(inputs), output, settings, overwrite=overwrite, progress=talk.progress()
    )
    talk.say(
        f"{output}: {atlas.n_obs:,} cells x {atlas.n_vars:,} genes, {len(atlas.batch_levels)} batches, "
        f"{len(atlas.label_levels)} labels, {atlas.n_folds} folds\nNext: medl-scale fit {output}"
    )


@app.command()
def fit(
    ctx: typer.Context,
    data: Annotated[Path, typer.Argument(help="Prepared atlas, or raw counts (prepared first).")],
    models: Annotated[
        str | None, typer.Option(help=f"Comma-separated, from {','.join(MODELS)} (me,fe,re).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that fit side by side (1).")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Fit this fold only (0).")] = None,
    folds: Annotated[int | None, typer.Option(help="Fit the first N folds.")] = None,
    n_latent: Annotated[
        int | None, typer.Option(help="Latent dimensions (me 30, others 50; preset medl 2).")
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="auto (ours), or medl / scmedal: the papers' mathematics and weights."),
    ] = None,
    preset_data: Annotated[
        PresetData | None, typer.Option(help="Whose hand-tuned weights a paper's preset takes.")
    ] = None,
    adversary: Annotated[
        Adversary | None,
        typer.Option(help="FE, FEC: published; strong mixes more and costs cell-type detail."),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="FE, FEC: weight of the linear adversary (0).")
    ] = None,
    recon_weight: Annotated[
        float | None, typer.Option(help="Weight of reconstruction, instead of the rule's.")
    ] = None,
    fe_rep: Annotated[
        str | None, typer.Option(help="me: use this obsm key as latent, train the decoder only.")
    ] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Most passes over the data (500).")] = None,
    minibatch_size: Annotated[
        int | None, typer.Option("--minibatch-size", "--batch-size", help="Cells a step (512).")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's rate (1e-3; papers' presets 1e-4).")
    ] = None,
    early_stopping_patience: Annotated[
        int | None, typer.Option(help="Steps without a better validation loss (50 to 150).")
    ] = None,
    cache_memory: Annotated[
        str | None, typer.Option(help="Host memory for decoded rows, such as 2GiB (2GiB); 0: none.")
    ] = None,
    compile_: Annotated[
        Compile | None, typer.Option("--compile", help="XLA for the step: auto, on, off.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of a fit (cores / workers).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (0).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run (runs/NAME).")
    ] = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Overwrite = False,
    no_latents: Annotated[
        bool, typer.Option("--no-latents", help="Keep latents in the run only, not in the atlas.")
    ] = False,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = False,
) -> None:
    """Train models and write the latent of every cell into the atlas.

    Models: me (joint mixed effects, the default method), fe / fec (fixed effects, with a cell-type
    classifier), re (random effects), ae / aec (no adversary), pca (plain and batch-centred).
    KERAS_BACKEND=jax trains on JAX instead of TensorFlow.
    """
    talk = _talk(ctx, quiet=quiet, verbose=verbose, log_json=log_json)
    given = {
        "models": None if models is None else tuple(m.strip() for m in models.split(",") if m),
        "folds": _folds(fold, folds),
        "fe_rep": fe_rep,
        "workers": workers,
        "model": {
            "preset": preset,
            "preset_data": preset_data,
            "n_latent": n_latent,
            "adversary": adversary,
            "eta": eta,
            "recon_weight": recon_weight,
        },
        "train": {
            "max_epochs": max_epochs,
            "learning_rate": learning_rate,
            "early_stopping_patience": early_stopping_patience,
            "compile": compile_,
            "threads": threads,
            "seed": seed,
        },
        "stream": {
            "minibatch_size": minibatch_size,
            "cache_memory": None if cache_memory is None else _bytes(cache_memory),
        },
    }
    from medl_scale.settings import read_sections, to_toml

    file = read_sections(config)
    if resume and config is None:
        file |= {"fit": _stored_settings(data, output)}
    settings = _run_config(file["fit"], given)
    if print_config:
        typer.echo(to_toml(fit=settings), nl=False)
        return
    from medl_scale.pipeline import fit as run_fit

    prepare_settings = dict(file["prepare"])
    run = run_fit(
        data,
        output=output,
        batch_key=batch_key or prepare_settings.pop("batch_key", None),
        labels_key=labels_key or prepare_settings.pop("labels_key", None),
        config=settings,
        resume=resume,
        overwrite=overwrite,
        write_latents=not no_latents,
        progress=talk.progress(),
        prepare_settings=prepare_settings,
    )
    if not quiet and not log_json:
        from medl_scale.cli_tables import print_run

        print_run(run)


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
    talk = _talk(ctx, quiet=quiet, log_json=log_json)
    from medl_scale.pipeline import Run
    from medl_scale.pipeline.embedding import check_output, write_embedded

    check_output(output, new, overwrite=overwrite)
    chosen = None if models is None else tuple(name.strip() for name in models.split(","))
    loaded = Run.load(run)
    embedded = loaded.embed(new, models=chosen, fold=fold, layer=layer, progress=talk.progress())
    write_embedded(embedded, output, overwrite=overwrite)
    talk.say(f"{output}: {embedded.n_obs:,} cells, {', '.join(sorted(embedded.obsm))}")


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Prepared atlas or run.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an atlas or a run is."""
    from medl_scale.pipeline import info as describe

    found = describe(path)
    if json_:
        import json

        typer.echo(json.dumps(found, indent=1, default=str))
        return
    from medl_scale.cli_tables import print_info

    print_info(found)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, on the process's arguments by default, and exit."""
    # What TensorFlow's Python side logs below errors is for those who develop with it.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        app(args=args, prog_name="medl-scale")


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


def _stored_settings(data: Path, output: Path | None) -> dict[str, Any]:
    """Return the settings of the run that is to be resumed; empty if it has not come to them."""
    from medl_scale.pipeline.fitting import default_output
    from medl_scale.pipeline.run import SETTINGS_FILE, Run

    folder = output or default_output(data)
    return dict(Run(folder).settings["fit"]) if (folder / SETTINGS_FILE).exists() else {}


def _run_config(file: Mapping[str, Any], given: Mapping[str, Any]) -> RunConfig:
    """Return the settings of `fit` from a file and the command line."""
    from medl_scale.config import RunConfig
    from medl_scale.settings import build, merge

    return build(RunConfig, merge(file, given), place="fit")


def _folds(fold: int | None, folds: int | None) -> tuple[int, ...] | None:
    """Return the folds asked for, or None."""
    if fold is not None and folds is not None:
        raise ConfigError("Give --fold K for one fold or --folds N for the first N, not both.")
    if folds is not None and folds < 1:
        raise ConfigError(f"--folds must be at least 1; got {folds}.")
    if folds is not None:
        return tuple(range(folds))
    return None if fold is None else (fold,)


def _bytes(text: str) -> int:
    """Return bytes from text such as 2GiB or 500MB."""
    factors = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
    lowered = text.strip().lower()
    unit = next((name for name in factors if lowered.endswith(name)), "")
    try:
        return int(float(lowered.removesuffix(unit)) * factors.get(unit, 1))
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--cache-memory must be a number of bytes with an optional unit such as 2GiB; got {text!r}."
        ) from error

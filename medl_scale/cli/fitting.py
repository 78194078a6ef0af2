"""The command that trains: fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.cluster_options import (
    Cluster,
    DashboardAddress,
    DeviceMemoryLimit,
    Interface,
    LocalDirectory,
    MemoryLimit,
    Protocol,
    RmmPoolSize,
    SchedulerAddress,
    SchedulerFile,
    cluster_config,
)
from medl_scale.cli.options import (
    BatchKey,
    ConfigFile,
    LabelsKey,
    LogJson,
    Overwrite,
    PrintConfig,
    Quiet,
    Verbose,
    as_bytes,
    as_names,
)
from medl_scale.config import MODELS, Adversary, Compile, Precision, Preset, PresetData
from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medl_scale.config import RunConfig

__all__ = ["fit"]


@app.command()
def fit(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(help="Prepared atlas or its URL, or raw counts (prepared first).")
    ],
    models: Annotated[
        str | None, typer.Option(help=f"Comma-separated, from {','.join(MODELS)} (me,fe,re,pca).")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that fit side by side, one per GPU where there are GPUs (1); or most to use "
            "of a cluster (all)."
        ),
    ] = None,
    workers_per_fit: Annotated[
        str | None,
        typer.Option(
            metavar="<int>|auto",
            help="Workers that share each fit (auto: 1; more if there are fewer fits than workers and "
            "the atlas is large).",
        ),
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
    precision: Annotated[
        Precision | None,
        typer.Option(help="Matrix products of a step: float32, bf16 (for GPUs), auto (float32)."),
    ] = None,
    device_cache_memory: Annotated[
        str | None,
        typer.Option(
            help="JAX: GPU memory for train rows, such as 40GiB (40 % of what is free); 0: none."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "--nthreads", help="CPU threads of a fit (cores / workers)."),
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
    no_evaluate: Annotated[
        bool, typer.Option("--no-evaluate", help="Do not score the latents at the end.")
    ] = False,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Write no RUN/report.html after scoring.")
    ] = False,
    cluster: Cluster = None,
    scheduler_address: SchedulerAddress = None,
    scheduler_file: SchedulerFile = None,
    memory_limit: MemoryLimit = None,
    device_memory_limit: DeviceMemoryLimit = None,
    rmm_pool_size: RmmPoolSize = None,
    protocol: Protocol = None,
    interface: Interface = None,
    local_directory: LocalDirectory = None,
    dashboard_address: DashboardAddress = None,
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
    talk = talk_of(ctx, quiet=quiet, verbose=verbose, log_json=log_json)
    given = {
        "models": as_names(models),
        "folds": _folds(fold, folds),
        "fe_rep": fe_rep,
        "workers": workers,
        "workers_per_fit": _number_or_word(workers_per_fit),
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
            "precision": precision,
            "threads": threads,
            "seed": seed,
        },
        "stream": {
            "minibatch_size": minibatch_size,
            "cache_memory": as_bytes(cache_memory, "--cache-memory"),
            "device_cache_memory": as_bytes(device_cache_memory, "--device-cache-memory"),
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
    where = cluster_config(
        cluster=cluster,
        scheduler_address=scheduler_address,
        scheduler_file=scheduler_file,
        memory_limit=memory_limit,
        device_memory_limit=device_memory_limit,
        rmm_pool_size=rmm_pool_size,
        protocol=protocol,
        interface=interface,
        local_directory=local_directory,
        dashboard_address=dashboard_address,
    )
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
        evaluate=not no_evaluate,
        cluster=where,
        report=False if no_report else None,
        progress=talk.progress(),
        prepare_settings=prepare_settings,
    )
    if not quiet and not log_json:
        from medl_scale.cli.tables import print_run, print_scores
        from medl_scale.pipeline.scores import SCORES_FILE

        print_run(run)
        if not no_evaluate and (run.path / SCORES_FILE).exists():
            print_scores(run.scores)
        if (page := run.path / "report.html").exists():
            typer.echo(f"Report: {page}")


def _stored_settings(data: str, output: Path | None) -> dict[str, Any]:
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


def _number_or_word(text: str | None) -> int | str | None:
    """Return a number where the text is one; what else it may be, the settings know."""
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else text


def _folds(fold: int | None, folds: int | None) -> tuple[int, ...] | None:
    """Return the folds asked for, or None."""
    if fold is not None and folds is not None:
        raise ConfigError("Give --fold K for one fold or --folds N for the first N, not both.")
    if folds is not None and folds < 1:
        raise ConfigError(f"--folds must be at least 1; got {folds}.")
    if folds is not None:
        return tuple(range(folds))
    return None if fold is None else (fold,)

"""The command that scores: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer  # noqa: TID253 - the command line is what it is for

from medl_scale.cli.app import app, talk_of
from medl_scale.cli.cluster_options import (
    Cluster,
    DashboardAddress,
    MemoryLimit,
    SchedulerAddress,
    SchedulerFile,
    cluster_config,
)
from medl_scale.cli.options import (
    BatchKey,
    ConfigFile,
    LabelsKey,
    LogJson,
    PrintConfig,
    Quiet,
    as_names,
)
from medl_scale.config import METRIC_GROUPS, Backend, EvaluateConfig, Protocol, ScoredSplit

__all__ = ["evaluate"]


@app.command()
def evaluate(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Run, prepared atlas or its URL, or any AnnData .h5ad / .zarr.")
    ],
    use_rep: Annotated[
        list[str] | None,
        typer.Option(help="Latent to score, such as X_medl_me; may be given again (all)."),
    ] = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Further columns of obs that forests predict, such as diagnosis,sex."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated metrics or groups: {', '.join(METRIC_GROUPS)} (all four)."
        ),
    ] = None,
    split: Annotated[
        ScoredSplit | None,
        typer.Option(help="Cells to score (a run: test; an AnnData: all)."),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="full scores every cell; paper adds the papers' 10,000 cells, under other names."
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="About how long it may take: the rest is estimated, or left out."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that share the work (1), or most to use of a cluster (all)."),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="auto takes a GPU where there is one.")
    ] = None,
    tol: Annotated[
        float | None, typer.Option(help="Error allowed of silhouettes that are not exact.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Level of the intervals of estimated silhouettes (0.99).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (0).")] = None,
    atlas: Annotated[str | None, typer.Option(help="The run's atlas, if it was moved.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Table to write (RUN/scores.csv, NAME_scores.csv)."),
    ] = None,
    cluster: Cluster = None,
    scheduler_address: SchedulerAddress = None,
    scheduler_file: SchedulerFile = None,
    memory_limit: MemoryLimit = None,
    dashboard_address: DashboardAddress = None,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Score latents on all their cells, and say how exact every figure is.

    Silhouettes, LISI, kBET, agreement with k-means, Calinski-Harabasz,
    Davies-Bouldin; and random forests, beside controls that know nothing but
    the batch. A table that is there already is replaced.
    """
    talk = talk_of(ctx, quiet=quiet, log_json=log_json)
    given = {
        "use_rep": None
        if use_rep is None
        else tuple(name for text in use_rep for name in as_names(text) or ()),
        "batch_key": batch_key,
        "labels_key": labels_key,
        "targets": as_names(targets),
        "metrics": as_names(metrics),
        "split": split,
        "protocol": protocol,
        "max_seconds": max_seconds,
        "workers": workers,
        "backend": backend,
        "tol": tol,
        "confidence": confidence,
        "seed": seed,
    }
    from medl_scale.settings import build, merge, read_sections, to_toml

    settings = build(
        EvaluateConfig, merge(read_sections(config)["evaluate"], given), place="evaluate"
    )
    if print_config:
        typer.echo(to_toml(evaluate=settings), nl=False)
        return
    from medl_scale.pipeline.evaluating import evaluate as score

    scores = score(
        source,
        config=settings,
        atlas=atlas,
        output=output,
        cluster=cluster_config(
            cluster=cluster,
            scheduler_address=scheduler_address,
            scheduler_file=scheduler_file,
            memory_limit=memory_limit,
            dashboard_address=dashboard_address,
        ),
        progress=talk.progress(),
    )
    if not quiet and not log_json:
        from medl_scale.cli.tables import print_scores

        print_scores(scores)

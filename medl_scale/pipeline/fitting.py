"""`fit`: models on folds, each an independent task, and their latents into the atlas."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medl_scale.config import RunConfig
from medl_scale.distribute.clusters import (
    ClusterConfig,
    Workers,
    as_cluster_config,
    check_cluster,
    open_workers,
)
from medl_scale.distribute.machine import count_cores
from medl_scale.errors import ConfigError, FitFailedError, StoreError
from medl_scale.pipeline.finishing import draw_curves, score, write_effects, write_report
from medl_scale.pipeline.latents import write_latents as put_latents
from medl_scale.pipeline.preparing import as_progress, default_atlas_path, prepare
from medl_scale.pipeline.run import ERROR_FILE, HISTORY_FILE, Run, fit_folder
from medl_scale.pipeline.running import check_workers, fit_tasks, run_fits
from medl_scale.pipeline.sharing import may_share, share_fits
from medl_scale.pipeline.starting import check_output, check_same_run, start_run, stored_run
from medl_scale.settings import build
from medl_scale.store.access import exists
from medl_scale.store.atlas import describe, is_prepared
from medl_scale.store.atomic import atomic_file
from medl_scale.store.places import as_place, is_url, local_path, name_of
from medl_scale.train.fit_files import record_lost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from anndata import AnnData
    from distributed import Client  # noqa: TID251 - what users have in their hands

    from medl_scale.distribute.tasks import Outcome, Task
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import Atlas

__all__ = ["fit"]


def fit(
    data: str | os.PathLike[str] | AnnData,
    *,
    output: str | os.PathLike[str] | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    config: RunConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    write_latents: bool = True,
    evaluate: bool = True,
    report: bool | None = None,
    client: Client | None = None,
    cluster: ClusterConfig | str | os.PathLike[str] | None = None,
    progress: bool | Progress = True,
    prepare_settings: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Run:
    """Train models on an atlas and write the latent of every cell into it.

    Parameters
    ----------
    data
        A prepared atlas, at a path, a URL (`s3://`, `gs://`: any that fsspec opens) or in memory; or
        raw counts, which are prepared first.
    output
        The run's folder, no URL; `runs/<name of the data>` by default.
    batch_key, labels_key
        Columns of `obs`; needed for raw counts only.
    config
        All settings at once; `settings` go on top.
    resume
        Continue a run that was interrupted, with its own settings where none are given; finished
        fits are kept.
    overwrite
        Replace a run that is there.
    write_latents
        Write the first fold's latents into `obsm` of the atlas (`X_medl_me`, ...).
    evaluate
        Score the latents of the test splits at the end, within about as long as training took or ten
        minutes; `medl_scale.evaluate(run)` does so without a limit.
    report
        Write `report.html` into the run at the end, a page on all of it; by default if the latents are
        scored. `medl_scale.report(run)` does so at any time.
    client
        Dask client whose workers fit; the current one by default, if there is one. They must see the
        atlas and the run's folder at the same paths.
    cluster
        A running cluster to join or one to start: a `ClusterConfig`, or the path of a cluster file as
        in the folder `cluster/`. Without either, `workers` above 1 starts processes on this machine, one
        per GPU where there are GPUs.
    progress
        Show progress, or where to report to.
    prepare_settings
        Other settings of `prepare` for raw counts.
    settings
        Fields of `config.RunConfig`; its sections `model`, `train` and `stream` take dictionaries,
        and their fields may be given flat: `fit(..., models=("me",), n_latent=10, max_epochs=50)`.

    Returns
    -------
    Run
        Its folder also gets `effects.csv` and `moved_genes.csv`, what batches do to genes (see
        `pipeline.effect_files.write_run_effects`), if a model has random effects.

    Raises
    ------
    FitFailedError
        If some fits failed; the others are kept, and `resume` tries again.
    OutputExistsError
        If the folder holds a run, and neither `resume` nor `overwrite` was given.
    ConfigError, DataError, AtlasError, StoreError
        If settings or data cannot be used.
    ClusterError, MissingExtraError
        If there are no workers to be had, or they see other files or have other packages.

    Examples
    --------
    >>> run = medl_scale.fit("atlas.zarr", models=("me", "re"))
    >>> run.latent("me")
    """
    shown = as_progress(progress)
    where = as_cluster_config(cluster)
    check_cluster(where)
    if isinstance(data, str | os.PathLike):
        data = as_place(data)
    folder = local_path(output, "A run") if output is not None else default_output(data)
    check_output(folder, resume=resume, overwrite=overwrite)
    before = stored_run(folder) if resume else None
    run_config = with_settings(config or (before.config if before else RunConfig()), settings)
    ref, prepared_here = _prepared(
        data, folder, batch_key, labels_key, prepare_settings or {}, shown, resume=resume
    )
    atlas = describe(ref)
    for fold in run_config.folds:
        atlas.split(fold)
    if before is not None:
        check_same_run(before, run_config, atlas)
    with ExitStack() as stack:
        workers = stack.enter_context(_workers(atlas, run_config, where, client, shown))
        check_workers(workers, ref, folder)
        tasks = share_fits(
            fit_tasks(ref, folder, run_config, workers),
            run_config,
            atlas,
            workers.n_workers,
        )
        # Nothing of an older run is touched before all that can be checked has been.
        start_run(folder, run_config, atlas, before)
        started = time.perf_counter()
        outcomes = run_fits(tasks, workers, shown)
        if not workers.is_elsewhere:
            # What follows wants this machine's memory and cores.
            stack.close()
        run = _recorded(folder, tasks, outcomes)
        if write_latents:
            done = [outcome.value for outcome in outcomes if outcome.error is None]
            put_latents(run, data, ref, done, run_config.folds[0], prepared_here=prepared_here)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        if evaluate and len(failed) < len(outcomes):
            others = workers.client if workers.is_elsewhere else None
            score(run, ref, shown, client=others, seconds=time.perf_counter() - started)
        write_effects(run, shown)
    if (evaluate if report is None else report) and len(failed) < len(outcomes):
        write_report(run, ref, shown)
    if failed:
        _raise_failures(failed, len(outcomes), folder)
    return run


def _workers(
    atlas: Atlas,
    config: RunConfig,
    cluster: ClusterConfig,
    client: Client | None,
    progress: Progress,
) -> AbstractContextManager[Workers]:
    """Return what opens the workers of a run."""
    if atlas.path is not None:
        return open_workers(
            cluster,
            client=client,
            n_workers=config.workers,
            n_threads=config.train.threads,
            most=None if may_share(config, atlas) else len(config.models) * len(config.folds),
            progress=progress,
        )
    if client is not None or cluster.is_given or (config.workers or 1) > 1:
        raise ConfigError(
            "An AnnData in memory is fitted in this process: set workers to 1 and name no cluster, or "
            "give the path of a prepared atlas."
        )
    return nullcontext(Workers(None, 1, config.train.threads or count_cores()))


def _recorded(folder: Path, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> Run:
    """Leave the history, its picture and what went wrong in the run, and warn of what was found."""
    run = Run(folder)
    with atomic_file(folder / HISTORY_FILE) as scratch:
        run.history.to_csv(scratch, index=False)
    draw_curves(run)
    for task, outcome in zip(tasks, outcomes, strict=True):
        error_file = fit_folder(folder, task.payload.model, task.payload.fold) / ERROR_FILE
        if outcome.error is None:
            error_file.unlink(missing_ok=True)
            if outcome.losses:
                lost = [f"after {loss.after_s:.0f} s, {loss.what}" for loss in outcome.losses]
                record_lost(error_file.parent, lost)
            for message in outcome.value.warnings:
                warnings.warn(message, UserWarning, stacklevel=3)
        else:
            error_file.parent.mkdir(parents=True, exist_ok=True)
            error_file.write_text(outcome.traceback or outcome.error)
    return run


def default_output(data: str | os.PathLike[str] | AnnData) -> Path:
    """Return the folder of a run when the user names none."""
    if isinstance(data, str | os.PathLike):
        return Path("runs") / name_of(data).split(".")[0]
    return Path("runs") / "adata"


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return settings with nested or flat fields laid on top.

    Raises
    ------
    ConfigError
        If a name is unknown; the known ones are listed.
    """
    values = dataclasses.asdict(config)
    sections = {
        name: {field.name for field in dataclasses.fields(getattr(config, name))}
        for name in ("model", "train", "stream")
    }
    for name, value in settings.items():
        if name in sections:
            values[name] |= dict(value)
            continue
        section = next((s for s, names in sections.items() if name in names), None)
        if name not in values and section is None:
            every = sorted({*values, *(n for names in sections.values() for n in names)})
            raise ConfigError(f"'{name}' is not a setting of fit. Settings: {', '.join(every)}.")
        if section is None:
            values[name] = value
        else:
            values[section][name] = value
    for name in ("models", "folds"):
        if isinstance(values[name], str | int):
            values[name] = (values[name],)
    return build(RunConfig, values, place="fit")


def _prepared(
    data: str | os.PathLike[str] | AnnData,
    folder: Path,
    batch_key: str | None,
    labels_key: str | None,
    settings: Mapping[str, Any],
    progress: Progress,
    *,
    resume: bool,
) -> tuple[str | os.PathLike[str] | AnnData, bool]:
    """Return a prepared atlas, and whether it was made here from raw counts."""
    if is_prepared(data):
        return data, False
    target = default_atlas_path(folder)
    if resume and is_prepared(target):
        _check_same_input(data, target)
        return str(target), True
    what = str(data) if isinstance(data, str | os.PathLike) else "The AnnData"
    if isinstance(data, str | os.PathLike) and not exists(data):
        raise StoreError(f"{what} does not exist. Give a prepared atlas, or counts to prepare.")
    if is_url(data):
        raise ConfigError(
            f"{what} is not a prepared atlas, and counts are prepared from files. Download it and run "
            "`medl-scale prepare counts.h5ad -o URL`."
        )
    if batch_key is None:
        raise ConfigError(
            f"{what} is not a prepared atlas. Name the column of obs that holds the batch with "
            "--batch-key and it is prepared first, or run `medl-scale prepare` yourself."
        )
    progress.note(f"{what} is not prepared yet: preparing it in {target}.")
    prepare(
        data,
        target,
        batch_key=batch_key,
        labels_key=labels_key,
        overwrite=True,
        progress=progress,
        **settings,
    )
    return str(target), True


def _check_same_input(data: str | os.PathLike[str] | AnnData, target: Path) -> None:
    """Raise if the atlas that an interrupted run prepared is one of other data."""
    provenance = describe(target).provenance
    if isinstance(data, str | os.PathLike):
        same = [Path(one["place"]).name for one in provenance["inputs"]] == [Path(data).name]
    else:
        same = (provenance["n_cells_in"], provenance["n_genes_in"]) == data.shape
    if not same:
        raise ConfigError(
            f"{target} was prepared from other data than these. Resume with the same data, or choose "
            "another --output."
        )


def _raise_failures(failed: Sequence[Outcome], n_fits: int, folder: Path) -> None:
    """Raise one error that names every failed fit."""
    listed = "\n".join(f"  {outcome.name}: {outcome.error}" for outcome in failed)
    raise FitFailedError(
        f"{len(failed)} of {n_fits} fits failed; the others are kept in {folder}.\n{listed}\n"
        "Mend the cause and continue with --resume; error.txt in the fit's folder has the details."
    )

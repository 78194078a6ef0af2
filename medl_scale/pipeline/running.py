"""The fits of a run as tasks: what each needs, where they run, and how they stand."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from medl_scale.distribute.clusters import check_readable, check_shared_folder
from medl_scale.distribute.local import run_tasks
from medl_scale.distribute.tasks import Task
from medl_scale.pipeline.preparing import default_atlas_path
from medl_scale.pipeline.run import fit_folder
from medl_scale.progress import FitLine
from medl_scale.store.places import absolute
from medl_scale.train.fit import fit_one
from medl_scale.train.fit_files import FitTask, read_epochs, read_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medl_scale.config import RunConfig
    from medl_scale.distribute.clusters import Workers
    from medl_scale.distribute.tasks import Outcome
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef

__all__ = ["check_workers", "fit_tasks", "run_fits"]

# Relative cost of one epoch; longest first keeps workers evenly busy.
COSTS = {"fe": 1.3, "fec": 1.3, "me": 1.1, "re": 1.1, "ae": 1.0, "aec": 1.0, "pca": 0.2}


def check_workers(workers: Workers, ref: AtlasRef, folder: Path) -> None:
    """Raise unless workers on other machines see the atlas, and write where this process does.

    Raises
    ------
    ClusterError
        With the worker and the path.
    """
    if workers.client is None or not workers.is_elsewhere:
        return
    check_readable(workers.client, _seen_by_all(ref))
    # Should this process be killed, the run's next start takes such files away.
    prefix = f"{default_atlas_path(folder).name}.medl-tmp-"
    check_shared_folder(workers.client, folder.resolve(), prefix=prefix)


def fit_tasks(ref: AtlasRef, folder: Path, config: RunConfig, workers: Workers) -> list[Task]:
    """Return one task per model and fold."""
    stream = dataclasses.replace(
        config.stream, cache_memory=config.stream.cache_memory // workers.n_per_machine
    )
    # Workers on other machines have another working directory.
    place = folder if workers.client is None else folder.resolve()
    seen = ref if workers.client is None else _seen_by_all(ref)
    return [
        Task(
            name=f"fit {model} fold {fold}",
            payload=FitTask(
                ref=str(seen) if isinstance(seen, str | os.PathLike) else seen,
                model=model,
                fold=fold,
                folder=str(fit_folder(place, model, fold)),
                latents=str(place / "latents.zarr"),
                model_config=config.model,
                train_config=config.train,
                stream_config=stream,
                n_threads=workers.n_threads,
                fe_rep=config.fe_rep if model == "me" else None,
                # `start_run` leaves nothing of another run: what a fit finds is its own, of before it was
                # interrupted or lost a process.
                resume=True,
            ),
            cost=COSTS[model],
        )
        for model in config.models
        for fold in config.folds
    ]


def run_fits(tasks: Sequence[Task], workers: Workers, progress: Progress) -> list[Outcome]:
    """Run all fits and show how they stand."""
    if workers.client is not None:
        # Workers fit while this process waits: what it draws with afterwards takes a second to load.
        threading.Thread(target=_load_drawing, daemon=True).start()
    read_until = {task.name: 0 for task in tasks}
    next_epoch = {task.name: 0 for task in tasks}

    with progress.fits() as show:

        def update(states: Mapping[str, str]) -> None:
            lines = []
            for task in tasks:
                folder = Path(task.payload.folder)
                rows, read_until[task.name] = read_epochs(folder, start=read_until[task.name])
                # Rows come again when a resumed fit goes back to its checkpoint.
                for row in rows:
                    if row["epoch"] >= next_epoch[task.name]:
                        next_epoch[task.name] = row["epoch"] + 1
                        progress.epoch(task.name, row)
                lines.append(_line(task, states[task.name], folder))
            show(lines)

        outcomes = run_tasks(
            fit_one,
            tasks,
            client=workers.client,
            n_workers=workers.n_workers,
            on_update=update,
            on_loss=lambda name, loss: progress.note(
                f"{name}: {loss.what}; it goes on from its last checkpoint.",
                fit=name,
                lost=loss.what,
            ),
        )
        update({o.name: "done" if o.error is None else "failed" for o in outcomes})
    return outcomes


def _load_drawing() -> None:
    """Import what pictures are drawn with."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def _seen_by_all(ref: AtlasRef) -> str:
    """Return where other processes find an atlas: a URL, or a path from the root."""
    return absolute(str(ref))


def _line(task: Task, state: str, folder: Path) -> FitLine:
    """Return how one fit stands."""
    status = read_status(folder) if state == "running" else None
    if status is None:
        return FitLine(task.name, state)
    most_left_s = None
    if status.cells_per_s > 0:
        epochs_left = status.max_epochs - status.epoch - status.share_of_epoch
        most_left_s = max(0.0, epochs_left) * status.epoch_cells / status.cells_per_s
    return FitLine(
        task.name,
        status.state,
        status.epoch,
        status.max_epochs,
        status.share_of_epoch,
        status.cells_per_s,
        most_left_s,
        status.losses,
    )

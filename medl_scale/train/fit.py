"""One model on one fold: from a prepared atlas to a trained model and the latents of all cells.

A fit owns one folder. `fit.json` says what is being fitted, `checkpoint.npz` where it stands,
`history.csv` how it went, `model.npz` is the trained model, and `done.json` marks the end: whatever
comes before it can be continued.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.models.build import build_network, initial_effects, latent_size
from medl_scale.models.loss_weights import weak_reconstruction
from medl_scale.models.network import DataSummary
from medl_scale.progress import is_loss
from medl_scale.seeds import Purpose, generator
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.latents import read_latent_array, write_latent_array
from medl_scale.stream.densify import Transform
from medl_scale.stream.minibatches import blocks
from medl_scale.stream.source import open_source
from medl_scale.stream.statistics import TrainStatistics, train_statistics
from medl_scale.train.effects import NoiseTable
from medl_scale.train.engine import (
    EffectOptions,
    backend_name,
    build_engine,
)
from medl_scale.train.fit_files import (
    EPOCHS_FILE,
    FitStatus,
    FitSummary,
    FitTask,
    check_same_fit,
    latent_path,
    publisher,
    read_summary,
    write_history,
    write_json,
)
from medl_scale.train.fit_inputs import check_labels, frozen_latent, vocabulary_of
from medl_scale.train.fit_settings import is_compiled, limit_threads, loop_config
from medl_scale.train.fitted import FittedModel, FittedNetwork, Vocabulary
from medl_scale.train.loop import Status, TrainData, Training
from medl_scale.train.pca import fit_pca
from medl_scale.train.probe import BatchProbe, probe_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from medl_scale.store.atlas import Atlas, Columns, Split
    from medl_scale.stream.contract import Source

__all__ = ["fit_one"]

ENCODE_ROWS = 4096


def fit_one(task: FitTask, report: Callable[[FitStatus], None] | None = None) -> FitSummary:
    """Fit one model on one fold, or continue or skip what a resumed run already did.

    Parameters
    ----------
    task
        What to fit and where to keep it.
    report
        Called with the state of the fit, as written to `status.json`.

    Raises
    ------
    ConfigError
        If the folder holds a fit with other settings.
    DataError
        If the model cannot be fitted to these data, such as a classifier without labels.
    DivergedError
        If losses stay non-finite.
    """
    started = time.perf_counter()
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    atlas = describe(task.ref)
    check_same_fit(task, atlas, folder)
    done = folder / "done.json"
    if done.exists():
        return read_summary(folder)
    publish = publisher(task, folder, report)
    limit_threads(task.n_threads)
    columns = read_columns(task.ref)
    split = atlas.split(task.fold)
    check_labels(task, atlas, columns, split)
    cache = task.stream_config.cache_memory
    with open_source(task.ref, cache_memory=cache) as source:
        publish(FitStatus(task.model, task.fold, "statistics"))
        plain = Transform(atlas.input_units, atlas.target_sum)
        statistics = train_statistics(
            source, columns, list(split.train), plain, len(atlas.batch_levels)
        )
        vocabulary = vocabulary_of(task.ref, atlas, statistics)
        statistics_s = time.perf_counter() - started
        fit: _Fitted
        if task.model == "pca":
            fit = _fit_pca(task, source, columns, split, vocabulary, statistics, publish)
        else:
            fit = _fit_network(task, atlas, source, columns, split, vocabulary, statistics, publish)
        train_s = time.perf_counter() - started - statistics_s
        publish(FitStatus(task.model, task.fold, "encoding"))
        fit.model.save(folder, {"fold": task.fold, "backend": backend_name()})
        _encode_all(task, atlas, source, columns, fit)
    encode_s = time.perf_counter() - started - statistics_s - train_s
    probe = None
    messages = list(fit.warnings)
    if task.model in {"fe", "fec"}:
        publish(FitStatus(task.model, task.fold, "probing"))
        probe = _probe(task, columns, split)
        messages += _blind_adversary(task, fit, probe, atlas)
    speeds = [row["cells_per_s"] for row in fit.history[1:]] or [0.0]
    error = fit.best_row.get("val_reconstruction")
    summary = FitSummary(
        model=task.model,
        fold=task.fold,
        keys=tuple(fit.model.latent_sizes()),
        n_latent=fit.n_latent,
        best_epoch=fit.best_epoch,
        n_epochs=len(fit.history),
        n_steps=fit.n_steps,
        losses={name: value for name, value in fit.best_row.items() if is_loss(name)},
        relative_error=None if error is None else error / fit.variance,
        seconds={
            "statistics": statistics_s,
            "training": train_s,
            "encoding": encode_s,
            "step": sum(row["step_s"] for row in fit.history),
            "validation": sum(row["validation_s"] for row in fit.history),
            "loader_wait": sum(row["loader_wait_s"] for row in fit.history),
            "total": time.perf_counter() - started,
        },
        cells_per_s=float(np.median(speeds)),
        peak_memory_bytes=max((row["peak_memory_bytes"] for row in fit.history), default=0),
        probe=None if probe is None else dataclasses.asdict(probe),
        recoveries=fit.recoveries,
        warnings=tuple(messages),
    )
    write_json(done, dataclasses.asdict(summary))
    (folder / "checkpoint.npz").unlink(missing_ok=True)
    publish(FitStatus(task.model, task.fold, "done"))
    return summary


@dataclass(frozen=True)
class _Fitted:
    """A trained model and how it got there."""

    model: FittedModel
    n_latent: int
    history: list[dict[str, Any]]
    best_epoch: int
    n_steps: int
    variance: float
    recoveries: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def best_row(self) -> dict[str, Any]:
        """History row of the best epoch; empty without a history."""
        return next((row for row in self.history if row["epoch"] == self.best_epoch), {})


def _fit_network(
    task: FitTask,
    atlas: Atlas,
    source: Source,
    columns: Columns,
    split: Split,
    vocabulary: Vocabulary,
    statistics: TrainStatistics,
    publish: Callable[[FitStatus], None],
) -> _Fitted:
    """Train a network and return it with its best weights."""
    scale = vocabulary.transform.scale
    frozen = frozen_latent(task, split)
    summary = DataSummary(
        n_obs=statistics.n,
        n_batches=len(atlas.batch_levels),
        n_labels=len(atlas.label_levels),
        mean=statistics.mean * np.float32(scale),
        sd=statistics.sd * np.float32(scale),
        batch_n=statistics.batch_n,
        batch_mean=statistics.batch_mean * np.float32(scale),
    )
    n_frozen = None if frozen is None else frozen.shape[1]
    network = build_network(task.model, task.model_config, summary, frozen_latent=n_frozen)
    rng = generator(task.train_config.seed, Purpose.WEIGHTS, task.fold)
    initial = network.initial_values(rng)
    tables = initial_effects(network, task.model_config, summary, rng)
    config = loop_config(task, statistics.n)
    effects = None
    if tables:
        published = task.model_config.preset != "auto" and task.model == "re"
        share = statistics.batch_n / statistics.n
        presence = 1.0 - (1.0 - share) ** config.minibatch_size
        effects = EffectOptions(
            tables,
            network.kl_weights,
            None if published else np.maximum(presence, 1e-6),
            one_draw_kl=published,
            noise=NoiseTable(task.train_config.seed),
        )
    engine = build_engine(
        network,
        initial,
        effects,
        n_threads=task.n_threads,
        compiled=is_compiled(task, network, statistics.n),
    )
    losses: dict[str, float] = {}
    folder = Path(task.folder)
    epochs = folder / EPOCHS_FILE

    def report(status: Status) -> None:
        if status.row is not None:
            with epochs.open("a") as file:
                file.write(json.dumps(status.row) + "\n")
        if status.row is not None and "val_total" in status.row:
            losses.update({name: value for name, value in status.row.items() if is_loss(name)})
        share = status.minibatch / status.n_minibatches if status.n_minibatches else 0.0
        publish(
            FitStatus(
                task.model,
                task.fold,
                "training",
                status.epoch,
                status.max_epochs,
                share,
                status.cells_per_s,
                statistics.n,
                dict(losses),
            ),
        )

    training = Training(
        network,
        engine,
        TrainData(source, columns, split, vocabulary.transform, atlas.batch_levels, frozen),
        config,
        checkpoint=folder / "checkpoint.npz",
        report=report,
    )
    training.resume()
    epochs.write_text("".join(json.dumps(row) + "\n" for row in training.position.history))
    try:
        result = training.run()
    finally:
        write_history(folder / "history.csv", task, training.position)
    model = FittedNetwork(
        task.model, engine, task.model_config, summary, vocabulary, frozen_latent=n_frozen
    )
    return _Fitted(
        model,
        network.n_latent,
        result.history,
        result.best_epoch,
        result.n_steps,
        summary.variance,
        training.position.recoveries,
        weak_reconstruction(task.model, task.model_config, summary),
    )


def _fit_pca(
    task: FitTask,
    source: Source,
    columns: Columns,
    split: Split,
    vocabulary: Vocabulary,
    statistics: TrainStatistics,
    publish: Callable[[FitStatus], None],
) -> _Fitted:
    """Return the PCA baseline."""
    seen = 0

    def advance(n_cells: int) -> None:
        nonlocal seen
        seen += n_cells
        publish(FitStatus(task.model, task.fold, "training", 0, 1, seen / statistics.n))

    scale = np.float32(vocabulary.transform.scale)
    model = fit_pca(
        source,
        columns,
        split,
        vocabulary,
        statistics.mean * scale,
        latent_size("pca", task.model_config),
        advance=advance,
    )
    variance = float(np.mean(np.square(statistics.sd * scale, dtype=np.float64)))
    return _Fitted(model, model.components.shape[1], [], 0, 0, variance)


def _encode_all(
    task: FitTask, atlas: Atlas, source: Source, columns: Columns, fit: _Fitted
) -> None:
    """Write the latents of all cells, block by block and by row."""
    model = fit.model
    transform = model.vocabulary.transform
    for key, n_latent in model.latent_sizes().items():

        def encoded(key: str = key) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
            everything = [slice(0, atlas.n_obs)]
            with blocks(source, columns, everything, transform, ENCODE_ROWS) as found:
                for block in found:
                    yield block.rows, model.encode(block.x, block.batch_codes)[key]

        write_latent_array(
            latent_path(task.latents, key, task.fold),
            encoded(),
            n_obs=atlas.n_obs,
            n_latent=n_latent,
            provenance={"model": task.model, "fold": task.fold, "best_epoch": fit.best_epoch},
        )


def _probe(task: FitTask, columns: Columns, split: Split) -> BatchProbe:
    """Return what a fresh probe reads of the batch from the latents just written."""
    latent = read_latent_array(latent_path(task.latents, f"X_medl_{task.model}", task.fold))
    train = np.concatenate([np.arange(rows.start, rows.stop) for rows in split.train])
    return probe_batch(
        latent[train],
        columns.batch_codes[train],
        latent[split.test],
        columns.batch_codes[split.test],
        seed=task.train_config.seed,
        n_threads=task.n_threads,
    )


def _blind_adversary(task: FitTask, fit: _Fitted, probe: BatchProbe, atlas: Atlas) -> list[str]:
    """Return a warning when the adversary sees nothing where a fresh probe reads the batch."""
    blind = fit.best_row.get("val_adversary", 0.0) > 0.9 * np.log(len(atlas.batch_levels))
    if not blind or probe.forest_accuracy <= probe.majority + 0.1:
        return []
    message = (
        f"The adversary of '{task.model}' fold {task.fold} is at chance, yet a fresh forest reads the "
        f"batch from the latent at {probe.forest_accuracy:.2f} (always the largest batch: "
        f"{probe.majority:.2f}): the adversary has collapsed and the latent is not free of batch. "
        "Use model 'me', or --adversary strong."
    )
    return [message]

"""One model on one fold: from a prepared atlas to a trained model and the latents of all cells.

A fit owns one folder. `fit.json` says what is being fitted, `checkpoint.npz` where it stands,
`history.csv` how it went, `model.npz` is the trained model, and `done.json` marks the end: whatever
comes before it can be continued. `owner` names the process that does so: another ends when it sees it.
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
from medl_scale.stream.densify import Transform
from medl_scale.stream.source import open_source
from medl_scale.stream.statistics import TrainStatistics, train_statistics
from medl_scale.train.collective import Peers, join
from medl_scale.train.devices import take_device
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
    publisher,
    read_summary,
    write_history,
    write_json,
)
from medl_scale.train.fit_inputs import check_labels, frozen_latent, vocabulary_of
from medl_scale.train.fit_results import blind_adversary, encode_all, probe_latents
from medl_scale.train.fit_settings import (
    check_device,
    check_ranks,
    is_compiled,
    limit_threads,
    loop_config,
    product_precision,
)
from medl_scale.train.fitted import FittedModel, FittedNetwork, Vocabulary
from medl_scale.train.loop import Training
from medl_scale.train.pca import fit_pca
from medl_scale.train.records import Status, TrainData

if TYPE_CHECKING:
    from collections.abc import Callable

    from medl_scale.ranks import Ranks
    from medl_scale.store.atlas import Atlas, Columns, Split
    from medl_scale.stream.contract import Source

__all__ = ["fit_one"]


def fit_one(
    task: FitTask,
    report: Callable[[FitStatus], None] | None = None,
    ranks: Ranks | None = None,
) -> FitSummary:
    """Fit one model on one fold, or continue or skip what a resumed run already did.

    Parameters
    ----------
    task
        What to fit and where to keep it.
    report
        Called with the state of the fit, as written to `status.json`.
    ranks
        This process's place among several that train the fit together. Each calls this with the same
        task, in a process that has not used TensorFlow but for fits with the same `ranks`. The first
        alone reads and writes `task.folder` and `task.latents`, and reports; all return the same.
        None trains alone.

    Raises
    ------
    ConfigError
        If the folder holds a fit with other settings, or the fit cannot have so many ranks.
    DataError
        If the model cannot be fitted to these data, such as a classifier without labels.
    DivergedError
        If losses stay non-finite.
    RankLostError
        If another rank is gone. This process must then end; in fresh processes, as many or not, the
        fit continues from its last checkpoint.

    Notes
    -----
    With several ranks, statistics of the train split, latents and probes are computed by the first
    while the others wait: they take seconds where training takes minutes.
    """
    started = time.perf_counter()
    atlas = describe(task.ref)
    split = atlas.split(task.fold)
    check_ranks(task, split, ranks)
    if task.model != "pca":
        check_device(task)
    take_device(backend_name(), task.train_config.device_memory)
    peers = join(ranks, task.n_threads)
    with peers.guarded():
        return _fit(task, atlas, split, report, peers, started)


def _fit(
    task: FitTask,
    atlas: Atlas,
    split: Split,
    report: Callable[[FitStatus], None] | None,
    peers: Peers,
    started: float,
) -> FitSummary:
    """Do what `fit_one` promises, as one of its ranks."""
    folder = Path(task.folder)
    columns = read_columns(task.ref)

    def begin() -> FitSummary | None:
        folder.mkdir(parents=True, exist_ok=True)
        check_same_fit(task, atlas, folder)
        if (folder / "done.json").exists():
            return read_summary(folder)
        check_labels(task, atlas, columns, split)
        return None

    finished = peers.from_first(begin)
    if finished is not None:
        return finished
    publish = publisher(task, folder, report) if peers.is_first else _unheard
    if peers.world_size == 1:
        limit_threads(task.n_threads)
    cache = task.stream_config.cache_memory
    with open_source(task.ref, cache_memory=cache) as source:
        publish(FitStatus(task.model, task.fold, "statistics"))
        plain = Transform(atlas.input_units, atlas.target_sum)
        statistics = peers.from_first(
            lambda: train_statistics(
                source, columns, list(split.train), plain, len(atlas.batch_levels)
            )
        )
        vocabulary = vocabulary_of(task.ref, atlas, statistics)
        statistics_s = time.perf_counter() - started
        fit: _Fitted
        if task.model == "pca":
            fit = _fit_pca(task, source, columns, split, vocabulary, statistics, publish)
        else:
            fit = _fit_network(
                task, atlas, source, columns, split, vocabulary, statistics, publish, peers
            )
        train_s = time.perf_counter() - started - statistics_s
        seconds = {"statistics": statistics_s, "training": train_s}
        return peers.from_first(
            lambda: _finish(task, atlas, source, columns, split, fit, publish, seconds)
        )


def _finish(
    task: FitTask,
    atlas: Atlas,
    source: Source,
    columns: Columns,
    split: Split,
    fit: _Fitted,
    publish: Callable[[FitStatus], None],
    seconds: dict[str, float],
) -> FitSummary:
    """Write the trained model, the latents and the summary, which ends the fit."""
    folder = Path(task.folder)
    started = time.perf_counter()
    publish(FitStatus(task.model, task.fold, "encoding"))
    fit.model.save(folder, {"fold": task.fold, "backend": backend_name()})
    encode_all(task, atlas, source, columns, fit.model, fit.best_epoch)
    encode_s = time.perf_counter() - started
    probe = None
    messages = list(fit.warnings)
    if task.model in {"fe", "fec"}:
        publish(FitStatus(task.model, task.fold, "probing"))
        probe = probe_latents(task, columns, split)
        messages += blind_adversary(task, fit.best_row, probe, atlas)
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
            **seconds,
            "encoding": encode_s,
            "step": sum(row["step_s"] for row in fit.history),
            "validation": sum(row["validation_s"] for row in fit.history),
            "loader_wait": sum(row["loader_wait_s"] for row in fit.history),
            "total": sum(seconds.values()) + time.perf_counter() - started,
        },
        cells_per_s=float(np.median(speeds)),
        peak_memory_bytes=max((row["peak_memory_bytes"] for row in fit.history), default=0),
        probe=None if probe is None else dataclasses.asdict(probe),
        recoveries=fit.recoveries,
        warnings=tuple(messages),
    )
    write_json(folder / "done.json", dataclasses.asdict(summary))
    (folder / "checkpoint.npz").unlink(missing_ok=True)
    publish(FitStatus(task.model, task.fold, "done"))
    return summary


def _unheard(status: FitStatus) -> None:
    """Take a state that the first rank tells."""


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
    peers: Peers,
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
        compiled=is_compiled(task, network, statistics.n, peers.world_size),
        peers=peers,
        precision=product_precision(task),
    )
    losses: dict[str, float] = {}
    folder = Path(task.folder)
    epochs = folder / EPOCHS_FILE

    def report(status: Status) -> None:
        if not peers.is_first:
            return
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
        # After the state is told, which raises if this fit has been given to another process.
        if status.row is not None:
            with epochs.open("a") as file:
                file.write(json.dumps(status.row) + "\n")

    training = Training(
        network,
        engine,
        TrainData(source, columns, split, vocabulary.transform, atlas.batch_levels, frozen),
        config,
        checkpoint=folder / "checkpoint.npz" if peers.is_first else None,
        report=report,
        peers=peers,
    )
    training.resume()
    if peers.is_first:
        epochs.write_text("".join(json.dumps(row) + "\n" for row in training.position.history))
    try:
        result = training.run()
    finally:
        if peers.is_first:
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

"""One model on one fold: from a prepared atlas to a trained model and the latents of all cells.

A fit owns one folder. `fit.json` says what is being fitted, `checkpoint.npz` where it stands,
`history.csv` how it went, `model.npz` is the trained model, and `done.json` marks the end: whatever
comes before it can be continued.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medl_scale.errors import ConfigError, DataError
from medl_scale.models.build import build_network, initial_effects, latent_size
from medl_scale.models.loss_weights import weak_reconstruction
from medl_scale.models.network import DataSummary
from medl_scale.seeds import Purpose, generator
from medl_scale.store.atlas import AtlasRef, describe, read_columns, var_names
from medl_scale.store.atomic import atomic_file
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
    native_log_kept_back,
)
from medl_scale.train.fitted import FittedModel, FittedNetwork, Vocabulary
from medl_scale.train.loop import LoopConfig, Position, Status, TrainData, Training
from medl_scale.train.pca import fit_pca
from medl_scale.train.probe import BatchProbe, probe_batch
from medl_scale.train.stopping import StoppingRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from medl_scale.config import ModelConfig, StreamConfig, TrainConfig
    from medl_scale.models.network import Network
    from medl_scale.store.atlas import Atlas, Columns, Split
    from medl_scale.stream.contract import Source

__all__ = [
    "FitStatus",
    "FitSummary",
    "FitTask",
    "fit_one",
    "latent_path",
    "read_epochs",
    "read_status",
    "read_summary",
]

ENCODE_ROWS = 4096
EPOCHS_FILE = "epochs.jsonl"
VALIDATE_EVERY_STEPS = 10
WARM_UP_STEPS = 20
RAMP_STEPS = 150
PATIENCE_EPOCHS = 10
PATIENCE_STEPS = (50, 150)
"""Bounds of the patience of 10 epochs, in steps: see docs/decisions/0005."""
COMPILED_FROM_STEPS = 100
"""Steps an epoch from which the seconds that XLA takes to compile pay off."""


@dataclass(frozen=True)
class FitTask:
    """Everything one fit needs; picklable unless the atlas is an AnnData in memory."""

    ref: AtlasRef
    model: str
    fold: int
    folder: str
    """Where the fit keeps its files."""
    latents: str
    """Zarr group for latents: `<latents>/<model>/fold_<k>` hold all cells, in atlas order."""
    model_config: ModelConfig
    train_config: TrainConfig
    stream_config: StreamConfig
    n_threads: int
    fe_rep: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class FitStatus:
    """What a fit tells others while it runs, through `status.json`."""

    model: str
    fold: int
    state: str
    """`statistics`, `training`, `encoding`, `probing` or `done`."""
    epoch: int = 0
    max_epochs: int = 0
    share_of_epoch: float = 0.0
    cells_per_s: float = 0.0
    epoch_cells: int = 0
    """Cells of one epoch."""
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of the last validated epoch."""


@dataclass(frozen=True)
class FitSummary:
    """How a fit ended; JSON-like."""

    model: str
    fold: int
    keys: tuple[str, ...]
    """obsm keys of its latents."""
    n_latent: int
    best_epoch: int
    n_epochs: int
    n_steps: int
    losses: dict[str, float]
    """Terms of the best epoch."""
    relative_error: float | None
    """Validation reconstruction error over the mean per-gene variance of the train split."""
    seconds: dict[str, float]
    cells_per_s: float
    peak_memory_bytes: int
    probe: dict[str, float] | None = None
    recoveries: int = 0
    warnings: tuple[str, ...] = ()
    """What the user should know about the result, with an action each."""


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
    _check_same_fit(task, atlas, folder)
    done = folder / "done.json"
    if done.exists():
        return read_summary(folder)
    publish = _publisher(task, folder, report)
    _limit_threads(task.n_threads)
    columns = read_columns(task.ref)
    split = atlas.split(task.fold)
    _check_labels(task, atlas, columns, split)
    cache = task.stream_config.cache_memory
    with open_source(task.ref, cache_memory=cache) as source:
        publish(FitStatus(task.model, task.fold, "statistics"))
        plain = Transform(atlas.input_units, atlas.target_sum)
        statistics = train_statistics(
            source, columns, list(split.train), plain, len(atlas.batch_levels)
        )
        vocabulary = _vocabulary(task.ref, atlas, statistics)
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
    best = next((row for row in fit.history if row["epoch"] == fit.best_epoch), {})
    speeds = [row["cells_per_s"] for row in fit.history[1:]] or [0.0]
    error = best.get("val_reconstruction")
    summary = FitSummary(
        model=task.model,
        fold=task.fold,
        keys=tuple(fit.model.latent_sizes()),
        n_latent=fit.n_latent,
        best_epoch=fit.best_epoch,
        n_epochs=len(fit.history),
        n_steps=fit.n_steps,
        losses={
            k: v for k, v in best.items() if k.startswith(("train_", "val_")) and k != "train_s"
        },
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
    _write_json(done, dataclasses.asdict(summary))
    (folder / "checkpoint.npz").unlink(missing_ok=True)
    publish(FitStatus(task.model, task.fold, "done"))
    return summary


def latent_path(latents: str | os.PathLike[str], key: str, fold: int) -> Path:
    """Return where a run keeps the latent of an obsm key and a fold."""
    name = key.removeprefix("X_").removeprefix("medl_")
    return Path(latents) / name / f"fold_{fold}"


def read_summary(folder: Path) -> FitSummary:
    """Return how the finished fit in a folder ended."""
    values = json.loads((folder / "done.json").read_text())
    tuples = {name: tuple(values[name]) for name in ("keys", "warnings")}
    return FitSummary(**(values | tuples))


def read_epochs(folder: Path, *, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the history rows written after byte `start`, and where the next call should start.

    A fit that is resumed writes its file anew; all rows are then returned.
    """
    path = folder / EPOCHS_FILE
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        if start > 0:
            file.seek(start - 1)
            start = start if file.read(1) == b"\n" else 0
        file.seek(start)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)


def read_status(folder: Path) -> FitStatus | None:
    """Return the present state of a fit, or None before it says anything."""
    try:
        return FitStatus(**json.loads((folder / "status.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


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
    frozen = _frozen_latent(task, split)
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
    config = _loop_config(task, statistics.n)
    effects = None
    if tables:
        published = task.model_config.preset != "auto" and task.model == "re"
        share = statistics.batch_n / statistics.n
        presence = 1.0 - (1.0 - share) ** min(config.minibatch_size, statistics.n)
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
        compiled=_is_compiled(task, network, statistics.n),
    )
    losses: dict[str, float] = {}
    folder = Path(task.folder)
    epochs = folder / EPOCHS_FILE

    def report(status: Status) -> None:
        if status.row is not None:
            with epochs.open("a") as file:
                file.write(json.dumps(status.row) + "\n")
        if status.row is not None and "val_total" in status.row:
            losses.update({k: v for k, v in status.row.items() if k.startswith(("train_", "val_"))})
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
        _write_history(folder / "history.csv", task, training.position)
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
    best = next((row for row in fit.history if row["epoch"] == fit.best_epoch), {})
    blind = best.get("val_adversary", 0.0) > 0.9 * np.log(len(atlas.batch_levels))
    if not blind or probe.forest_accuracy <= probe.majority + 0.1:
        return []
    message = (
        f"The adversary of '{task.model}' fold {task.fold} is at chance, yet a fresh forest reads the "
        f"batch from the latent at {probe.forest_accuracy:.2f} (always the largest batch: "
        f"{probe.majority:.2f}): the adversary has collapsed and the latent is not free of batch. "
        "Use model 'me', or --adversary strong."
    )
    return [message]


def _loop_config(task: FitTask, n_train: int) -> LoopConfig:
    """Return the loop's settings, the preset's where the user gave none."""
    train, stream = task.train_config, task.stream_config
    published = task.model_config.preset != "auto"
    minibatch_size = min(stream.minibatch_size, n_train)
    steps_per_epoch = max(1, round(n_train / minibatch_size))
    if published:
        # Keras' rule: 30 epochs without any improvement, one learning rate throughout.
        patience = train.early_stopping_patience or 30 * steps_per_epoch
        rule = StoppingRule(patience, rate_drops=0, minimum_checks=1)
    else:
        by_epochs = int(np.clip(PATIENCE_EPOCHS * steps_per_epoch, *PATIENCE_STEPS))
        patience = train.early_stopping_patience or by_epochs
        rule = StoppingRule(patience, rate_drops=1, minimum_gain=5e-3)
    default_rate = 1e-4 if published and task.model != "me" else 1e-3
    return LoopConfig(
        seed=train.seed,
        max_epochs=train.max_epochs,
        learning_rate=train.learning_rate or default_rate,
        warm_up_steps=0 if published else WARM_UP_STEPS,
        ramp_steps=RAMP_STEPS,
        stopping=rule,
        validate_every_steps=0 if published else VALIDATE_EVERY_STEPS,
        minibatch_size=minibatch_size,
        run_size=stream.run_size,
        window_size=max(stream.window_size, stream.run_size),
        prefetch=stream.prefetch,
        checkpoint_every_s=train.checkpoint_every_s,
    )


def _is_compiled(task: FitTask, network: Network, n_train: int) -> bool:
    """Say whether XLA compiles the step: faster for FE on CPUs in long fits, slower for effects."""
    if task.train_config.compile != "auto":
        return task.train_config.compile == "on"
    steps_per_epoch = n_train / task.stream_config.minibatch_size
    return not network.effect_widths and steps_per_epoch >= COMPILED_FROM_STEPS


def _vocabulary(ref: AtlasRef, atlas: Atlas, statistics: TrainStatistics) -> Vocabulary:
    """Return what the model's inputs mean; values are scaled by the train split's maximum."""
    scale = 1.0 / statistics.maximum if statistics.maximum > 0 else 1.0
    return Vocabulary(
        var_names=tuple(str(name) for name in var_names(ref)),
        batch_key=atlas.batch_key,
        batch_levels=atlas.batch_levels,
        label_levels=atlas.label_levels,
        transform=Transform(atlas.input_units, atlas.target_sum, scale),
    )


def _frozen_latent(task: FitTask, split: Split) -> NDArray[np.float32] | None:
    """Return the embedding that replaces the encoder, standardised over the train split."""
    if task.fe_rep is None or task.model != "me":
        return None
    latent = _read_obsm(task.ref, task.fe_rep)
    train = np.concatenate([latent[rows] for rows in split.train])
    sd = train.std(axis=0)
    sd[sd == 0.0] = 1.0
    return np.asarray((latent - train.mean(axis=0)) / sd, np.float32)


def _read_obsm(ref: AtlasRef, key: str) -> NDArray[np.float32]:
    """Return an embedding of the atlas."""
    if isinstance(ref, str | os.PathLike):
        import zarr

        group = zarr.open_group(str(ref), mode="r")
        found = sorted(group["obsm"].keys()) if "obsm" in group else []  # type: ignore[union-attr]
        if key not in found:
            raise _no_such_rep(key, found)
        latent = np.asarray(group[f"obsm/{key}"][...], np.float32)  # type: ignore[index]
    else:
        if key not in ref.obsm:
            raise _no_such_rep(key, sorted(ref.obsm))
        latent = np.asarray(ref.obsm[key], np.float32)
    bad = int((~np.isfinite(latent)).any(axis=1).sum())
    if latent.ndim != 2 or bad:
        raise DataError(
            f"fe_rep '{key}' must be a matrix of finite numbers; shape {latent.shape}, {bad:,} cells "
            "with NaN or infinity. Give an embedding of every cell."
        )
    return latent


def _no_such_rep(key: str, found: list[str]) -> ConfigError:
    """Return the error for an embedding that is not there."""
    listed = ", ".join(repr(name) for name in found) or "none"
    return ConfigError(f"fe_rep '{key}' is not in obsm of the atlas. Embeddings: {listed}.")


def _check_labels(task: FitTask, atlas: Atlas, columns: Columns, split: Split) -> None:
    """Raise unless a model with a classifier has labels to learn."""
    if task.model not in {"aec", "fec"}:
        return
    known = sum(int((columns.label_codes[rows] >= 0).sum()) for rows in split.train)
    if len(atlas.label_levels) < 2 or known == 0:
        raise DataError(
            f"Model '{task.model}' classifies cell types and needs at least two labels among the "
            f"train cells; the atlas has {len(atlas.label_levels)} "
            f"(labels_key: {atlas.labels_key!r}). Prepare it with --labels-key, or fit 'fe' or 'ae'."
        )


def _check_same_fit(task: FitTask, atlas: Atlas, folder: Path) -> None:
    """Record what is fitted here, or raise if something else was."""
    identity = {
        "model": task.model,
        "fold": task.fold,
        "fe_rep": task.fe_rep,
        "n_obs": atlas.n_obs,
        "n_vars": atlas.n_vars,
        "batch_key": atlas.batch_key,
        "model_config": dataclasses.asdict(task.model_config),
        "train_config": {
            k: v
            for k, v in dataclasses.asdict(task.train_config).items()
            if k not in {"checkpoint_every_s", "threads"}
        },
        "minibatch_size": task.stream_config.minibatch_size,
        "run_size": task.stream_config.run_size,
        "window_size": task.stream_config.window_size,
    }
    identity = json.loads(json.dumps(identity))
    path = folder / "fit.json"
    if task.resume and path.exists():
        before = json.loads(path.read_text())
        changed = sorted(key for key in identity if before.get(key) != identity[key])
        if changed:
            raise ConfigError(
                f"{folder} was fitted with other settings: {', '.join(changed)} differ. Resume with "
                "the settings of the run's config.toml, or choose another --output."
            )
        return
    for name in ("checkpoint.npz", "done.json", "status.json", "history.csv", EPOCHS_FILE):
        (folder / name).unlink(missing_ok=True)
    _write_json(path, identity)


def _publisher(
    task: FitTask, folder: Path, report: Callable[[FitStatus], None] | None
) -> Callable[[FitStatus], None]:
    """Return a function that writes and reports the state of the fit."""
    path = folder / "status.json"

    def publish(status: FitStatus) -> None:
        # A reader sees the old state or the new one; no need to force it to disk.
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(dataclasses.asdict(status)))
        scratch.replace(path)
        if report is not None:
            report(status)

    return publish


def _write_history(path: Path, task: FitTask, position: Position) -> None:
    """Write one row an epoch."""
    table = pd.DataFrame(position.history)
    if not table.empty:
        table["best"] = table["epoch"] == position.stopping.best_epoch
    table.insert(0, "fold", task.fold)
    table.insert(0, "model", task.model)
    with atomic_file(path) as scratch:
        table.to_csv(scratch, index=False)


def _write_json(path: Path, values: Any) -> None:
    """Write JSON atomically."""
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(values, indent=1))


def _limit_threads(n_threads: int) -> None:
    """Give TensorFlow its threads; later calls in one process keep the first's."""
    if backend_name() != "tensorflow":
        return
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(n_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return
    with native_log_kept_back():
        tf.config.list_logical_devices()

"""What a fit is, tells and leaves: its description, state and summary, and the files of its folder."""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medl_scale.errors import ConfigError, WorkerLostError
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from medl_scale.config import ModelConfig, StreamConfig, TrainConfig
    from medl_scale.store.atlas import Atlas, AtlasRef
    from medl_scale.train.position import Position

__all__ = [
    "EPOCHS_FILE",
    "STATUS_FILE",
    "FitStatus",
    "FitSummary",
    "FitTask",
    "check_same_fit",
    "latent_path",
    "publisher",
    "read_epochs",
    "read_status",
    "read_summary",
    "record_lost",
    "write_history",
    "write_json",
]

EPOCHS_FILE = "epochs.jsonl"
STATUS_FILE = "status.json"
OWNER_FILE = "owner"


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
    lost: tuple[str, ...] = ()
    """Processes that died under the fit, which went on from its last checkpoint each time."""


def latent_path(latents: str | os.PathLike[str], key: str, fold: int) -> Path:
    """Return where a run keeps the latent of an obsm key and a fold."""
    name = key.removeprefix("X_").removeprefix("medl_")
    return Path(latents) / name / f"fold_{fold}"


def read_summary(folder: Path) -> FitSummary:
    """Return how the finished fit in a folder ended."""
    values = json.loads((folder / "done.json").read_text())
    tuples = {name: tuple(values.get(name, ())) for name in ("keys", "warnings", "lost")}
    return FitSummary(**(values | tuples))


def record_lost(folder: Path, lost: Sequence[str]) -> None:
    """Note in the summary of a finished fit which processes died under it; the fit cannot know."""
    summary = read_summary(folder)
    changed = dataclasses.replace(summary, lost=(*summary.lost, *lost))
    write_json(folder / "done.json", dataclasses.asdict(changed))


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
        return FitStatus(**json.loads((folder / STATUS_FILE).read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def check_same_fit(task: FitTask, atlas: Atlas, folder: Path) -> None:
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
            if k not in {"checkpoint_every_s", "device_memory", "precision", "threads"}
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
    for name in ("checkpoint.npz", "done.json", STATUS_FILE, "history.csv", EPOCHS_FILE):
        (folder / name).unlink(missing_ok=True)
    write_json(path, identity)


def publisher(
    task: FitTask, folder: Path, report: Callable[[FitStatus], None] | None
) -> Callable[[FitStatus], None]:
    """Take a fit's folder, and return a function that writes and reports the state of the fit.

    It raises `WorkerLostError` once another process has taken the folder: a worker that the network
    cuts off goes on for a while, and the same fit has been started elsewhere.
    """
    path, owner_path = folder / STATUS_FILE, folder / OWNER_FILE
    owner = uuid.uuid4().hex
    with atomic_file(owner_path) as scratch:
        scratch.write_text(owner)

    def publish(status: FitStatus) -> None:
        if owner_path.read_text() != owner:
            raise WorkerLostError(
                f"Another process has taken over the fit in {folder}, and this one ends. If nobody meant "
                "that, see that only one run writes to the folder."
            )
        # A reader sees the old state or the new one; no need to force it to disk.
        scratch = path.with_name(f"{path.name}.medl-tmp-{owner}")
        scratch.write_text(json.dumps(dataclasses.asdict(status)))
        scratch.replace(path)
        if report is not None:
            report(status)

    return publish


def write_history(path: Path, task: FitTask, position: Position) -> None:
    """Write one row an epoch."""
    table = pd.DataFrame(position.history)
    if not table.empty:
        table["best"] = table["epoch"] == position.stopping.best_epoch
    table.insert(0, "fold", task.fold)
    table.insert(0, "model", task.model)
    with atomic_file(path) as scratch:
        table.to_csv(scratch, index=False)


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically."""
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(values, indent=1))

"""The folder of a run before its first fit: whether it may be used, and what is recorded in it.

A run owns the files named here and removes no others: a folder may hold things of the user's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medl_scale.errors import ConfigError, OutputExistsError
from medl_scale.pipeline.preparing import default_atlas_path
from medl_scale.pipeline.run import ENVIRONMENT_FILE, HISTORY_FILE, SETTINGS_FILE, Run
from medl_scale.pipeline.scores import SCORES_FILE, confusion_path, verdicts_path
from medl_scale.settings import to_toml
from medl_scale.store.atomic import atomic_file, sweep_leftovers
from medl_scale.store.places import absolute, is_url
from medl_scale.train.fit_files import write_json

if TYPE_CHECKING:
    from medl_scale.config import RunConfig
    from medl_scale.store.atlas import Atlas

__all__ = ["check_output", "check_same_run", "start_run", "stored_run"]

# The settings go last: as long as they are there, the folder is known as a run.
RUN_ITEMS = ("models", "latents.zarr", HISTORY_FILE, "curves.png", SCORES_FILE,
             verdicts_path(SCORES_FILE).name, confusion_path(SCORES_FILE).name, "umaps.npz", "pictures",
             "what_if_check.csv", "report.html",
             ENVIRONMENT_FILE, SETTINGS_FILE)  # fmt: skip
# How a fit is carried out does not change what comes out of it.
FREE_SETTINGS = {"checkpoint_every_s", "threads", "cache_memory", "prefetch"}
LEFTOVERS_AGE_S = 3600.0


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise unless a run may be made or continued in a folder.

    Raises
    ------
    OutputExistsError
        If it holds a run and neither `resume` nor `overwrite` was given, or holds something else.
    """
    if not folder.exists():
        return
    names = {item.name for item in folder.iterdir()} if folder.is_dir() else {folder.name}
    # An interrupted `prepare` leaves an unfinished atlas, or a finished one without a run.
    atlas = default_atlas_path(folder).name
    own = {name for name in names if name.startswith(f"{atlas}.medl-tmp-")}
    if SETTINGS_FILE not in names and names - own - {atlas}:
        raise OutputExistsError(
            f"{folder} exists and is not a run of medl-scale. Choose another --output."
        )
    if names - own and not resume and not overwrite:
        raise OutputExistsError(
            f"{folder} holds a run already. Continue it with --resume, replace it with --overwrite, "
            "or choose another --output."
        )


def stored_run(folder: Path) -> Run | None:
    """Return the run that a folder holds, or None if there is none yet."""
    return Run(folder) if (folder / SETTINGS_FILE).exists() else None


def check_same_run(before: Run, config: RunConfig, atlas: Atlas) -> None:
    """Raise if a run would continue with another atlas or with settings that change its fits.

    Raises
    ------
    ConfigError
        With what differs.
    """
    made_from = before.environment.get("atlas_provenance")
    if made_from is not None and made_from != _as_json(atlas.provenance):
        raise ConfigError(
            f"The run in {before.path} was made from another atlas ({before.atlas_path}). Resume it "
            "with that one, or choose another --output."
        )
    old, new = _flat(before.config), _flat(config)
    if not {"me"} <= {*before.models} & {*config.models}:
        old.pop("fe_rep"), new.pop("fe_rep")
    changed = [
        f"{name} ({old[name]!r} -> {new[name]!r})"
        for name in old
        if name not in FREE_SETTINGS and old[name] != new[name]
    ]
    if changed:
        raise ConfigError(
            f"The run in {before.path} has other settings: {', '.join(changed)}. Resume it without "
            "these options, or choose another --output."
        )


def start_run(folder: Path, config: RunConfig, atlas: Atlas, before: Run | None) -> None:
    """Make the folder ready and record what is needed to repeat the run.

    Parameters
    ----------
    before
        The run that is continued, or None: what is left of another one is removed.

    Raises
    ------
    ConfigError
        If the run that is continued has another atlas or other settings.
    """
    if before is None:
        _clear(folder)
    else:
        check_same_run(before, config, atlas)
        models = dict.fromkeys([*before.models, *config.models])
        folds = sorted({*before.folds, *config.folds})
        config = dataclasses.replace(config, models=tuple(models), folds=tuple(folds))
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, *folder.glob("models/*/fold_*")):
        sweep_leftovers(place)
    if atlas.path is not None and not is_url(atlas.path):
        # Other runs may be writing to the atlas right now.
        place = Path(atlas.path)
        sweep_leftovers(place.parent, of=place.name, older_than_s=LEFTOVERS_AGE_S)
    # First what makes the folder a run, so that it can be resumed or replaced whatever comes.
    with atomic_file(folder / SETTINGS_FILE) as scratch:
        scratch.write_text(to_toml(fit=config))
    write_json(folder / ENVIRONMENT_FILE, _environment(atlas))


def _clear(folder: Path) -> None:
    """Remove what a run left in a folder."""
    for name in RUN_ITEMS:
        item = folder / name
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink(missing_ok=True)


def _flat(config: RunConfig) -> dict[str, Any]:
    """Return all settings that every fit of a run shares, by name."""
    flat: dict[str, Any] = {"fe_rep": config.fe_rep}
    for section in (config.model, config.train, config.stream):
        flat |= dataclasses.asdict(section)
    return flat


def _environment(atlas: Atlas) -> dict[str, Any]:
    """Return what a run was made from and with."""
    return {
        "atlas": None if atlas.path is None else absolute(atlas.path),
        "n_obs": atlas.n_obs,
        "n_vars": atlas.n_vars,
        "batch_key": atlas.batch_key,
        "labels_key": atlas.labels_key,
        "n_batches": len(atlas.batch_levels),
        "atlas_provenance": _as_json(atlas.provenance),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "versions": {
            name: version(name) for name in ("medl-scale", "anndata", "keras", "numpy", "zarr")
        },
    }


def _as_json(value: Any) -> Any:
    """Return plain values as JSON would read them back."""
    return json.loads(json.dumps(value))

"""What a fit leaves, to be compared bit for bit."""

from pathlib import Path

import numpy as np
import pandas as pd

from medl_scale.store.latents import read_latent_array
from medl_scale.train.fit_files import latent_path, read_summary

TIMINGS = [
    "train_s", "step_s", "loader_wait_s", "cells_per_s", "validation_s", "peak_memory_bytes",
]  # fmt: skip


def left_by(task) -> dict[str, bytes]:
    """Return everything that a fit leaves and that must not depend on how it was run."""
    folder = Path(task.folder)
    with np.load(folder / "model.npz") as file:
        found = {name: file[name].tobytes() for name in file.files}
    history = pd.read_csv(folder / "history.csv").drop(columns=TIMINGS)
    found["history"] = history.to_csv().encode()
    for key in read_summary(folder).keys:
        latent = read_latent_array(latent_path(task.latents, key, task.fold))
        found[key] = latent.tobytes()
    return found


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Return the names of what differs."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))

"""Fits on JAX where there is no TensorFlow, with rows sent and kept in every way; run as a module.

`KERAS_BACKEND=jax python -m tests.train.jax_fits ATLAS FOLDER MODEL...` prints JSON: for each model and
each way the losses of every epoch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medl_scale.config import ModelConfig, StreamConfig, TrainConfig
from medl_scale.train.fit import fit_one
from medl_scale.train.fit_files import FitTask, read_epochs

ABSENT = ("tensorflow", "tensorflow_probability", "tf_keras")
WAYS = {"dense": None, "sent": 1, "kept": 2**28, "bf16": None}
"""`device_cache_memory` on a CPU: None densifies on the host, one byte is too little to keep rows."""


def fit_in_every_way(atlas: str, folder: str, model: str) -> dict[str, list[dict[str, Any]]]:
    """Return the losses of every epoch, by way."""
    found = {}
    for way, memory in WAYS.items():
        task = FitTask(
            ref=atlas,
            model=model,
            fold=1,
            folder=f"{folder}/{model}-{way}",
            latents=f"{folder}/latents-{way}",
            model_config=ModelConfig(hidden=(16, 8), n_latent=4),
            train_config=TrainConfig(
                max_epochs=5, precision="bf16" if way == "bf16" else "float32"
            ),
            stream_config=StreamConfig(
                minibatch_size=64, run_size=16, window_size=128, device_cache_memory=memory
            ),
            n_threads=1,
        )
        fit_one(task)
        rows, _ = read_epochs(Path(task.folder))
        found[way] = [
            {name: value for name, value in row.items() if name.startswith(("train_", "val_"))}
            for row in rows
        ]
    return found


if __name__ == "__main__":
    if any(name in sys.modules for name in ABSENT):
        raise SystemExit("TensorFlow was imported before it could be hidden.")
    # An import of these now fails as if they were not installed.
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]
    atlas, folder, *models = sys.argv[1:]
    print(json.dumps({model: fit_in_every_way(atlas, folder, model) for model in models}))

"""What a fit makes of its trained model: the latents of all cells, and a look at how blind they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.store.latents import read_latent_array, write_latent_array
from medl_scale.stream.minibatches import blocks
from medl_scale.train.fit_files import latent_path
from medl_scale.train.probe import BatchProbe, probe_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from medl_scale.store.atlas import Atlas, Columns, Split
    from medl_scale.stream.contract import Source
    from medl_scale.train.fit_files import FitTask
    from medl_scale.train.fitted import FittedModel

__all__ = ["blind_adversary", "encode_all", "probe_latents"]

ENCODE_ROWS = 4096


def encode_all(
    task: FitTask,
    atlas: Atlas,
    source: Source,
    columns: Columns,
    model: FittedModel,
    best_epoch: int,
) -> None:
    """Write the latents of all cells, block by block and by row."""
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
            provenance={"model": task.model, "fold": task.fold, "best_epoch": best_epoch},
        )


def probe_latents(task: FitTask, columns: Columns, split: Split) -> BatchProbe:
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


def blind_adversary(
    task: FitTask, best_row: Mapping[str, Any], probe: BatchProbe, atlas: Atlas
) -> list[str]:
    """Return a warning when the adversary sees nothing where a fresh probe reads the batch."""
    blind = best_row.get("val_adversary", 0.0) > 0.9 * np.log(len(atlas.batch_levels))
    if not blind or probe.forest_accuracy <= probe.majority + 0.1:
        return []
    message = (
        f"The adversary of '{task.model}' fold {task.fold} is at chance, yet a fresh forest reads the "
        f"batch from the latent at {probe.forest_accuracy:.2f} (always the largest batch: "
        f"{probe.majority:.2f}): the adversary has collapsed and the latent is not free of batch. "
        "Use model 'me', or --adversary strong."
    )
    return [message]

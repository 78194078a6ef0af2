"""How a fit is trained: the user's settings, and the preset's rules where there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.stream.plan import EpochPlan
from medl_scale.train.engine import backend_name, native_log_kept_back
from medl_scale.train.records import LoopConfig
from medl_scale.train.stopping import StoppingRule

if TYPE_CHECKING:
    from medl_scale.models.network import Network
    from medl_scale.models.precision import ProductPrecision
    from medl_scale.ranks import Ranks
    from medl_scale.store.atlas import Split
    from medl_scale.train.fit_files import FitTask

__all__ = [
    "check_device",
    "check_ranks",
    "is_compiled",
    "limit_threads",
    "loop_config",
    "product_precision",
]

VALIDATE_EVERY_STEPS = 10
WARM_UP_STEPS = 20
RAMP_STEPS = 150
PATIENCE_EPOCHS = 10
PATIENCE_STEPS = (50, 150)
"""Bounds of the patience of 10 epochs, in steps: see docs/decisions/0005."""
COMPILED_FROM_STEPS = 100
"""Steps an epoch from which the seconds that XLA takes to compile pay off."""


def loop_config(task: FitTask, n_train: int) -> LoopConfig:
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
        window_size=stream.window_size,
        prefetch=stream.prefetch,
        checkpoint_every_s=train.checkpoint_every_s,
        device_cache_memory=stream.device_cache_memory,
    )


def check_device(task: FitTask) -> None:
    """Raise if rows are to be kept on a device by a backend that does not keep them."""
    wanted = task.stream_config.device_cache_memory
    if wanted and backend_name() != "jax":
        raise ConfigError(
            "device_cache_memory keeps train rows on a GPU, which the JAX backend does; got "
            f"{wanted:,} bytes with KERAS_BACKEND {backend_name()!r}. Set KERAS_BACKEND=jax before "
            "Python starts, or leave device_cache_memory out."
        )


def check_ranks(task: FitTask, split: Split, ranks: Ranks | None) -> None:
    """Raise unless a fit can be trained by so many ranks; before they meet, so that none waits."""
    if ranks is None or ranks.world_size == 1:
        return
    n_ranks = ranks.world_size
    if task.model == "pca":
        raise ConfigError(
            f"Model 'pca' has no steps that ranks could share; got {n_ranks} ranks. Fit it on one."
        )
    if task.train_config.compile == "on":
        raise ConfigError(
            "compile 'on' lets XLA compile the step, which cannot hold the sums over "
            f"{n_ranks} ranks. Use compile 'auto' or 'off', or one rank."
        )
    config = loop_config(task, sum(rows.stop - rows.start for rows in split.train))
    plan = EpochPlan(
        train=split.train,
        minibatch_size=config.minibatch_size,
        run_size=config.run_size,
        window_size=config.window_size,
        seed=config.seed,
        epoch=0,
    )
    last = plan.n_minibatches - 1
    if min(plan.sizes(last, n_ranks)) < 1:
        raise ConfigError(
            f"The last minibatch of an epoch has {plan.length(last)} cells, too few for {n_ranks} "
            "ranks. Use fewer ranks or a larger minibatch_size."
        )


def is_compiled(task: FitTask, network: Network, n_train: int, world_size: int = 1) -> bool:
    """Say whether XLA compiles the step: faster for FE on CPUs in long fits, slower for effects."""
    if world_size > 1:
        return False
    if task.train_config.compile != "auto":
        return task.train_config.compile == "on"
    steps_per_epoch = n_train / task.stream_config.minibatch_size
    return not network.effect_widths and steps_per_epoch >= COMPILED_FROM_STEPS


def product_precision(task: FitTask) -> ProductPrecision:
    """Return how the matrix products of a training step are rounded."""
    # No loss curve of `bf16` has been shown to match float32's on a GPU yet.
    return "bf16" if task.train_config.precision == "bf16" else "float32"


def limit_threads(n_threads: int) -> None:
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

"""What the training loop asks of a backend: one step, one evaluation, one encoding, its state."""

from __future__ import annotations

import os
import sys
import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medl_scale.train.devices import take_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from medl_scale.models.network import InitialValues, Network
    from medl_scale.models.precision import ProductPrecision
    from medl_scale.models.variational import EffectTable
    from medl_scale.stream.chunks import ChunkedRows
    from medl_scale.stream.densify import Transform
    from medl_scale.train.collective import Peers
    from medl_scale.train.effects import NoiseTable

__all__ = [
    "EffectOptions",
    "Engine",
    "Feeds",
    "Predictor",
    "Share",
    "backend_name",
    "build_engine",
    "native_log_kept_back",
]


@dataclass(frozen=True)
class Share:
    """What a process must know of a minibatch that others hold a part of."""

    batch_codes: NDArray[np.int32]
    """(n,) of all its cells."""
    n_labelled: int
    """How many of all its cells have a label."""
    asks_to_stop: bool = False
    """Whether this process was told to end; the others hear of it."""


@dataclass(frozen=True)
class Feeds:
    """One minibatch or block on the host, with the random numbers its step consumes."""

    x: NDArray[np.float32]
    """(m, n_vars)."""
    batch_codes: NDArray[np.int32]
    """(m,)."""
    label_codes: NDArray[np.int32]
    """(m,)."""
    latent_noise: NDArray[np.float32] | None = None
    """(m, n_latent)."""
    keep_mask: NDArray[np.uint8] | None = None
    """(m, n_vars)."""
    frozen_latent: NDArray[np.float32] | None = None
    """(m, n_latent)."""
    cells: Any = None
    """Given in place of `x`, which then has no rows, to an engine that densifies them itself."""
    ramp: float = 1.0
    share: Share | None = None
    """Given where this is a part of a minibatch."""


@dataclass(frozen=True)
class EffectOptions:
    """How random effects are drawn and updated (see `effects.HostEffects`)."""

    tables: Mapping[str, EffectTable]
    kl_weights: Mapping[str, float]
    presence: NDArray[np.float64] | None
    one_draw_kl: bool
    noise: NoiseTable


class Predictor(ABC):
    """One network with the values that it predicts by."""

    n_lanes: int = 1
    """Calls that should run side by side; 1 where each takes all cores by itself."""

    @abstractmethod
    def encode(
        self, x: NDArray[np.float32], batch_codes: NDArray[np.int32], effects: Any = None
    ) -> NDArray[np.float32]:
        """Return (m, n_latent) latents. A batch code of -1 takes the prior mean of the effects.

        With `effects` (from `place_effects`), codes are rows of these instead of the posterior means.
        """

    @abstractmethod
    def decode(
        self, latent: NDArray[np.float32], batch_codes: NDArray[np.int32], effects: Any = None
    ) -> NDArray[np.float32]:
        """Return (m, n_vars) expression; codes and `effects` as in `encode`."""

    @abstractmethod
    def place_effects(self, tables: Mapping[str, NDArray[np.float32]]) -> Any:
        """Put the scales and shifts of every layer, (2, n, width) each, where the engine computes."""

    @abstractmethod
    def effect_tables(self) -> dict[str, EffectTable]:
        """Return the posterior of the random effects, on the host."""

    @abstractmethod
    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of weights, statistics and effects by name; of an engine, all that training changes."""


class Engine(Predictor):
    """One network with its optimisers on one backend.

    All weights are float32. Adam has betas 0.9 and 0.999 and epsilon 1e-7, as published.
    """

    steps_ahead: int = 0
    """Steps whose loss terms may stay unread, so that an accelerator need not wait for the host."""

    def takes_rows(self, transform: Transform, n_vars: int, cache_memory: int | None) -> int | None:
        """Return the bytes of rows that the engine would keep; None if it wants dense arrays.

        Parameters
        ----------
        transform
            What the engine is to do to stored values.
        n_vars
            Columns of the dense arrays that it makes.
        cache_memory
            The user's setting; None leaves it to the engine.
        """
        return None

    def send_rows(self, chunks: ChunkedRows) -> Any:
        """Start a minibatch's way to the device, from any thread; return the `cells` of its feeds."""
        raise NotImplementedError

    def keep_rows(self, blocks: Iterable[ChunkedRows], budget_bytes: int) -> bool:
        """Keep all train rows on the device, in the order given; say whether they fit."""
        raise NotImplementedError

    def kept_rows(self, places: NDArray[np.int64]) -> Any:
        """Return the `cells` of a minibatch of rows that are kept, by their (m,) places."""
        raise NotImplementedError

    @abstractmethod
    def step(self, feeds: Feeds, *, learning_rate: float) -> Any:
        """Update all weights once; return (n_terms,) loss terms, possibly still on the device.

        Of a part of a minibatch (`feeds.share`), the terms are those of the whole, the update is that
        of every process, and the number of processes that ask to stop is added at the end.
        """

    @abstractmethod
    def evaluate(self, feeds: Feeds) -> NDArray[np.float32]:
        """Return (n_terms,) loss terms with moving statistics and posterior means."""

    @abstractmethod
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned."""


def backend_name() -> str:
    """Return the Keras backend in use: `tensorflow` or `jax`."""
    if "keras" in sys.modules:
        import keras
    else:
        with native_log_kept_back():
            import keras
    return str(keras.backend.backend())


@contextmanager
def native_log_kept_back() -> Iterator[None]:
    """Hold back what native libraries write to standard error, unless an error comes of it.

    TensorFlow tells at every start that it found no GPU driver and uses oneDNN, before any of its
    log settings takes effect.
    """
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def build_engine(
    network: Network,
    initial: InitialValues,
    effects: EffectOptions | None,
    *,
    n_threads: int,
    compiled: bool,
    peers: Peers | None = None,
    precision: ProductPrecision = "float32",
) -> Engine:
    """Return the engine of the Keras backend in use.

    Parameters
    ----------
    compiled
        Let XLA compile the TensorFlow step; JAX always does.
    peers
        Other processes that train the same network, joined by `collective.join`.
    precision
        How the matrix products of a training step are rounded.

    Raises
    ------
    ConfigError
        If the backend is neither TensorFlow nor JAX.
    """
    name = backend_name()
    take_device(name)
    if name == "tensorflow":
        from medl_scale.train.engine_tensorflow import TensorFlowEngine

        return TensorFlowEngine(
            network,
            initial,
            effects,
            n_threads=n_threads,
            compiled=compiled,
            peers=peers,
            precision=precision,
        )
    if name == "jax":
        from medl_scale.train.engine_jax import JaxEngine

        return JaxEngine(network, initial, effects, precision=precision)
    from medl_scale.errors import ConfigError

    raise ConfigError(
        f"KERAS_BACKEND must be 'tensorflow' or 'jax'; got {name!r}. Set it before Python starts."
    )

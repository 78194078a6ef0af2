"""What the processes that train one fit together tell each other, outside the steps.

All of them make the same calls in the same order: each is a wait for the slowest. Whatever decides
how a fit goes on is computed from the plan and the settings, or passes through here, so that no rank
takes a way of its own.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, override

import numpy as np

from medl_scale.errors import ConfigError, MedlError, RankLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from medl_scale.ranks import Ranks

    Floats = NDArray[np.float64]

__all__ = ["Alone", "Peers", "join"]


CHUNK_VALUES = 1 << 20
"""Values that `from_first` sends at once: 4 MiB of float32."""


class Peers(ABC):
    """The ranks of one fit, seen from one of them."""

    rank: int
    world_size: int
    agreed: BaseException | None = None
    """The last error that all ranks raised alike; they can go on together after it."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    @abstractmethod
    def sum(self, values: Floats) -> Floats:
        """Return the sum over ranks of (n,) float64, the same on every rank."""

    @abstractmethod
    def sum32(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sum over ranks of (n,) float32, the same on every rank."""

    @abstractmethod
    def guarded(self) -> Any:
        """Return a context in which a rank's loss becomes a `RankLostError`.

        Other errors that leave it end the collectives, so that nobody waits for this rank.
        """

    def from_first[T](self, make: Callable[[], T]) -> T:
        """Return on every rank what `make` returns on the first, where alone it is called.

        Raises
        ------
        MedlError
            On every rank, if `make` raises it.
        RankLostError
            On the others, if `make` raises anything else.
        """
        if not self.is_first:
            value: T = self._received()
            return value
        try:
            value = make()
        except Exception as error:
            told = error if isinstance(error, MedlError) else _FirstFailed(repr(error))
            self._send(pickle.dumps(told))
            self.agreed = error
            raise
        self._send(pickle.dumps(value))
        return value

    def everyones[E: Exception](self, error: E) -> E:
        """Return an error that all ranks are about to raise alike."""
        self.agreed = error
        return error

    def gather(self, values: Floats) -> Floats:
        """Return (world_size, n) values of all ranks."""
        table = np.zeros((self.world_size, values.size))
        table[self.rank] = values
        return self.sum(table.ravel()).reshape(table.shape)

    def _send(self, message: bytes) -> None:
        """Give the others a message: sums in which they hold zeros."""
        self.sum(np.array([float(len(message))]))
        # As numbers below 2^16 in float32, which sums leave exact.
        values = np.frombuffer(message + bytes(len(message) % 2), np.uint16)
        for start in range(0, len(values), CHUNK_VALUES):
            self.sum32(values[start : start + CHUNK_VALUES].astype(np.float32))

    def _received(self) -> Any:
        """Return the message of the first rank, or raise the error that it is."""
        n_bytes = int(self.sum(np.zeros(1))[0])
        n_values = -(-n_bytes // 2)
        parts = []
        for start in range(0, n_values, CHUNK_VALUES):
            zeros = np.zeros(min(CHUNK_VALUES, n_values - start), np.float32)
            parts.append(self.sum32(zeros).astype(np.uint16).tobytes())
        value = pickle.loads(b"".join(parts)[:n_bytes])
        if isinstance(value, _FirstFailed):
            raise RankLostError(
                f"Rank 0 of {self.world_size} failed: {value.what}. Rank {self.rank} ends with it."
            )
        if isinstance(value, MedlError):
            raise self.everyones(value)
        return value


class _FirstFailed:
    """Stands for an error of the first rank that others need not be able to unpickle."""

    def __init__(self, what: str) -> None:
        self.what = what


class Alone(Peers):
    """One process that trains a fit by itself."""

    rank, world_size = 0, 1

    @override
    def sum(self, values: Floats) -> Floats:
        return values

    @override
    def sum32(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values

    @override
    def from_first[T](self, make: Callable[[], T]) -> T:
        return make()

    @override
    @contextmanager
    def guarded(self) -> Iterator[None]:
        yield


def join(ranks: Ranks | None, n_threads: int) -> Peers:
    """Meet the other ranks; a process meets them once, and later calls return the same.

    Parameters
    ----------
    n_threads
        Threads of TensorFlow, which must be set before it starts.

    Raises
    ------
    ConfigError
        If the backend is not TensorFlow.
    RankLostError
        If the others do not come, or this process was of another gang.
    """
    from medl_scale.train.engine import backend_name

    if ranks is None or ranks.world_size == 1:
        return Alone()
    name = backend_name()
    if name != "tensorflow":
        raise ConfigError(
            f"Training one fit on {ranks.world_size} ranks needs the TensorFlow backend; "
            f"KERAS_BACKEND is {name!r}. Set it to 'tensorflow' before Python starts, or use one "
            "worker a fit."
        )
    from medl_scale.train.collective_tensorflow import meet

    return meet(ranks, n_threads)

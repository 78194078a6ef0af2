"""How a process takes its accelerator: one card each, no more memory than it is given, no start-up log.

Everything here acts before TensorFlow or JAX meet the driver, for they read it once. What the user
has set in the environment stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medl_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping, Sequence

__all__ = [
    "Card",
    "claim_card",
    "device_cache_budget",
    "jax_variables",
    "limit_tensorflow",
    "list_cards",
    "take_device",
]

CACHE_SHARE = 0.4
"""Share of the card's free memory that rows may fill. Joining them takes twice that for a moment."""
JAX_SHARE = 0.9
"""Share of the card that JAX may grow to; the rest is the driver's and other libraries'."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
_ASK_S = 20.0
_taken: list[str] = []
"""The framework for which this process has taken its card."""
_claimed: list[Any] = []
"""Open lock files of this process's card; the system frees them when it ends, however it ends."""


class Card(NamedTuple):
    """One NVIDIA GPU as the driver tells of it."""

    uuid: str
    total_bytes: int
    free_bytes: int


def take_device(backend: str, memory: int | None = None) -> None:
    """Claim a card for this process and bound what the framework takes of it; nothing without cards.

    To be called before the framework is first used. A process does it once: later calls change
    nothing, as the frameworks would not.

    Parameters
    ----------
    backend
        `tensorflow` or `jax`.
    memory
        Most bytes of the card for the framework, which RMM's pool or others share with it. None: it
        grows as it needs.

    Raises
    ------
    ConfigError
        If the card has less memory.
    """
    cards = () if _taken else list_cards()
    if not cards:
        return
    with _visibility_kept():
        claim_card(cards)
        visible = [*_visible(cards, os.environ.get(VISIBLE)).values()]
        if memory is not None and visible and memory > visible[0].total_bytes:
            raise ConfigError(
                f"device_memory must fit the card, which has {visible[0].total_bytes:,} bytes; got "
                f"{memory:,}. Lower it, or leave it out."
            )
        if backend == "jax":
            for name, value in jax_variables(memory, visible).items():
                os.environ.setdefault(name, value)
            import jax

            jax.devices()
        else:
            limit_tensorflow(memory)
    _taken.append(backend)


def list_cards() -> tuple[Card, ...]:
    """Return the GPUs of this machine that the driver tells of; none without NVIDIA's tools."""
    if shutil.which("nvidia-smi") is None:
        return ()
    fields = "--query-gpu=uuid,memory.total,memory.free"
    try:
        told = subprocess.run(
            ["nvidia-smi", fields, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    cards = []
    for line in told.stdout.splitlines():
        uuid, *sizes = (part.strip() for part in line.split(","))
        # A card that shares the machine's memory tells no size.
        total, free = (int(size) << 20 if size.isdecimal() else 0 for size in sizes)
        cards.append(Card(uuid, total, free))
    return tuple(cards)


def claim_card(
    cards: Sequence[Card],
    environ: MutableMapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Card | None:
    """Make this process see one card, which no other process of this user's has claimed.

    Dask-CUDA's workers and ours see one card already, and keep it. Of several, the first is taken
    whose lock file is free; if none is, the one with the most free memory. The lock ends with the
    process, so nothing is left behind by one that was killed.

    Parameters
    ----------
    cards
        Those of the machine.
    environ
        Where `CUDA_VISIBLE_DEVICES` is read and set.
    folder
        Where lock files lie; None for the system's temporary folder.

    Returns
    -------
    The card, or None if none is visible.
    """
    visible = _visible(cards, environ.get(VISIBLE))
    if len(visible) <= 1:
        return next(iter(visible.values()), None)
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    for name, card in visible.items():
        lock = (folder / f"medl-scale-{os.getuid()}-{card.uuid}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _claimed.append(lock)
        chosen = name
        break
    else:
        chosen = max(visible, key=lambda name: visible[name].free_bytes)
    environ[VISIBLE] = chosen
    return visible[chosen]


def jax_variables(memory: int | None, visible: Sequence[Card]) -> dict[str, str]:
    """Return what JAX reads at its start: memory that grows as needed, up to a share of the card."""
    share = JAX_SHARE
    if memory is not None and visible and visible[0].total_bytes > 0:
        share = memory / visible[0].total_bytes
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.4f}",
    }


def limit_tensorflow(memory: int | None) -> None:
    """Let TensorFlow's memory grow as needed, or give it a part of each card it sees."""
    import tensorflow as tf

    try:
        for device in tf.config.list_physical_devices("GPU"):
            if memory is None:
                tf.config.experimental.set_memory_growth(device, enable=True)
            else:
                part = tf.config.LogicalDeviceConfiguration(memory_limit=memory >> 20)
                tf.config.set_logical_device_configuration(device, [part])
    except RuntimeError:
        # It is in use already, as an earlier fit of this process has set it up.
        return


def device_cache_budget(wanted: int | None, platform: str, stats: Any) -> int | None:
    """Return the bytes of rows to keep on JAX's device; None where rows travel as dense arrays.

    Parameters
    ----------
    wanted
        The user's setting; None decides by the free memory, on CPUs for nothing.
    platform
        `cpu`, or the name of an accelerator's.
    stats
        What the device tells of its memory: `bytes_limit` and `bytes_in_use`; None if it does not.
    """
    if platform == "cpu":
        return wanted or None
    if wanted is not None:
        return wanted
    free = (stats or {}).get("bytes_limit", 0) - (stats or {}).get("bytes_in_use", 0)
    return int(CACHE_SHARE * max(0, free))


def _visible(cards: Sequence[Card], names: str | None) -> dict[str, Card]:
    """Return the cards that `CUDA_VISIBLE_DEVICES` names, as it does, up to a name that CUDA ignores.

    CUDA may number cards of different kinds in another order than the driver's tools; so a number
    stays the number that the user gave.
    """
    if names is None:
        return {card.uuid: card for card in cards}
    found: dict[str, Card] = {}
    for name in (part.strip() for part in names.split(",")):
        if name.isdecimal() and int(name) < len(cards):
            found[name] = cards[int(name)]
            continue
        matching = [card for card in cards if name and card.uuid.startswith(name)]
        if len(matching) != 1:
            break
        found[name] = matching[0]
    return found


@contextmanager
def _visibility_kept() -> Iterator[None]:
    """Undo what is done to `CUDA_VISIBLE_DEVICES`.

    CUDA has read it for this process by then; processes started later may choose for themselves.
    """
    before = os.environ.get(VISIBLE)
    try:
        yield
    finally:
        os.environ.pop(VISIBLE, None)
        if before is not None:
            os.environ[VISIBLE] = before

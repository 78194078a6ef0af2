"""Which batches cells are asked to come from: names of batches, all of them, or the population."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.store.choices import no_such

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ALL", "AVERAGE", "Targets", "find_targets"]

ALL = "all"
AVERAGE = "average"
NO_EFFECTS = -1


@dataclass(frozen=True, eq=False)
class Targets:
    """Batches to decode under."""

    names: tuple[str, ...]
    codes: NDArray[np.int32]
    """(n_targets,) positions in the model's batches; -1 for the population."""

    def __len__(self) -> int:
        return len(self.names)


def find_targets(
    as_batch: str | Sequence[str], levels: Sequence[str], place: str = "The run"
) -> Targets:
    """Return the batches that a user names.

    Parameters
    ----------
    as_batch
        A batch, several, `"all"` of them, or `"average"`: no batch's effects but the population's.
        `"average"` may stand among names of batches.
    levels
        The model's batches.
    place
        How messages call the run.

    Raises
    ------
    ConfigError
        If none is named, one is named twice, or a keyword is also the name of a batch.
    DataError
        If a batch is unknown; those there are get listed.
    """
    asked = [as_batch] if isinstance(as_batch, str) else [str(name) for name in as_batch]
    for keyword in {ALL, AVERAGE} & set(asked) & set(levels):
        raise ConfigError(
            f"as_batch={keyword!r} could mean the keyword or the batch of this name. Rename the batch "
            "and prepare and fit again."
        )
    names = [name for one in asked for name in (levels if one == ALL else [one])]
    if not names:
        raise ConfigError(
            "as_batch names no batch. Give names of batches, 'all', or 'average' (the population "
            "effect)."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"as_batch names {', '.join(map(repr, repeated))} more than once. Name each batch once."
        )
    position = {name: code for code, name in enumerate(levels)} | {AVERAGE: NO_EFFECTS}
    for name in names:
        if name not in position:
            raise no_such(
                "batch", name, list(levels), place, "as_batch, or 'all', or 'average' of them"
            )
    return Targets(tuple(names), np.array([position[name] for name in names], np.int32))

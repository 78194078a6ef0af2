"""One process's place among those that train one fit together."""

from __future__ import annotations

from dataclasses import dataclass

from medl_scale.errors import ConfigError

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """One process's place among those that train one fit together.

    Raises
    ------
    ConfigError
        If there is no such rank.
    """

    rank: int
    """0 is the first: it alone writes."""
    addresses: tuple[str, ...]
    """`host:port` of every rank's collective server, by rank."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < len(self.addresses):
            raise ConfigError(
                f"rank must be one of 0 to {len(self.addresses) - 1}, one an address; got {self.rank}."
            )

    @property
    def world_size(self) -> int:
        """How many processes train the fit."""
        return len(self.addresses)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

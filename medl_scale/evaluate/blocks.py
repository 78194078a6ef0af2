"""How work on many cells is cut up, so that other processes can carry it without this package knowing.

A metric hands over a module-level function, what all its calls share, and one item a call. Results
come back in the order of the items and are summed in that order, so figures do not depend on who did
the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["BlockMap", "map_here", "row_blocks"]


class BlockMap(Protocol):
    """Calls a function once per item, here or elsewhere."""

    def __call__[S, I, R](
        self, function: Callable[[S, I], R], shared: S, items: Sequence[I]
    ) -> Iterator[R]:
        """Yield `function(shared, item)` for every item, in their order.

        Parameters
        ----------
        function
            Importable by name; it must not depend on the process it runs in.
        shared
            Sent to each worker once. Picklable.
        items
            Small and picklable.
        """
        ...


def map_here[S, I, R](function: Callable[[S, I], R], shared: S, items: Sequence[I]) -> Iterator[R]:
    """Call the function in this process, one item after another."""
    for item in items:
        yield function(shared, item)


def row_blocks(n: int, size: int) -> list[slice]:
    """Return slices of at most `size` rows that cover `n` rows."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]

"""A scheduler on another machine ends with the client that started it, however that ends."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

__all__ = ["ending_with_client"]

_NAME = "medl-scale-lifeline"


@contextmanager
def ending_with_client(client: Client) -> Iterator[None]:
    """Within the block, make a scheduler close itself and its workers once it has lost this client.

    Processes on other machines do not notice that the one that asked for them was killed.
    """
    client.run_on_scheduler(_watch, client_id=client.id)
    try:
        yield
    finally:
        # From here on the client may leave: whoever started the scheduler ends it, and needs it for that.
        with suppress(OSError):
            client.run_on_scheduler(_stop_watching)


def _watch(dask_scheduler: Any, client_id: str) -> None:
    """Install the watch; runs in the scheduler."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    class Lifeline(SchedulerPlugin):  # type: ignore[misc]
        """Closes the scheduler when the client is gone."""

        def remove_client(self, scheduler: Any, client: str) -> None:
            if client == client_id:
                scheduler.loop.add_callback(scheduler.close, reason="its client is gone")

    dask_scheduler.add_plugin(Lifeline(), name=_NAME)


def _stop_watching(dask_scheduler: Any) -> None:
    """Take the watch away; runs in the scheduler."""
    dask_scheduler.remove_plugin(_NAME)

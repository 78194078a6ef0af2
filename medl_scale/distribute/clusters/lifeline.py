"""A scheduler on another machine ends with the client that started it, however that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["end_with_client"]


def end_with_client(client: Client) -> None:
    """Make a scheduler close itself and its workers as soon as it has lost this client.

    Processes on other machines do not notice that the one that asked for them was killed.
    """
    client.run_on_scheduler(_watch, client_id=client.id)


def _watch(dask_scheduler: Any, client_id: str) -> None:
    """Install the watch; runs in the scheduler."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    class Lifeline(SchedulerPlugin):  # type: ignore[misc]
        """Closes the scheduler when the client is gone."""

        def remove_client(self, scheduler: Any, client: str) -> None:
            if client == client_id:
                scheduler.loop.add_callback(scheduler.close, reason="its client is gone")

    dask_scheduler.add_plugin(Lifeline(), name="medl-scale-lifeline")

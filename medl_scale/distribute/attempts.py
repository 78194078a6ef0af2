"""One task on one worker of a client, as the driver follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medl_scale.distribute.lease import attempt_here
from medl_scale.distribute.tasks import Lost, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client, Future

    from medl_scale.distribute.limits import Limits
    from medl_scale.distribute.tasks import Task
    from medl_scale.distribute.watch import ClusterWatch, Place

__all__ = ["SoloAttempt", "result_of"]


class SoloAttempt:
    """A task on its way through one worker.

    Parameters
    ----------
    key
        A name that no other Dask task has; its part before the first dash is what the dashboard shows.
    wake
        Called, from another thread, when it may have ended.
    """

    def __init__(
        self,
        client: Client,
        function: Callable[[Any], Any],
        task: Task,
        place: Place,
        *,
        key: str,
        limits: Limits,
        wake: Callable[[Any], None],
    ) -> None:
        self.task = task
        self.places = (place,)
        self._limits = limits
        self._future: Future = client.submit(
            attempt_here,
            function,
            task,
            place,
            key=key,
            workers=[place.address],
            # Dask must not start it elsewhere by itself: that would be a restart that nobody counts.
            allow_other_workers=False,
            pure=False,
        )
        self._future.add_done_callback(wake)

    def poll(self, watch: ClusterWatch) -> Outcome | Lost | None:
        """Return how the task ended, or None while it runs."""
        (place,) = self.places
        if self._future.done():
            end = result_of(self._future, watch, place, self._limits)
            return end if isinstance(end, Outcome | Lost) else Outcome(self.task.name, error=end)
        return None if watch.has(place) else Lost(watch.why(place))

    def close(self) -> None:
        """Let go of the task; if it runs still, its worker ends it."""
        self._future.release()


def result_of(future: Future, watch: ClusterWatch, place: Place, limits: Limits) -> Any:
    """Return what a finished Dask task returned; a loss, or its error as text.

    Raises
    ------
    SchedulerLostError
        If that is why it was cancelled.
    """
    from concurrent.futures import CancelledError

    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result(timeout=limits.result_s)
    except (KilledWorker, TimeoutError):
        return Lost(watch.why(place))
    except (FutureCancelledError, CancelledError):
        watch.check_connected()
        return Lost("its Dask task was cancelled by somebody else")
    except Exception as error:  # noqa: BLE001 - such as a value that cannot be pickled
        return f"{type(error).__name__}: {error}"

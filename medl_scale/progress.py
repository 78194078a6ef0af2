"""Progress of long steps: library code reports to a `Progress`, the caller decides what is shown."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from rich.console import Console

__all__ = ["BarProgress", "JsonProgress", "Progress", "SilentProgress"]


class Progress(ABC):
    """Where a long step reports to."""

    @abstractmethod
    def step(
        self, name: str, total: int | None, unit: str = "cells"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Open a long step; the value of the context is `advance(n_done)`."""

    @abstractmethod
    def note(self, message: str, **fields: Any) -> None:
        """Tell the user something worth a line; `fields` are its machine-readable form."""


class SilentProgress(Progress):
    """Shows nothing."""

    @contextmanager
    def step(
        self, name: str, total: int | None, unit: str = "cells"
    ) -> Iterator[Callable[[int], None]]:
        yield lambda _: None

    def note(self, message: str, **fields: Any) -> None:
        pass


class BarProgress(Progress):
    """Bars on standard error with units per second and time left."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True)

    @contextmanager
    def step(
        self, name: str, total: int | None, unit: str = "cells"
    ) -> Iterator[Callable[[int], None]]:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        started = time.perf_counter()
        done = 0
        with Progress(*columns, console=self.console, refresh_per_second=4) as bars:
            task = bars.add_task(name, total=total, rate="")

            def advance(n: int) -> None:
                nonlocal done
                done += n
                elapsed = time.perf_counter() - started
                rate = f"{done / elapsed:,.0f} {unit}/s" if elapsed > 0 else ""
                bars.update(task, advance=n, rate=rate)

            yield advance

    def note(self, message: str, **fields: Any) -> None:
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)


class JsonProgress(Progress):
    """One JSON object a line, for machines: `{"event": ..., "time": ..., ...}`."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 5.0) -> None:
        self.stream = stream or sys.stderr
        self.every_s = every_s

    def write(self, event: str, **fields: Any) -> None:
        """Write one line."""
        record = {"event": event, "time": round(time.time(), 3), **fields}
        self.stream.write(json.dumps(record, default=str) + "\n")
        self.stream.flush()

    @contextmanager
    def step(
        self, name: str, total: int | None, unit: str = "cells"
    ) -> Iterator[Callable[[int], None]]:
        started = last = time.perf_counter()
        done = 0
        self.write("step_start", step=name, total=total, unit=unit)

        def advance(n: int) -> None:
            nonlocal done, last
            done += n
            now = time.perf_counter()
            if now - last >= self.every_s:
                last = now
                self.write("step_progress", step=name, done=done, total=total, unit=unit)

        yield advance
        seconds = time.perf_counter() - started
        self.write("step_end", step=name, done=done, unit=unit, seconds=round(seconds, 3))

    def note(self, message: str, **fields: Any) -> None:
        self.write("note", message=message, **fields)

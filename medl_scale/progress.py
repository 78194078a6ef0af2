"""Progress of long steps: library code reports to a `Progress`, the caller decides what is shown."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TextIO

    from rich.console import Console

__all__ = ["BarProgress", "FitLine", "JsonProgress", "Progress", "SilentProgress", "is_loss"]


def is_loss(column: str) -> bool:
    """Say whether a column of a fit's history is a loss term, `train_...` or `val_...`."""
    return column.startswith(("train_", "val_")) and column != "train_s"


@dataclass(frozen=True)
class FitLine:
    """One fit among those that run, as users see it."""

    name: str
    state: str
    epoch: int = 0
    max_epochs: int = 0
    share_of_epoch: float = 0.0
    cells_per_s: float = 0.0
    most_left_s: float | None = None
    """Seconds left if no early stopping ends the fit."""
    losses: Mapping[str, float] = field(default_factory=dict)


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

    @abstractmethod
    def fits(self) -> AbstractContextManager[Callable[[Sequence[FitLine]], None]]:
        """Open the display of running fits; the value of the context shows their present state."""

    @abstractmethod
    def epoch(self, name: str, row: Mapping[str, Any]) -> None:
        """Tell that a fit has ended an epoch, with its history row."""


class SilentProgress(Progress):
    """Shows nothing."""

    @override
    @contextmanager
    def step(
        self, name: str, total: int | None, unit: str = "cells"
    ) -> Iterator[Callable[[int], None]]:
        yield lambda _: None

    @override
    def note(self, message: str, **fields: Any) -> None:
        pass

    @override
    @contextmanager
    def fits(self) -> Iterator[Callable[[Sequence[FitLine]], None]]:
        yield lambda _: None

    @override
    def epoch(self, name: str, row: Mapping[str, Any]) -> None:
        pass


class BarProgress(Progress):
    """Bars on standard error with units per second and time left.

    Parameters
    ----------
    console
        Where to; standard error by default.
    verbose
        Also print a line an epoch with its loss terms.
    """

    def __init__(self, console: Console | None = None, *, verbose: bool = False) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True)
        self.verbose = verbose

    @override
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

    @override
    def note(self, message: str, **fields: Any) -> None:
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    @override
    @contextmanager
    def fits(self) -> Iterator[Callable[[Sequence[FitLine]], None]]:
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        def table(lines: Sequence[FitLine]) -> Table:
            shown = Table(box=None, pad_edge=False)
            for title in (
                "fit",
                "state",
                "epoch",
                "",
                "cells/s",
                "left at most",
                "validation loss",
            ):
                shown.add_column(
                    title, justify="left" if title in {"fit", "state"} else "right", no_wrap=True
                )
            for line in lines:
                loss = line.losses.get("val_total")
                left = line.most_left_s
                shown.add_row(
                    line.name,
                    line.state,
                    f"{line.epoch + 1} of {line.max_epochs}" if line.max_epochs else "",
                    ProgressBar(1.0, line.share_of_epoch, width=10) if line.max_epochs else "",
                    f"{line.cells_per_s:,.0f}" if line.cells_per_s else "",
                    "" if left is None else str(timedelta(seconds=round(left))),
                    "" if loss is None else f"{loss:.5g}",
                )
            return shown

        with Live(table([]), console=self.console, refresh_per_second=2, transient=True) as live:
            yield lambda lines: live.update(table(lines))

    @override
    def epoch(self, name: str, row: Mapping[str, Any]) -> None:
        if not self.verbose:
            return
        terms = "  ".join(f"{key} {value:.5g}" for key, value in row.items() if is_loss(key))
        self.note(f"{name} epoch {row['epoch']}  {terms}  {row['cells_per_s']:,.0f} cells/s")


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

    @override
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

    @override
    def note(self, message: str, **fields: Any) -> None:
        self.write("note", message=message, **fields)

    @override
    @contextmanager
    def fits(self) -> Iterator[Callable[[Sequence[FitLine]], None]]:
        states: dict[str, str] = {}

        def show(lines: Sequence[FitLine]) -> None:
            for line in lines:
                if states.get(line.name) != line.state:
                    states[line.name] = line.state
                    self.write("fit_state", fit=line.name, state=line.state)

        yield show

    @override
    def epoch(self, name: str, row: Mapping[str, Any]) -> None:
        self.write("epoch", fit=name, **row)

"""How long figures may take, together and each."""

from __future__ import annotations

import math
import time

__all__ = ["Budget", "OutOfTimeError"]


class OutOfTimeError(Exception):
    """A figure takes longer than it may, and cannot be had more cheaply."""


class Budget:
    """Seconds that a number of figures may take together."""

    def __init__(self, seconds: float | None, n_figures: int) -> None:
        self.ends = math.inf if seconds is None else time.perf_counter() + seconds
        self.n_figures = n_figures

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self.ends - time.perf_counter())

    def share(self, figures: float = 4.0) -> float | None:
        """Return the seconds that the next figure may take, None for no limit.

        Parameters
        ----------
        figures
            As much as so many of those to come. Most take next to nothing.
        """
        if math.isinf(self.ends):
            return None
        return max(0.1, self.left() * min(1.0, figures / max(1, self.n_figures)))

    def count_one(self) -> None:
        """Note that a figure is done."""
        self.n_figures -= 1

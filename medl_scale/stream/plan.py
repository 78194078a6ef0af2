"""Which rows come when: integers only, a pure function of the seed and the epoch.

The rows to train on are cut into runs that lie together in the store, and the runs are put in
random order. That sequence is cut into lanes of equal length; a minibatch takes the same number of
rows from every lane, and inside a lane rows are mixed within windows. A rank owns whole lanes and
reads nothing else, so the content of every global minibatch is the same for any number of ranks,
and any minibatch can be reached by reading the windows that hold it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.seeds import Purpose, generator
from medl_scale.stream.runs import Stretches, row_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["EpochPlan", "Load"]

_LANE_COUNTS = (16, 8, 4, 2, 1)


class Load(NamedTuple):
    """What one rank reads in one joint request, and the minibatches made of it."""

    runs: tuple[slice, ...]
    """Rows of the store to read, in this order."""
    first: int
    """Number within the epoch of the first minibatch."""
    positions: tuple[NDArray[np.int64], ...]
    """For each minibatch, places of its rows among the rows read."""


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch: every train row once, in minibatches.

    Notes
    -----
    There are 16 lanes, or the largest of 8, 4, 2 and 1 that divides `minibatch_size`. Within a
    lane, whole runs come before the pieces that lane borders and slice borders leave, so that
    windows consist of whole runs. A last partial minibatch of less than a quarter of
    `minibatch_size` is joined to the one before, else it stands alone.
    """

    train: tuple[slice, ...]
    """Rows of the store to train on; the slices do not overlap."""
    minibatch_size: int
    """Rows of one step, over all ranks."""
    run_size: int
    """Rows read together; runs begin at multiples of it in the store."""
    window_size: int
    """Rows held and mixed at a time, over all ranks."""
    seed: int
    epoch: int

    def __post_init__(self) -> None:
        for name in ("minibatch_size", "run_size", "window_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)!r}.")
        ordered = sorted(self.train, key=lambda rows: int(rows.start))
        if self.n_rows < 1 or any(not 0 <= rows.start <= rows.stop for rows in ordered):
            raise ConfigError(f"train must be slices that hold at least one row; got {self.train}.")
        if any(a.stop > b.start for a, b in pairwise(ordered)):
            raise ConfigError(f"The slices of train must not overlap; got {self.train}.")

    @cached_property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        return sum(rows.stop - rows.start for rows in self.train)

    @cached_property
    def n_lanes(self) -> int:
        """Equal parts that a minibatch takes its rows from; the most ranks there can be."""
        return next(n for n in _LANE_COUNTS if self.minibatch_size % n == 0)

    @cached_property
    def n_minibatches(self) -> int:
        """Steps of an epoch, the same on every rank."""
        n_full, n_left = divmod(self.n_rows, self.minibatch_size)
        stands_alone = 4 * n_left >= self.minibatch_size
        return max(1, n_full + stands_alone)

    @property
    def longest(self) -> int:
        """Most rows of a minibatch over all ranks."""
        return max(self.length(0), self.length(self.n_minibatches - 1))

    def length(self, minibatch: int) -> int:
        """Return the rows of a minibatch over all ranks."""
        if minibatch == self.n_minibatches - 1:
            return self.n_rows - minibatch * self.minibatch_size
        return self.minibatch_size

    def sizes(self, minibatch: int, world_size: int) -> tuple[int, ...]:
        """Return each rank's rows of a minibatch.

        Raises
        ------
        ConfigError
            If there cannot be so many ranks.
        """
        is_last = minibatch == self.n_minibatches - 1
        begin = minibatch * self._lane_share

        def lane_rows(lane: int) -> int:
            lower, upper = self._lane_bounds[lane : lane + 2]
            return upper - lower - begin if is_last else self._lane_share

        ranks = (self._lanes_of(rank, world_size) for rank in range(world_size))
        return tuple(sum(lane_rows(lane) for lane in lanes) for lanes in ranks)

    def minibatch_rows(
        self, minibatch: int, rank: int = 0, world_size: int = 1
    ) -> NDArray[np.int64]:
        """Return a rank's rows of one minibatch.

        Parameters
        ----------
        minibatch
            Its number within the epoch, from 0.
        rank, world_size
            Number of the process, and how many share the minibatch.

        Returns
        -------
        (m,) int64, rows of the store; the minibatch is the ranks' rows one after another.

        Raises
        ------
        ConfigError
            If there is no such minibatch or rank.
        """
        load = next(self.loads(rank, world_size, start=minibatch))
        return row_numbers(load.runs)[load.positions[0]]

    def loads(self, rank: int = 0, world_size: int = 1, *, start: int = 0) -> Iterator[Load]:
        """Yield what a rank reads, from the minibatch `start` on.

        Raises
        ------
        ConfigError
            If there is no such minibatch or rank.
        """
        lanes = self._lanes_of(rank, world_size)
        if not 0 <= start < self.n_minibatches:
            raise ConfigError(
                f"The epoch has {self.n_minibatches:,} minibatches, 0 to {self.n_minibatches - 1}; "
                f"got {start!r}. Start at one of these, or with the next epoch."
            )
        return self._windows(lanes, start)

    def _windows(self, lanes: range, start: int) -> Iterator[Load]:
        """Yield the loads of the given lanes, from the minibatch `start` on."""
        per_window = self._minibatches_per_window
        for window in range(start // per_window, -(-self.n_minibatches // per_window)):
            begin = window * per_window
            end = min(begin + per_window, self.n_minibatches)
            first = max(start, begin)
            runs: list[slice] = []
            positions: list[list[NDArray[np.int64]]] = [[] for _ in range(first, end)]
            n_read = 0
            for lane in lanes:
                lower, upper = self._lane_row(lane, begin), self._lane_row(lane, end)
                held = self._lanes[lane].cut(lower, upper)
                order = n_read + self._shuffled(held.n_rows, lane, window)
                borders = [self._lane_row(lane, t) - lower for t in range(first, end + 1)]
                for found, (start_row, stop_row) in zip(positions, pairwise(borders), strict=True):
                    found.append(order[start_row:stop_row])
                runs += held.runs
                n_read += order.size
            yield Load(tuple(runs), first, tuple(np.concatenate(found) for found in positions))

    def _lanes_of(self, rank: int, world_size: int) -> range:
        """Return the lanes that a rank owns."""
        if not 1 <= world_size <= self.n_lanes:
            raise ConfigError(
                f"A minibatch of {self.minibatch_size} rows can be shared by 1 to {self.n_lanes} "
                f"ranks; got {world_size}. Use fewer, or a minibatch_size divisible by 16."
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must be 0 to {world_size - 1}; got {rank!r}.")
        return range(rank * self.n_lanes // world_size, (rank + 1) * self.n_lanes // world_size)

    @property
    def _lane_share(self) -> int:
        """Rows that a full minibatch takes from each lane."""
        return self.minibatch_size // self.n_lanes

    @cached_property
    def _minibatches_per_window(self) -> int:
        """Minibatches made of one window; its share of a lane is whole runs where that fits."""
        lane_window = self.window_size // self.n_lanes
        unit = math.lcm(self._lane_share, self.run_size)
        if unit > lane_window:
            unit = self._lane_share
        return max(1, lane_window // unit * unit // self._lane_share)

    def _lane_row(self, lane: int, minibatch: int) -> int:
        """Return where in a lane the rows of a minibatch begin."""
        if minibatch == self.n_minibatches:
            return self._lanes[lane].n_rows
        return minibatch * self._lane_share

    def _shuffled(self, n_rows: int, lane: int, window: int) -> NDArray[np.int64]:
        """Return the order of the rows of one lane within one window."""
        random = generator(self.seed, Purpose.WINDOW_ORDER, self.epoch, lane, window)
        return random.permutation(n_rows)

    @cached_property
    def _lanes(self) -> list[Stretches]:
        """The runs in this epoch's order, cut into lanes."""
        runs = Stretches.aligned(self.train, self.run_size)
        random = generator(self.seed, Purpose.RUN_ORDER, self.epoch)
        sequence = runs.take(random.permutation(runs.starts.size))
        return [
            self._whole_runs_first(sequence.cut(start, stop))
            for start, stop in pairwise(self._lane_bounds)
        ]

    @property
    def _lane_bounds(self) -> list[int]:
        """Where lanes begin and end in the sequence of runs; their lengths differ by one at most."""
        return [lane * self.n_rows // self.n_lanes for lane in range(self.n_lanes + 1)]

    def _whole_runs_first(self, lane: Stretches) -> Stretches:
        """Move pieces of runs to the end of a lane, so that windows begin with whole runs."""
        return lane.take(np.argsort(lane.lengths < self.run_size, kind="stable"))

"""What a training step is given: minibatches in the order of a plan, or blocks in row order."""

from __future__ import annotations

from itertools import accumulate, batched, pairwise, repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from medl_scale.stream.buffers import Buffers
from medl_scale.stream.chunks import CHUNK, chunked
from medl_scale.stream.densify import densify
from medl_scale.stream.prefetch import Prefetched
from medl_scale.stream.runs import row_numbers, sequential_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from medl_scale.store.atlas import Columns
    from medl_scale.stream.chunks import ChunkedRows
    from medl_scale.stream.contract import CsrRows, Source
    from medl_scale.stream.densify import Transform
    from medl_scale.stream.plan import EpochPlan, Load

__all__ = [
    "READ_ROWS",
    "Form",
    "Minibatch",
    "Whole",
    "blocks",
    "chunked_blocks",
    "dense_rows",
    "stream",
]

type Form = Literal["dense", "chunks", "rows"]

READ_ROWS = 8192
"""Rows read at once where their order is that of the store."""


class Whole(NamedTuple):
    """A minibatch that several ranks hold."""

    rows: NDArray[np.int64]
    """(n,), rows of the atlas: the ranks' ones, one rank after another."""
    sizes: tuple[int, ...]
    """How many of them each rank holds."""


class Minibatch(NamedTuple):
    """Cells of one step."""

    x: NDArray[np.float32]
    """(m, n_vars), log-normalised and scaled."""
    batch_codes: NDArray[np.int32]
    """(m,)."""
    label_codes: NDArray[np.int32]
    """(m,); -1 where unlabelled."""
    rows: NDArray[np.int64]
    """(m,), rows of the atlas."""
    whole: Whole | None = None
    """What it is a part of; None if it is everything."""
    cells: Any = None
    """The cells' values in the form asked for, where that is not dense; `x` then has no rows."""


def stream(
    source: Source,
    columns: Columns,
    plan: EpochPlan,
    transform: Transform,
    *,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    prefetch: int = 2,
    form: Form = "dense",
    send: Callable[[ChunkedRows], Any] = lambda chunks: chunks,
) -> Prefetched[Minibatch]:
    """Iterate over a rank's share of the minibatches of one epoch.

    Parameters
    ----------
    source
        Where rows are read.
    columns
        Codes and size factors of all rows.
    plan
        The order of the rows.
    transform
        What is done to the values.
    rank, world_size
        Number of the process, and how many share each minibatch.
    start
        The minibatch to start at, from 0.
    prefetch
        Minibatches made ahead by a thread; 0 makes each when it is asked for.
    form
        `dense` makes arrays; `chunks` leaves `x` empty and gives what `send` makes of the rows in
        pieces; `rows` gives the rows' numbers alone, and reads nothing.
    send
        Called in that thread: the place to start the pieces' way to a device.

    Returns
    -------
    An iterator and context manager; `wait_s` tells how long the consumer waited. The minibatches
    are the same, bit by bit, for any `prefetch`, any cache, and on disk as in memory. None is
    written to while anything refers to it.

    Raises
    ------
    ConfigError
        If there is no such minibatch or rank.
    DataError
        While iterating, if a value is not a finite number.
    StoreError
        While iterating, if the store is damaged.
    """
    loads = plan.loads(rank, world_size, start=start)
    # Integers only: what others hold is known, never read.
    wholes = plan.loads(start=start) if world_size > 1 else None

    def make() -> Generator[Minibatch]:
        buffers = Buffers(plan.longest, source.n_vars)
        for load in loads:
            rows = row_numbers(load.runs)
            if form == "rows":
                for positions in load.positions:
                    yield _unread(rows[positions], columns, source.n_vars)
                continue
            stored = source.fetch(load.runs)
            everyones = repeat(None) if wholes is None else _wholes(plan, next(wholes), world_size)
            for positions, whole in zip(load.positions, everyones, strict=False):
                found = rows[positions]
                if form == "chunks":
                    yield _sent(stored, positions, found, columns, transform, source.n_vars, send)
                    continue
                yield _minibatch(stored, positions, found, columns, transform, buffers, whole)

    return Prefetched(make(), prefetch)


def blocks(
    source: Source,
    columns: Columns,
    slices: Sequence[slice],
    transform: Transform,
    block_rows: int,
    *,
    prefetch: int = 1,
    form: Literal["dense", "chunks"] = "dense",
    send: Callable[[ChunkedRows], Any] = lambda chunks: chunks,
) -> Prefetched[Minibatch]:
    """Iterate over the rows of `slices` in order, `block_rows` at a time; the last may be shorter.

    Parameters, Returns and Raises are those of `stream`.
    """
    runs = sequential_runs(slices, block_rows)

    def make() -> Generator[Minibatch]:
        buffers = Buffers(block_rows, source.n_vars)
        for together in batched(runs, max(1, READ_ROWS // block_rows)):
            wanted = [rows for block in together for rows in block]
            stored, rows = source.fetch(wanted), row_numbers(wanted)
            lengths = (sum(part.stop - part.start for part in block) for block in together)
            for begin, end in pairwise(accumulate(lengths, initial=0)):
                positions, found = np.arange(begin, end), rows[begin:end]
                if form == "chunks":
                    yield _sent(stored, positions, found, columns, transform, source.n_vars, send)
                else:
                    yield _minibatch(stored, positions, found, columns, transform, buffers)

    return Prefetched(make(), prefetch)


def chunked_blocks(
    source: Source, columns: Columns, slices: Sequence[slice], transform: Transform
) -> Iterator[ChunkedRows]:
    """Yield the rows of `slices` in order, in pieces without any padding.

    Raises
    ------
    DataError, StoreError
        As `stream` does.
    """
    for runs in sequential_runs(slices, READ_ROWS):
        stored, rows = source.fetch(runs), row_numbers(runs)
        n_chunks = int((-(-np.diff(stored.indptr) // CHUNK)).sum())
        yield chunked(
            stored,
            np.arange(rows.size),
            rows,
            columns.size_factors,
            transform,
            source.n_vars,
            n_chunks=n_chunks,
        )


def dense_rows(
    source: Source, columns: Columns, rows: NDArray[np.int64], transform: Transform
) -> NDArray[np.float32]:
    """Return (m, n_vars) values of any few rows, in their order, log-normalised and scaled.

    Raises
    ------
    DataError, StoreError
        As `stream` does.
    """
    x = np.empty((rows.size, source.n_vars), np.float32)
    stored = source.fetch([slice(int(row), int(row) + 1) for row in rows])
    densify(stored, np.arange(rows.size), rows, columns.size_factors, transform, x)
    return x


def _wholes(plan: EpochPlan, load: Load, world_size: int) -> Iterator[Whole]:
    """Yield the minibatches of a load that is not a rank's alone."""
    rows = row_numbers(load.runs)
    for minibatch, positions in enumerate(load.positions, load.first):
        yield Whole(rows[positions], plan.sizes(minibatch, world_size))


def _minibatch(
    stored: CsrRows,
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: Columns,
    transform: Transform,
    buffers: Buffers,
    whole: Whole | None = None,
) -> Minibatch:
    """Make one minibatch of rows that were read."""
    x = buffers.take(rows.size)
    densify(stored, positions, rows, columns.size_factors, transform, x)
    return Minibatch(x, columns.batch_codes[rows], columns.label_codes[rows], rows, whole)


def _sent(
    stored: CsrRows,
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: Columns,
    transform: Transform,
    n_vars: int,
    send: Callable[[ChunkedRows], Any],
) -> Minibatch:
    """Make one minibatch in pieces, and start its way to a device."""
    cells = chunked(stored, positions, rows, columns.size_factors, transform, n_vars)
    return _unread(rows, columns, n_vars)._replace(cells=send(cells))


def _unread(rows: NDArray[np.int64], columns: Columns, n_vars: int) -> Minibatch:
    """Make a minibatch without dense values."""
    nothing = np.empty((0, n_vars), np.float32)
    return Minibatch(nothing, columns.batch_codes[rows], columns.label_codes[rows], rows)

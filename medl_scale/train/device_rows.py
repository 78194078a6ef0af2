"""Rows in the memory of JAX's device: made dense inside the step, from pieces sent or kept there.

The bus carries what the store holds, a byte or two a count and two a column, and never a dense array.
Where all train rows fit the device they are put there once, and a step is told row numbers alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.stream.chunks import ChunkedRows, bucket_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from medl_scale.stream.densify import Transform

    Tensor = Any

__all__ = ["DeviceRows", "KeptRows", "SentRows", "dense_on_device", "fill_device"]


class SentRows(NamedTuple):
    """A minibatch's rows on their way to the device."""

    chunks: ChunkedRows


class KeptRows(NamedTuple):
    """A minibatch's rows as places among those kept on the device."""

    places: Tensor
    """(m,) int32."""
    slots: Tensor
    """(n_chunks,) int32, 0, 1, 2 ...: its length says how many pieces the rows have at most."""


class DeviceRows(NamedTuple):
    """All train rows on the device, in the order of the store."""

    data: Tensor
    """(n_chunks, CHUNK)."""
    indices: Tensor
    """(n_chunks, CHUNK)."""
    starts: Tensor
    """(n,) int32, first piece of each row."""
    counts: Tensor
    """(n,) int32 pieces of each row."""
    factors: Tensor
    """(n,) float32."""


class Filled(NamedTuple):
    """What `fill_device` put on the device, and what the host must know of it."""

    rows: DeviceRows
    counts: NDArray[np.int32]
    """(n,) pieces of each row."""
    slots: dict[int, Tensor]
    """Ranges made so far, by length."""

    def minibatch(self, places: NDArray[np.int64]) -> KeptRows:
        """Return a minibatch of the rows at (m,) places."""
        import jax.numpy as jnp

        size = bucket_size(int(self.counts[places].sum()))
        if size not in self.slots:
            self.slots[size] = jnp.arange(size, dtype=np.int32)
        return KeptRows(places.astype(np.int32), self.slots[size])


def fill_device(blocks: Iterable[ChunkedRows], budget_bytes: int) -> Filled | None:
    """Put rows on the device, block by block; None, and nothing kept, if they do not fit.

    Parameters
    ----------
    budget_bytes
        Most bytes to keep. While the blocks are joined, up to twice what is kept is held.
    """
    import jax
    import jax.numpy as jnp

    parts: list[ChunkedRows] = []
    n_bytes = 0
    for block in blocks:
        # The row's first piece is kept too, four bytes each.
        n_bytes += block.nbytes + block.counts.nbytes
        if n_bytes > budget_bytes:
            return None
        data, indices = jax.device_put((block.data, block.indices))
        parts.append(ChunkedRows(data, indices, block.counts, block.factors))
    if not parts:
        return None
    counts = np.concatenate([part.counts for part in parts])
    starts = np.cumsum(counts, dtype=np.int64) - counts
    factors = np.concatenate([part.factors for part in parts])
    # One array after the other, the pieces of each let go before the next is joined.
    indices = jnp.concatenate([part.indices for part in parts]).block_until_ready()
    values = [part.data for part in parts]
    parts.clear()
    data = jnp.concatenate(values).block_until_ready()
    kept = jax.device_put((starts.astype(np.int32), counts, factors))
    return Filled(DeviceRows(data, indices, *kept), counts, {})


def dense_on_device(
    cells: SentRows | KeptRows, kept: DeviceRows | None, transform: Transform, n_vars: int
) -> Tensor:
    """Return (m, n_vars) float32, what `stream.densify` writes but for the logarithm's rounding.

    To be called inside a `jit`. No two values of a row share a column, so the order in which they
    are added does not matter, and the result is the same each time.
    """
    import jax.numpy as jnp

    if isinstance(cells, SentRows):
        data, indices, counts, factors = cells.chunks
        owners = _owners(counts, data.shape[0])
    else:
        if kept is None:
            raise RuntimeError("no rows are kept on the device")
        counts = kept.counts[cells.places]
        factors = kept.factors[cells.places]
        owners = _owners(counts, cells.slots.shape[0])
        begins = jnp.cumsum(counts) - counts
        chunk = kept.starts[cells.places][owners] + cells.slots - begins[owners]
        # Slots beyond the last piece take zeros in column 0, which add nothing.
        chunk = jnp.where(cells.slots < jnp.sum(counts), chunk, kept.data.shape[0])
        data = kept.data.at[chunk].get(mode="fill", fill_value=0)
        indices = kept.indices.at[chunk].get(mode="fill", fill_value=0)
    values = data.astype(np.float32) * factors[owners][:, None]
    if transform.takes_log:
        values = jnp.log1p(values)
    values = values * np.float32(transform.scale)
    n_rows = counts.shape[0]
    flat = owners[:, None] * n_vars + indices.astype(np.int32)
    dense = jnp.zeros(n_rows * n_vars, np.float32).at[flat].add(values, mode="promise_in_bounds")
    return dense.reshape(n_rows, n_vars)


def _owners(counts: Tensor, n_chunks: int) -> Tensor:
    """Return (n_chunks,) which row of the minibatch each piece belongs to; the last one's beyond."""
    import jax.numpy as jnp

    n_rows = counts.shape[0]
    return jnp.repeat(jnp.arange(n_rows, dtype=np.int32), counts, total_repeat_length=n_chunks)

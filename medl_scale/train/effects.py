"""Random effects held in host memory: drawn for a minibatch and updated by its gradient, row by row.

Only the rows of batches present in a minibatch are read or written, so that the cost of a step does
not grow with the number of batches in the atlas. The kernels fuse, per row, the sum of the cells'
gradients, the closed-form KL gradient and Adam; as separate tensor operations they would be bound by
memory many times over.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.models.variational import PRIOR_SCALE, SCALE_FLOOR, EffectTable
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int64]

__all__ = ["ADAM_BETAS", "ADAM_EPSILON", "EffectDraw", "HostEffects", "NoiseTable", "PresentRows"]

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-7
NOISE_BITS = 22
LOG2E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.693145751953125)
LN2_LOW = np.float32(1.428606765330187e-06)


class NoiseTable:
    """Standard normal numbers that every rank and backend reads alike.

    A draw of n numbers is a stretch of one fixed table of 2^22, from an offset that is a hash of
    (step, layer, batch). So a weight's noise depends on nothing else: not on the rows present
    beside it, the number of ranks, or the backend's own generator; and reading costs no more than
    memory does. Salimans et al. (2017, arXiv:1703.03864) share noise in this way.
    """

    def __init__(self, seed: int) -> None:
        rng = generator(seed, Purpose.TRAINING_NOISE)
        self.values: Floats = rng.standard_normal(1 << NOISE_BITS, dtype=np.float32)

    def offsets(self, step: int, layer: int, batch_codes: Integers, n_values: int) -> Integers:
        """Return (n,) starts of stretches of `n_values` numbers for the given batches."""
        with np.errstate(over="ignore"):
            key = np.uint64(step) * np.uint64(64) + np.uint64(layer)
            mixed = key * np.uint64(0x9E3779B97F4A7C15) + batch_codes.astype(np.uint64)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        return (mixed % np.uint64((1 << NOISE_BITS) - n_values)).astype(np.int64)


@dataclass(frozen=True)
class PresentRows:
    """The batches present in a minibatch and which cells belong to each."""

    rows: Integers
    """(n_present,) sorted batch codes."""
    cells: Integers
    """(m,) positions in the minibatch, those of one batch beside each other."""
    starts: Integers
    """(n_present + 1,) where each batch's cells begin in `cells`."""

    @staticmethod
    def of(
        batch_codes: NDArray[np.int32],
        *,
        n_batches: int | None = None,
        everyones: NDArray[np.int32] | None = None,
    ) -> PresentRows:
        """Group a minibatch's cells; with `n_batches`, every batch is listed, present or not.

        `everyones` are the codes of the whole minibatch where other processes hold a part of it.
        """
        cells = np.argsort(batch_codes, kind="stable")
        grouped = batch_codes[cells]
        present = batch_codes if everyones is None else everyones
        rows = np.unique(present) if n_batches is None else np.arange(n_batches)
        starts = np.searchsorted(grouped, np.append(rows, np.iinfo(np.int32).max))
        return PresentRows(rows.astype(np.int64), cells.astype(np.int64), starts.astype(np.int64))

    def summed(self) -> PresentRows:
        """Return the same batches for gradients that are summed already: one row each."""
        places = np.arange(len(self.rows) + 1)
        return PresentRows(self.rows, places[:-1], places)


@dataclass(frozen=True)
class EffectDraw:
    """One draw of every layer for the cells of a minibatch, and what its update needs."""

    present: PresentRows
    step: int
    cells: dict[str, tuple[Floats, Floats]]
    """Per layer the cells' (scale, shift), (m, width) each."""


class HostEffects:
    """Posterior tables of all layers with their Adam moments.

    Parameters
    ----------
    tables
        First posterior of each layer.
    kl_weights
        Weight of each layer's KL (summed over both tables) in the objective.
    presence
        (n_batches,) probability that a batch occurs in a minibatch. A present row's KL is divided
        by it, so that the expected gradient is that of the whole sum. None updates all rows in
        every step, as published.
    one_draw_kl
        Gradient of the published Monte-Carlo KL, log q(w) - log p(w) at the weight drawn, instead of
        the closed form.
    noise
        Where draws come from.
    n_threads
        Threads the kernels may use.
    """

    def __init__(
        self,
        tables: Mapping[str, EffectTable],
        *,
        kl_weights: Mapping[str, float],
        presence: NDArray[np.float64] | None,
        one_draw_kl: bool,
        noise: NoiseTable,
        n_threads: int,
    ) -> None:
        self.loc = {layer: table.loc.copy() for layer, table in tables.items()}
        self.untransformed = {layer: table.untransformed.copy() for layer, table in tables.items()}
        self.moments = {
            layer: np.zeros((4, *table.loc.shape), np.float32) for layer, table in tables.items()
        }
        self.kl_weights = dict(kl_weights)
        self.presence = presence
        self.one_draw_kl = one_draw_kl
        self.noise = noise
        self.n_batches = next(iter(self.loc.values())).shape[1]
        self._layer_index = {layer: i for i, layer in enumerate(sorted(tables))}
        self._n_threads = max(1, n_threads)
        self._pool = ThreadPoolExecutor(self._n_threads) if self._n_threads > 1 else None
        self._buffers: dict[tuple[str, int], tuple[Floats, Floats]] = {}

    def draw(
        self,
        batch_codes: NDArray[np.int32],
        step: int,
        *,
        everyones: NDArray[np.int32] | None = None,
    ) -> EffectDraw:
        """Draw every layer's weights once and hand each cell those of its batch.

        The arrays are reused by the next draw. `everyones` is as in `PresentRows.of`.
        """
        everywhere = None if self.presence is not None else self.n_batches
        present = PresentRows.of(batch_codes, n_batches=everywhere, everyones=everyones)
        cells = {}
        for layer, loc in self.loc.items():
            scale, shift = self._buffer(layer, len(batch_codes))
            offsets = self._offsets(layer, step, present)
            self._over_rows(
                len(present.rows), _draw_rows, loc, self.untransformed[layer], present.rows,
                present.cells, present.starts, self.noise.values, offsets, scale, shift,
            )  # fmt: skip
            cells[layer] = (scale, shift)
        return EffectDraw(present, step, cells)

    def update(
        self,
        draw: EffectDraw,
        gradients: Mapping[str, tuple[Floats, Floats]],
        *,
        learning_rate: float,
        n_updates: int,
    ) -> None:
        """Apply one Adam update to the rows of a draw.

        Parameters
        ----------
        gradients
            Per layer the objective's gradient with respect to the cells' (scale, shift).
        n_updates
            Updates made so far, this one included: Adam's bias correction.
        """
        beta1, beta2 = ADAM_BETAS
        rate = learning_rate * np.sqrt(1.0 - beta2**n_updates) / (1.0 - beta1**n_updates)
        rows = draw.present.rows
        share = np.ones(len(rows)) if self.presence is None else self.presence[rows]
        for layer, (d_scale, d_shift) in gradients.items():
            kl_weight = (self.kl_weights[layer] / share).astype(np.float32)
            offsets = self._offsets(layer, draw.step, draw.present)
            self._over_rows(
                len(rows), _update_rows, self.loc[layer], self.untransformed[layer],
                self.moments[layer], rows, draw.present.cells, draw.present.starts,
                self.noise.values, offsets, np.asarray(d_scale), np.asarray(d_shift), kl_weight,
                np.float32(rate), self.one_draw_kl,
            )  # fmt: skip

    def summed(
        self,
        draw: EffectDraw,
        gradients: Mapping[str, tuple[Floats, Floats]],
        total: Callable[[Floats], Floats],
    ) -> tuple[EffectDraw, dict[str, tuple[Floats, Floats]]]:
        """Return a draw and its gradients as `update` takes them, one row a batch, of all processes.

        Parameters
        ----------
        gradients
            As in `update`, of this process's cells.
        total
            Returns the sum over processes of (n,) float32.
        """
        present = draw.present
        n_rows = len(present.rows)
        own = np.empty(
            2 * n_rows * sum(self.loc[layer].shape[2] for layer in gradients), np.float32
        )
        for layer, sums in _by_layer(own, n_rows, gradients).items():
            for source, target in zip(gradients[layer], sums, strict=True):
                self._over_rows(n_rows, _sum_rows, present.cells, present.starts, source, target)
        everyones = _by_layer(total(own), n_rows, gradients)
        return replace(draw, present=present.summed()), everyones

    def tables(self) -> dict[str, EffectTable]:
        """Return the posterior of each layer (the arrays themselves, not copies)."""
        return {
            layer: EffectTable(loc, self.untransformed[layer]) for layer, loc in self.loc.items()
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything a checkpoint must hold, by name."""
        state = {}
        for layer in self.loc:
            state[f"{layer}/loc"] = self.loc[layer]
            state[f"{layer}/untransformed"] = self.untransformed[layer]
            state[f"{layer}/moments"] = self.moments[layer]
        return state

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned."""
        for layer in self.loc:
            self.loc[layer][...] = state[f"{layer}/loc"]
            self.untransformed[layer][...] = state[f"{layer}/untransformed"]
            self.moments[layer][...] = state[f"{layer}/moments"]

    def _offsets(self, layer: str, step: int, present: PresentRows) -> Integers:
        width = self.loc[layer].shape[2]
        return self.noise.offsets(step, self._layer_index[layer], present.rows, 2 * width)

    def _buffer(self, layer: str, n_cells: int) -> tuple[Floats, Floats]:
        """Return reusable (scale, shift) arrays for a minibatch of this size."""
        key = (layer, n_cells)
        if key not in self._buffers:
            size = (n_cells, self.loc[layer].shape[2])
            self._buffers[key] = (np.empty(size, np.float32), np.empty(size, np.float32))
        return self._buffers[key]

    def _over_rows(self, n_rows: int, kernel: Any, *arguments: Any) -> None:
        """Run a kernel over the present rows, cut evenly among the threads."""
        if self._pool is None or n_rows < 2:
            kernel(0, n_rows, *arguments)
            return
        cuts = np.linspace(0, n_rows, self._n_threads + 1).astype(int)
        parts = [
            self._pool.submit(kernel, int(first), int(last), *arguments)
            for first, last in itertools.pairwise(cuts)
        ]
        for part in parts:
            part.result()


def _by_layer(
    flat: Floats, n_rows: int, like: Mapping[str, tuple[Floats, Floats]]
) -> dict[str, tuple[Floats, Floats]]:
    """Return views of a flat array: per layer two tables of `n_rows` rows, as wide as those of `like`."""
    widths = [table.shape[1] for pair in like.values() for table in pair]
    cuts = np.cumsum([n_rows * width for width in widths])[:-1]
    tables = (
        part.reshape(n_rows, width)
        for part, width in zip(np.split(flat, cuts), widths, strict=True)
    )
    return {layer: (next(tables), next(tables)) for layer in like}


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _softplus(values: Floats, result: Floats, slope: Floats, bits: NDArray[np.int32]) -> None:
    """Write log(1 + exp(values)) and its derivative; `bits` is scratch of the same length."""
    # exp(x) = 2^n * exp(r) with |r| <= ln2 / 2, n put straight into the exponent bits; branch-free
    # loops over few arrays each, so that the compiler vectorises them.
    powers = bits.view(np.float32)
    for j in range(values.size):
        x = min(max(values[j], np.float32(-80.0)), np.float32(80.0))
        n = np.floor(x * LOG2E + np.float32(0.5))
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        result[j] = p * r * r + r + np.float32(1.0)
        bits[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
    for j in range(values.size):
        result[j] *= powers[j]
    # log1p(e) = 2 atanh(e / (2 + e)): the series converges fast for e <= 1; larger e are rare and
    # handled by the exact function.
    for j in range(values.size):
        e = result[j]
        slope[j] = e / (np.float32(1.0) + e)
        t = e / (np.float32(2.0) + e)
        s = t * t
        q = np.float32(0.15384615)
        q = q * s + np.float32(0.18181818)
        q = q * s + np.float32(0.22222222)
        q = q * s + np.float32(0.28571429)
        q = q * s + np.float32(0.4)
        q = q * s + np.float32(0.66666667)
        q = q * s + np.float32(2.0)
        result[j] = t * q
    if values.max() > np.float32(-0.7):
        for j in range(values.size):
            x = values[j]
            result[j] = max(x, np.float32(0.0)) + np.log1p(np.exp(-abs(x)))


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _draw_rows(
    first: int, last: int, loc: Floats, untransformed: Floats, rows: Integers, cells: Integers,
    starts: Integers, noise: Floats, offsets: Integers, scale: Floats, shift: Floats,
) -> None:  # fmt: skip
    """Write loc + s.d. * noise of each present batch into the rows of its cells."""
    width = loc.shape[2]
    sd = np.empty(width, np.float32)
    slope = np.empty(width, np.float32)
    bits = np.empty(width, np.int32)
    for p in range(first, last):
        if starts[p] == starts[p + 1]:
            continue
        for t in range(2):
            target = scale if t == 0 else shift
            _softplus(untransformed[t, rows[p]], sd, slope, bits)
            mean = loc[t, rows[p]]
            eps = noise[offsets[p] + t * width : offsets[p] + (t + 1) * width]
            drawn = target[cells[starts[p]]]
            for j in range(width):
                drawn[j] = mean[j] + (sd[j] + np.float32(SCALE_FLOOR)) * eps[j]
            for c in range(starts[p] + 1, starts[p + 1]):
                target[cells[c]] = drawn


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _adam(value: Floats, m: Floats, v: Floats, gradient: Floats, rate: np.float32) -> None:
    """Apply Adam in place; `rate` holds the bias correction (Kingma and Ba 2015, section 2)."""
    for j in range(value.size):
        m[j] += (gradient[j] - m[j]) * np.float32(1.0 - ADAM_BETAS[0])
        v[j] += (gradient[j] * gradient[j] - v[j]) * np.float32(1.0 - ADAM_BETAS[1])
        value[j] -= rate * m[j] / (np.sqrt(v[j]) + np.float32(ADAM_EPSILON))


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _sum_cells(cells: Integers, source: Floats, total: Floats) -> None:
    """Write the sum of some cells' rows."""
    total[:] = np.float32(0.0)
    for c in range(cells.size):
        cell = source[cells[c]]
        for j in range(total.size):
            total[j] += cell[j]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _sum_rows(
    first: int, last: int, cells: Integers, starts: Integers, source: Floats, target: Floats
) -> None:
    """Write the sum over the cells of each present batch."""
    for p in range(first, last):
        _sum_cells(cells[starts[p] : starts[p + 1]], source, target[p])


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _update_rows(
    first: int, last: int, loc: Floats, untransformed: Floats, moments: Floats, rows: Integers,
    cells: Integers, starts: Integers, noise: Floats, offsets: Integers, d_scale: Floats,
    d_shift: Floats, kl_weight: Floats, rate: np.float32, one_draw_kl: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Sum the cells' gradients of each present batch, add the KL's, and apply Adam."""
    width = loc.shape[2]
    total = np.empty(width, np.float32)
    gradient = np.empty(width, np.float32)
    softplus = np.empty(width, np.float32)
    slope = np.empty(width, np.float32)
    bits = np.empty(width, np.int32)
    precision = np.float32(1.0 / PRIOR_SCALE**2)
    for p in range(first, last):
        row = rows[p]
        for t in range(2):
            source = d_scale if t == 0 else d_shift
            _sum_cells(cells[starts[p] : starts[p + 1]], source, total)
            eps = noise[offsets[p] + t * width : offsets[p] + (t + 1) * width]
            mean = loc[t, row]
            _softplus(untransformed[t, row], softplus, slope, bits)
            # The one-draw KL is differentiated at the drawn weight, the closed form at its mean.
            at_draw = np.float32(1.0) if one_draw_kl else np.float32(0.0)
            pull = kl_weight[p] * precision
            for j in range(width):
                sd = softplus[j] + np.float32(SCALE_FLOOR)
                gradient[j] = total[j] + pull * (mean[j] + at_draw * sd * eps[j])
            # From here on `total` is the gradient with respect to the untransformed s.d.
            for j in range(width):
                sd = softplus[j] + np.float32(SCALE_FLOOR)
                prior_part = sd + at_draw * ((mean[j] + sd * eps[j]) * eps[j] - sd)
                d_sd = total[j] * eps[j] + kl_weight[p] * (
                    precision * prior_part - np.float32(1.0) / sd
                )
                total[j] = d_sd * slope[j]
            _adam(mean, moments[0, t, row], moments[1, t, row], gradient, rate)
            _adam(untransformed[t, row], moments[2, t, row], moments[3, t, row], total, rate)

"""Random effects in host memory against float64 NumPy, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medl_scale.models.variational import EffectTable
from medl_scale.train.effects import HostEffects, NoiseTable, PresentRows
from tests.models import formulas

WIDTHS = {"encoder0": 7, "decoder0": 5, "decoder1": 33}
N_BATCHES, N_CELLS = 9, 24
NOISE = NoiseTable(11)
WEIGHT = 0.03
PRESENCE = np.linspace(0.1, 0.9, N_BATCHES)


def tables(seed: int = 0, low: float = -7.0, high: float = 1.0) -> dict[str, EffectTable]:
    rng = np.random.default_rng(seed)
    return {
        layer: EffectTable(
            rng.normal(0, 0.3, (2, N_BATCHES, width)).astype(np.float32),
            rng.uniform(low, high, (2, N_BATCHES, width)).astype(np.float32),
        )
        for layer, width in WIDTHS.items()
    }


def effects(
    *, published: bool = False, n_threads: int = 1, weight: float = WEIGHT, **kind
) -> HostEffects:
    return HostEffects(
        kind.pop("tables", tables()),
        kl_weights=dict.fromkeys(WIDTHS, weight),
        presence=None if published else PRESENCE,
        one_draw_kl=published,
        noise=NOISE,
        n_threads=n_threads,
    )


def minibatch(seed: int, batches: tuple[int, ...] = (0, 3, 4, 8)) -> np.ndarray:
    return np.random.default_rng(seed).choice(batches, N_CELLS).astype(np.int32)


def random_gradients(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {
        layer: tuple(rng.normal(0, 0.1, (2, N_CELLS, width)).astype(np.float32))
        for layer, width in WIDTHS.items()
    }


def noise_of(layer: str, row: int, step: int) -> np.ndarray:
    """Return (2, width) noise: scales first, then shifts."""
    index = sorted(WIDTHS).index(layer)
    (start,) = NOISE.offsets(step, index, np.array([row]), 2 * WIDTHS[layer])
    size = 2 * WIDTHS[layer]
    return NOISE.values[start : start + size].reshape(2, -1).astype(np.float64)


def softplus_slope(u: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-u))


@pytest.mark.parametrize("published", [False, True])
def test_cells_are_given_the_draw_of_their_batch(published):
    found, codes = effects(published=published), minibatch(1)
    draw = found.draw(codes, 7)
    for layer, table in tables().items():
        for cell, row in enumerate(codes):
            expected = formulas.draw(
                table.loc[:, row].astype(float),
                table.untransformed[:, row].astype(float),
                noise_of(layer, row, 7),
            )
            for t in range(2):
                np.testing.assert_allclose(
                    draw.cells[layer][t][cell], expected[t], rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("scales", [(-9.0, -2.0), (-3.0, 4.0), (-60.0, 60.0)])
def test_updates_equal_a_row_wise_float64_computation(published, scales):
    start = tables(2, *scales)
    found = effects(published=published, tables=start)
    state = {k: np.zeros((4, 2, N_BATCHES, w)) for k, w in WIDTHS.items()}
    loc = {k: t.loc.astype(float) for k, t in start.items()}
    unt = {k: t.untransformed.astype(float) for k, t in start.items()}
    for step in (1, 2, 3):
        codes, gradients = minibatch(step), random_gradients(step)
        draw = found.draw(codes, step)
        found.update(draw, gradients, learning_rate=1e-3, n_updates=step)
        rows = range(N_BATCHES) if published else np.unique(codes)
        for layer in WIDTHS:
            for row in rows:
                eps = noise_of(layer, row, step)
                own = np.stack(
                    [g[codes == row].sum(axis=0, dtype=np.float64) for g in gradients[layer]]
                )
                mu, u = loc[layer][:, row], unt[layer][:, row]
                sd = 1e-5 + np.logaddexp(0, u)
                if published:
                    d_loc = own + WEIGHT * (mu + sd * eps) / 0.25**2
                    d_sd = own * eps + WEIGHT * ((mu + sd * eps) * eps / 0.25**2 - 1 / sd)
                else:
                    weight = WEIGHT / PRESENCE[row]
                    d_loc = own + weight * mu / 0.25**2
                    d_sd = own * eps + weight * (sd / 0.25**2 - 1 / sd)
                d_u = d_sd * softplus_slope(u)
                moments = state[layer][:, :, row]
                loc[layer][:, row], moments[0], moments[1] = formulas.adam(
                    mu, d_loc, 1e-3, m=moments[0], v=moments[1], update=step
                )
                unt[layer][:, row], moments[2], moments[3] = formulas.adam(
                    u, d_u, 1e-3, m=moments[2], v=moments[3], update=step
                )
    for layer in WIDTHS:
        np.testing.assert_allclose(found.loc[layer], loc[layer], rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(found.untransformed[layer], unt[layer], rtol=1e-5, atol=1e-5)
        for quantity in range(4):
            expected = state[layer][quantity]
            np.testing.assert_allclose(
                found.moments[layer][quantity],
                expected,
                rtol=1e-3,
                atol=1e-5 * np.abs(expected).max(),
            )


def test_rows_that_are_absent_stay_bit_for_bit():
    found = effects()
    before = {name: value.copy() for name, value in found.state().items()}
    codes = minibatch(3, (1, 5))
    found.update(found.draw(codes, 1), random_gradients(1), learning_rate=0.1, n_updates=1)
    absent = [row for row in range(N_BATCHES) if row not in (1, 5)]
    for name, value in found.state().items():
        axis = value.ndim - 2
        assert np.array_equal(value.take(absent, axis), before[name].take(absent, axis)), name
        assert not np.array_equal(value.take([1, 5], axis), before[name].take([1, 5], axis)), name


@pytest.mark.parametrize("published", [False, True])
def test_threads_do_not_change_a_bit(published):
    states = []
    for n_threads in (1, 2, 5):
        found = effects(published=published, n_threads=n_threads)
        for step in (1, 2):
            draw = found.draw(minibatch(step), step)
            found.update(draw, random_gradients(step), learning_rate=1e-2, n_updates=step)
        states.append({k: v.copy() for k, v in found.state().items()})
    for other in states[1:]:
        assert all(np.array_equal(states[0][name], other[name]) for name in other)


def test_the_kl_gradient_is_unbiased_whatever_the_minibatches_hold():
    weight = 0.5
    found = effects(weight=weight)
    start = tables()["decoder0"]
    rng = np.random.default_rng(0)
    nothing = {k: tuple(np.zeros((2, N_CELLS, w), np.float32)) for k, w in WIDTHS.items()}
    total = np.zeros_like(start.loc, dtype=np.float64)
    n_draws = 4000
    fresh = {name: value.copy() for name, value in found.state().items()}
    for step in range(n_draws):
        # Each batch occurs on its own with its probability; the first cells stand for those that do.
        rows = np.flatnonzero(rng.random(N_BATCHES) < PRESENCE)
        if rows.size == 0:
            continue
        codes = np.resize(rows, N_CELLS).astype(np.int32)
        found.load_state(fresh)
        found.update(found.draw(codes, step), nothing, learning_rate=0.0, n_updates=1)
        total += found.moments["decoder0"][0] / 0.1
    expected = weight * start.loc / 0.25**2
    error = np.sqrt((1 - PRESENCE) / (PRESENCE * n_draws))[None, :, None]
    assert np.all(np.abs(total / n_draws - expected) <= 5 * error * np.abs(expected) + 1e-6)


def test_noise_depends_on_step_layer_and_batch_alone():
    alone, beside = effects(), effects()
    first = alone.draw(np.full(N_CELLS, 4, np.int32), 9).cells["decoder0"][0][0].copy()
    codes = minibatch(1)
    position = int(np.flatnonzero(codes == 4)[0])
    assert np.array_equal(beside.draw(codes, 9).cells["decoder0"][0][position], first)
    offsets = {
        (step, layer, batch): int(NOISE.offsets(step, layer, np.array([batch]), 10)[0])
        for step in range(20)
        for layer in range(5)
        for batch in range(20)
    }
    # 2,000 starts among 4 million: two or so may coincide, not more.
    assert len(set(offsets.values())) > len(offsets) - 10


def test_noise_tables_differ_by_seed_and_are_standard_normal():
    again, other = NoiseTable(11), NoiseTable(12)
    assert np.array_equal(NOISE.values, again.values)
    assert not np.array_equal(NOISE.values, other.values)
    assert abs(float(NOISE.values.mean())) < 0.003
    assert abs(float(NOISE.values.std()) - 1) < 0.003


@given(
    codes=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    step=st.integers(0, 2**40),
    width=st.integers(1, 5000),
)
@settings(max_examples=40)
def test_offsets_leave_room_for_the_draw(codes, step, width):
    offsets = NOISE.offsets(step, 3, np.array(codes), 2 * width)
    assert np.all((offsets >= 0) & (offsets + 2 * width <= NOISE.values.size))


@given(codes=st.lists(st.integers(0, 6), min_size=1, max_size=30), everywhere=st.booleans())
def test_present_rows_group_every_cell_once(codes, everywhere):
    found = PresentRows.of(np.array(codes, np.int32), n_batches=7 if everywhere else None)
    assert sorted(found.cells) == list(range(len(codes)))
    assert found.rows.tolist() == (list(range(7)) if everywhere else sorted(set(codes)))
    for position, row in enumerate(found.rows):
        own = found.cells[found.starts[position] : found.starts[position + 1]]
        assert own.tolist() == [cell for cell, code in enumerate(codes) if code == row]


def test_a_state_put_back_continues_bitwise():
    one, other = effects(), effects(tables=tables(5))
    one.update(one.draw(minibatch(1), 1), random_gradients(1), learning_rate=0.01, n_updates=1)
    other.load_state({name: value.copy() for name, value in one.state().items()})
    for found in (one, other):
        found.update(
            found.draw(minibatch(2), 2), random_gradients(2), learning_rate=0.01, n_updates=2
        )
    assert all(np.array_equal(value, other.state()[name]) for name, value in one.state().items())

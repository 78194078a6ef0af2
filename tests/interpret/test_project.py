"""Cells decoded under other batches, against float64 NumPy and against their own reconstruction."""

from __future__ import annotations

import numpy as np
import pytest

from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret.draws import PosteriorDraws, draw_effects, interval_factor
from medl_scale.interpret.project import AsIf, reconstruct
from medl_scale.interpret.targets import find_targets
from medl_scale.stream.densify import Transform
from medl_scale.train.fitted import FittedNetwork, Vocabulary
from tests.models import formulas, small

LEVELS = ("a", "b", "c", "d")
EVERY = (*LEVELS, "average")
VOCABULARY = Vocabulary(
    var_names=tuple(f"gene{i}" for i in range(small.N_VARS)),
    batch_key="donor",
    batch_levels=LEVELS,
    label_levels=("B", "NK", "T"),
    transform=Transform("counts", 1e4, 0.125),
)
MODELS = {"me": "both", "re": "both", "re-scmedal": "both", "re, decoder": "decoder"}


def network(name: str) -> FittedNetwork:
    case = small.CASES[name.split(",")[0]]
    summary = small.summary(np.random.default_rng(0))
    return FittedNetwork(case.model, small.engine(case), case.config, summary, VOCABULARY)


@pytest.fixture(scope="module")
def models():
    made = {name: network(name) for name in ("me", "re", "re-scmedal", "fe")}
    return made | {"re, decoder": made["re"]}


@pytest.fixture(scope="module")
def cells(models):
    feeds = small.feeds(models["me"].network)
    return feeds.x, feeds.batch_codes


def decoded_in_float64(model, latent, scales_and_shifts):
    """Decode by the formula of the docstrings; RE with standardised output and ME are alike."""
    state = {k: v.astype(np.float64) for k, v in model.engine.state().items()}
    values = {
        k.split("/", 1)[1]: v for k, v in state.items() if k.startswith(("model/", "statistics/"))
    }
    u = latent.astype(np.float64)
    for i in range(3):
        u = u @ values[f"decoder{i}/kernel"] + values[f"decoder{i}/bias"]
        norm = f"decoder{i}_norm"
        u = (u - values[f"{norm}/mean"]) / np.sqrt(values[f"{norm}/variance"] + 1e-3)
        u = u * values[f"{norm}/gain"] + values[f"{norm}/offset"]
        scale, shift = scales_and_shifts(f"decoder{i}", u.shape[1])
        u = u * (1 + scale) + shift
        u = formulas.selu(u) if i < 2 else u
    return values["output/mean"] + values["output/sd"] * u


@pytest.mark.parametrize("name", ["me", "re, decoder"])
def test_a_cell_under_a_batch_is_its_latent_decoded_with_the_batch_s_effects(models, cells, name):
    model = models[name]
    x, own = cells
    found = AsIf(model, find_targets(["c", "average"], LEVELS), switch=MODELS[name]).project(x, own)
    latent = model.engine.encode(x, own)
    tables = model.effects()
    as_c = decoded_in_float64(model, latent, lambda layer, _: tables[layer].loc[:, 2])
    population = decoded_in_float64(model, latent, lambda _, width: np.zeros((2, width)))
    np.testing.assert_allclose(found[:, 0], as_c, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], population, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "switch"), MODELS.items())
def test_a_cell_under_its_own_batch_is_its_reconstruction_bit_for_bit(models, cells, name, switch):
    model = models[name]
    x, own = cells
    found = AsIf(model, find_targets("all", LEVELS), switch=switch).project(x, own, factor=8.0)
    expected = reconstruct(model, x, own) * np.float32(8.0)
    np.testing.assert_array_equal(found[np.arange(len(x)), own], expected)
    others = (own + 1) % len(LEVELS)
    assert np.abs(found[np.arange(len(x)), others] - expected).min(axis=1).max() > 0


def test_both_sides_of_re_are_switched_as_published_or_the_decoder_alone(models, cells):
    model = models["re"]
    x, own = cells
    targets = find_targets("b", LEVELS)
    as_b = np.full_like(own, 1)
    both = AsIf(model, targets, switch="both").project(x, own)[:, 0]
    decoder = AsIf(model, targets, switch="decoder").project(x, own)[:, 0]
    np.testing.assert_array_equal(both, reconstruct(model, x, as_b))
    np.testing.assert_array_equal(decoder, model.decode(model.engine.encode(x, own), as_b))
    assert np.abs(both - decoder)[own != 1].max() > 1e-3


def test_what_lies_beside_a_row_does_not_change_its_bits(models):
    model = models["me"]
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((700, small.N_LATENT), np.float32)
    codes = rng.integers(-1, small.N_BATCHES, 700).astype(np.int32)
    whole = model.decode(latent, codes)
    order = rng.permutation(700)
    np.testing.assert_array_equal(model.decode(latent[order], codes[order]), whole[order])
    np.testing.assert_array_equal(model.decode(latent[699:], codes[699:]), whole[699:])
    assert model.decode(latent[:0], codes[:0]).shape == (0, small.N_VARS)


def test_the_order_and_choice_of_targets_do_not_change_a_projection(models, cells):
    for name, switch in MODELS.items():
        every = AsIf(models[name], find_targets(EVERY, LEVELS), switch=switch).project(*cells)
        some = AsIf(models[name], find_targets(("d", "b"), LEVELS), switch=switch).project(*cells)
        np.testing.assert_array_equal(some, every[:, [3, 1]])


# Posterior draws.


def test_draws_have_the_posterior_s_mean_and_sd_and_are_independent_between_batches(models):
    tables = {"decoder2": models["me"].effects()["decoder2"]}
    codes = np.array([3, -1, 0], np.int32)
    n = 3000
    drawn = np.array([draw_effects(tables, codes, 7, draw)["decoder2"] for draw in range(n)])
    table = tables["decoder2"]
    for row, code in ((0, 3), (2, 0)):
        error = np.abs(drawn[:, :, row].mean(axis=0) - table.loc[:, code])
        assert (error < 5 * table.scale[:, code] / np.sqrt(n)).all()
        np.testing.assert_allclose(drawn[:, :, row].std(axis=0), table.scale[:, code], rtol=0.08)
    assert not drawn[:, :, 1].any()
    assert abs(np.corrcoef(drawn[:, 0, 0, 0], drawn[:, 0, 2, 0])[0, 1]) < 0.1


def test_a_batch_s_draws_depend_on_the_seed_and_not_on_batches_beside_it(models):
    tables = models["re"].effects()
    one = draw_effects(tables, np.array([2], np.int32), 5, 1)
    among = draw_effects(tables, np.array([0, 2, 1], np.int32), 5, 1)
    other = draw_effects(tables, np.array([2], np.int32), 6, 1)
    for layer in tables:
        np.testing.assert_array_equal(one[layer][:, 0], among[layer][:, 1])
        assert (one[layer] != other[layer]).all()


def test_draws_too_large_to_keep_are_made_again(models, cells, monkeypatch):
    as_if = AsIf(models["me"], find_targets("all", LEVELS))
    found = []
    for kept in (2**28, 0):
        monkeypatch.setattr("medl_scale.interpret.draws.KEPT_BYTES", kept)
        draws = PosteriorDraws(models["me"].engine, as_if.targets.codes, 3, 0)
        found += [as_if.draw(*cells, draws, level=0.9) for _ in range(2)]
    for other in found[1:]:
        for one, again in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    ("name", "n_draws", "level"), [("me", 5, 0.8), ("me", 40, 0.95), ("re", 5, 0.8)]
)
def test_intervals_hold_at_their_level_for_any_number_of_draws(models, cells, name, n_draws, level):
    model = models[name]
    x, own = cells
    as_if = AsIf(model, find_targets(("a", "c"), LEVELS))
    n_new = 100
    new = PosteriorDraws(model.engine, as_if.targets.codes, n_new, 99)
    rows = np.arange(2, dtype=np.int32)
    held = []
    sample = np.empty((n_new, len(x), 2, small.N_VARS), np.float32)
    latents = as_if._latents(x, own)
    for i in range(n_new):
        as_if._decode(latents, x, rows, new[i], 1.0, sample[i])
    for seed in range(6):
        draws = PosteriorDraws(model.engine, as_if.targets.codes, n_draws, seed)
        found = as_if.draw(x, own, draws, level=level)
        held.append(((found.lower <= sample) & (sample <= found.upper)).mean())
    assert np.mean(held) == pytest.approx(level, abs=0.04)


def test_the_population_effect_has_no_interval(models, cells):
    as_if = AsIf(models["me"], find_targets(("b", "average"), LEVELS))
    draws = PosteriorDraws(models["me"].engine, as_if.targets.codes, 4, 0)
    for values in as_if.draw(*cells, draws, level=0.9):
        assert np.isfinite(values[:, 0]).all()
        assert np.isnan(values[:, 1]).all()


def test_differences_are_taken_within_each_draw(models, cells):
    model = models["me"]
    x, own = cells
    # The order of the targets is not that of the batches.
    as_if = AsIf(model, find_targets(("c", "average", "b", "a", "d"), LEVELS))
    n_draws = 6
    draws = PosteriorDraws(model.engine, as_if.targets.codes, n_draws, 3)
    found = as_if.draw_differences(x, own, draws, level=0.8, factor=2.0)

    latent = model.engine.encode(x, own)
    moved = np.empty((n_draws, *found.mean.shape), np.float64)
    tables = model.effects()
    for draw in range(n_draws):
        every = draw_effects(tables, np.array([0, 1, 2, 3, -1], np.int32), 3, draw)

        def under(code, every=every):
            return decoded_in_float64(model, latent, lambda layer, _: every[layer][:, code])

        of_own = np.stack([under(code)[cell] for cell, code in enumerate(own)])
        for place, code in enumerate(as_if.targets.codes):
            moved[draw, :, place] = 2.0 * (under(code) - of_own)
    reach = moved.std(axis=0, ddof=1) * interval_factor(n_draws, 0.8)
    np.testing.assert_allclose(found.mean, moved.mean(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.upper - found.lower, 2 * reach, rtol=1e-3, atol=1e-4)
    cell, place = np.arange(len(x)), np.argsort(as_if.targets.codes)[own + 1]
    for values in found:
        assert not values[cell, place].any()
        # The population differs too, as surely as the own batch's effects are known.
        assert np.isfinite(values[:, 1]).all()
    assert (found.upper > found.lower)[:, 1].all()

    # Independent draws of both would say less.
    apart = as_if.draw(x, own, draws, level=0.8, factor=2.0)
    widths = apart.upper - apart.lower
    squares = np.square(widths) + np.square(widths[cell, place])[:, None]
    others = as_if.targets.codes >= 0
    assert (found.upper - found.lower)[:, others].mean() < np.sqrt(squares[:, others]).mean()


def test_differences_need_the_own_batch(models, cells):
    as_if = AsIf(models["me"], find_targets("b", LEVELS))
    draws = PosteriorDraws(models["me"].engine, as_if.targets.codes, 2, 0)
    with pytest.raises(ConfigError, match=r"those of positions \[0, 3\] are not. Add them"):
        as_if.draw_differences(*cells, draws, level=0.9)


def test_the_reach_of_an_interval_tends_to_the_normal_s():
    assert interval_factor(100_000, 0.95) == pytest.approx(1.96, abs=1e-3)
    # Two draws: t with one degree of freedom is Cauchy, tan(pi * 0.45) at 0.95.
    assert interval_factor(2, 0.9) == pytest.approx(np.tan(np.pi * 0.45) * np.sqrt(1.5))


# What cannot be asked.


def test_only_models_with_effects_project(models):
    with pytest.raises(ConfigError, match=r"Model 'fe' has no random effects.*'me', 're'"):
        AsIf(models["fe"], find_targets("a", LEVELS))


def test_targets_are_names_all_or_the_population():
    assert find_targets("all", LEVELS).names == LEVELS
    assert find_targets(("d", "average", "a"), LEVELS).codes.tolist() == [3, -1, 0]
    assert find_targets(("all", "average"), LEVELS).codes.tolist() == [0, 1, 2, 3, -1]


@pytest.mark.parametrize(
    ("asked", "levels", "error", "message"),
    [
        ("e", LEVELS, DataError, r"has no batch 'e'\. There are: 'a', 'b', 'c', 'd'\."),
        ("donr1", ("donor1", "x"), DataError, "Did you mean 'donor1'"),
        ((), LEVELS, ConfigError, "as_batch names no batch"),
        (("a", "b", "a"), LEVELS, ConfigError, "names 'a' more than once"),
        (("a", "all"), LEVELS, ConfigError, "names 'a' more than once"),
        ("average", ("average", "b"), ConfigError, "the keyword or the batch of this name"),
    ],
)
def test_targets_that_make_no_sense_are_named(asked, levels, error, message):
    with pytest.raises(error, match=message):
        find_targets(asked, levels)

"""Random effects of the output: their units, how far they move cells, and what is sure of it."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret import effect_tables
from medl_scale.interpret.effect_tables import effect_rows, moved_genes
from medl_scale.interpret.effects import OutputEffects, output_effects
from medl_scale.stream.densify import Transform
from medl_scale.train.fitted import FittedNetwork, Vocabulary
from tests.models import small

GENES = tuple(f"gène{i}" for i in range(small.N_VARS))
BATCHES = ("a", "b", "c", "d")
VOCABULARY = Vocabulary(GENES, "donor", BATCHES, ("B", "NK", "T"), Transform("counts", 1e4, 0.125))
N_DRAWS = 200_000


@functools.cache
def trained(name: str) -> FittedNetwork:
    """A model after two steps, not to be changed."""
    case = small.CASES[name]
    engine = small.engine(case)
    for seed in (1, 2):
        engine.step(small.feeds(engine.network, seed), learning_rate=1e-2)
    summary = small.summary(np.random.default_rng(0))
    return FittedNetwork(case.model, engine, case.config, summary, VOCABULARY)


def drawn(seed: int = 0, n_batches: int = 4, n_genes: int = 6, **changes: object) -> OutputEffects:
    """Effects of no model."""
    rng = np.random.default_rng(seed)
    shape = (n_batches, n_genes)
    made = OutputEffects(
        genes=tuple(f"g{i}" for i in range(n_genes)),
        batches=tuple(f"b{i}" for i in range(n_batches)),
        scale=rng.normal(0, 0.2, shape).astype(np.float32),
        scale_sd=rng.uniform(0.01, 0.2, shape).astype(np.float32),
        shift=rng.normal(0, 0.3, shape).astype(np.float32),
        shift_sd=rng.uniform(0.01, 0.2, shape).astype(np.float32),
        cell_mean=rng.normal(0, 0.5, n_genes),
        cell_sd=rng.uniform(0.1, 1, n_genes),
        batch_n=rng.integers(5, 500, n_batches),
        within=rng.uniform(0.3, 1, n_genes),
        observed_share=rng.uniform(0, 0.5, n_genes),
        gene_sd=rng.uniform(0.1, 1, n_genes),
    )
    return dataclasses.replace(made, **changes)


def table(effects: OutputEffects, **options: object) -> pd.DataFrame:
    """All rows of a table at once."""
    return pd.concat(effect_rows(effects, **options), ignore_index=True)


@pytest.mark.parametrize("name", ["me", "re", "re-scmedal"])
def test_effects_are_what_the_decoder_does_in_units_of_the_genes_sd(name):
    fitted = trained(name)
    found = output_effects(fitted)
    values = {
        key.split("/", 1)[1]: value
        for key, value in fitted.engine.state().items()
        if key.startswith(("model/", "statistics/"))
    }
    latent = np.random.default_rng(3).normal(size=(5, small.N_LATENT)).astype(np.float32)
    plain = np.asarray(fitted.network.decode(values, latent, {}))
    layer = f"decoder{len(small.HIDDEN)}"
    unit = found.gene_sd * 0.125
    mean = values.get("output/mean", 0.0)
    for code in range(len(BATCHES)):
        loc = fitted.effects()[layer].loc[:, code]
        effect = {layer: (np.tile(loc[0], (5, 1)), np.tile(loc[1], (5, 1)))}
        moved = np.asarray(fitted.network.decode(values, latent, effect)) - plain
        said = found.scale[code] * (plain - mean) / unit + found.shift[code]
        np.testing.assert_allclose(moved / unit, said, rtol=1e-3, atol=1e-4)


def test_the_unit_is_the_one_that_networks_start_from():
    fitted = trained("me")
    first = fitted.network.initial_values(np.random.default_rng(0)).statistics["output/sd"]
    np.testing.assert_allclose(output_effects(fitted).gene_sd * 0.125, first, rtol=1e-6)


def test_what_the_scale_multiplies_is_centred_where_the_decoder_centres_it():
    fitted = trained("re")
    found = output_effects(fitted)
    state = fitted.engine.state()
    ratio = state["model/output/sd"] / (found.gene_sd * 0.125)
    np.testing.assert_allclose(
        found.cell_mean, state["model/decoder2_norm/offset"] * ratio, rtol=1e-5
    )
    # A trained unit may have either sign, an s.d. may not.
    assert (ratio < 0).any()
    assert (found.cell_sd >= 0).all()
    assert (found.shift_sd > 0).all()


def test_observed_shares_are_those_of_the_cells():
    rng = np.random.default_rng(5)
    n = np.array([30, 50, 7, 20])
    x = rng.normal(size=(n.sum(), small.N_VARS)) + 0.5 * np.repeat(rng.normal(size=(4, 11)), n, 0)
    codes = np.repeat(np.arange(4), n)
    x[:, 3] = 0.0
    means = np.stack([x[codes == code].mean(axis=0) for code in range(4)])
    model = trained("me")
    summary = dataclasses.replace(
        model.summary, mean=x.mean(axis=0), sd=x.std(axis=0), batch_n=n, batch_mean=means
    )
    found = output_effects(FittedNetwork("me", model.engine, model.config, summary, VOCABULARY))
    residual = (x - means[codes]).var(axis=0)
    kept = np.arange(small.N_VARS) != 3
    shares = 1 - residual[kept] / x.var(axis=0)[kept]
    np.testing.assert_allclose(found.observed_share[kept], shares)
    np.testing.assert_allclose(found.within, residual / (found.gene_sd * 0.125) ** 2, atol=1e-12)
    assert np.isnan(found.observed_share[3])
    # A gene that does not vary has no shares, and spoils no other.
    moved = moved_genes(found).set_index("gene")
    shares = moved[["share", "share_lower", "share_upper", "observed_share"]]
    assert shares.loc[GENES[3]].isna().all()
    assert shares.drop(GENES[3]).notna().all().all()


def test_intervals_are_quantiles_of_the_posterior():
    effects = drawn()
    rows = table(effects, level=0.9)
    assert list(rows["gene"][:4]) == ["g0"] * 4
    assert list(rows["batch"][:4]) == list(effects.batches)
    for name in ("scale", "shift"):
        mean, sd = getattr(effects, name).T.ravel(), getattr(effects, f"{name}_sd").T.ravel()
        np.testing.assert_array_equal(rows[name], mean)
        np.testing.assert_allclose(rows[f"{name}_lower"], norm.ppf(0.05, mean, sd), atol=1e-6)
        np.testing.assert_allclose(rows[f"{name}_upper"], norm.ppf(0.95, mean, sd), atol=1e-6)
    np.testing.assert_array_equal(rows["n_cells"], np.tile(effects.batch_n, 6))


def posterior_moves(effects: OutputEffects) -> tuple[np.ndarray, np.ndarray]:
    """Moves and stretches about the average batch in draws, (n_draws, n_batches, n_genes) each."""
    rng = np.random.default_rng(1)
    shape = (N_DRAWS // 10, *effects.scale.shape)
    scale = effects.scale + effects.scale_sd * rng.standard_normal(shape)
    shift = effects.shift + effects.shift_sd * rng.standard_normal(shape)
    weights = (effects.batch_n / effects.batch_n.sum())[:, None]
    centred = [
        value - (weights * value).sum(axis=1, keepdims=True)
        for value in (shift + effects.cell_mean * scale, effects.cell_sd * scale)
    ]
    return centred[0], centred[1]


def test_moves_and_shares_are_those_of_draws_from_the_posterior():
    effects = drawn()
    move, stretch = posterior_moves(effects)
    rows = table(effects)
    np.testing.assert_allclose(rows["move"], move.mean(axis=0).T.ravel(), atol=6e-3)
    np.testing.assert_allclose(rows["move_sd"], move.std(axis=0).T.ravel(), rtol=0.03)
    weights = effects.batch_n / effects.batch_n.sum()
    between = np.einsum("b,dbg->dg", weights, move**2 + stretch**2)
    genes = moved_genes(effects, level=0.9).set_index("gene").loc[list(effects.genes)]
    mean = between.mean(axis=0)
    np.testing.assert_allclose(genes["share"], mean / (mean + effects.within), rtol=0.02)
    low, high = np.quantile(between, [0.05, 0.95], axis=0)
    np.testing.assert_allclose(
        genes["share_lower"], low / (low + effects.within), rtol=0.1, atol=4e-3
    )
    np.testing.assert_allclose(genes["share_upper"], high / (high + effects.within), rtol=0.06)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.floats(0.05, 0.999), st.integers(1, 5))
def test_tables_keep_their_laws(seed, level, n_batches):
    effects = drawn(seed, n_batches)
    rows, genes = table(effects, level=level), moved_genes(effects, level=level)
    for name in ("scale", "shift", "move"):
        assert (rows[f"{name}_lower"] <= rows[name]).all()
        assert (rows[name] <= rows[f"{name}_upper"]).all()
    # The cells' average over batches does not move.
    weighted = rows["move"].astype(float) * rows["n_cells"]
    assert np.abs(weighted.groupby(rows["gene"], observed=True).sum()).max() < 1e-3
    assert sorted(genes["gene"]) == sorted(effects.genes)
    assert (genes["score"].diff().dropna() <= 0).all()
    assert (genes["score"] <= genes["rms_move"] + 1e-12).all()
    assert (genes["share_lower"] <= genes["share_upper"]).all()
    assert genes[["share", "share_lower", "share_upper"]].stack().between(0, 1).all()
    # What all batches share is the gene's own mean.
    common = np.linspace(-2, 2, 6, dtype=np.float32)
    other = moved_genes(dataclasses.replace(effects, shift=effects.shift + common), level=level)
    pd.testing.assert_frame_equal(
        genes.sort_values("gene", ignore_index=True).drop(columns="batch"),
        other.sort_values("gene", ignore_index=True).drop(columns="batch"),
        atol=2e-6,
        rtol=1e-4,
    )


def test_a_large_move_that_is_unsure_ranks_below_a_small_one_that_is_sure():
    zeros = np.zeros((3, 3), np.float32)
    effects = drawn(
        n_batches=3,
        n_genes=3,
        scale=zeros,
        scale_sd=zeros + 1e-5,
        shift=np.array([[0.6, 0.2, 0], [-0.6, -0.2, 0], [0, 0, 0]], np.float32),
        shift_sd=np.array([[0.5, 0.01, 0.25]] * 3, np.float32),
        batch_n=np.array([10, 10, 10]),
    )
    found = moved_genes(effects)
    assert list(found["gene"]) == ["g1", "g0", "g2"]
    # 0.2 less 1.96 posterior s.d. of a difference from the mean of three, in two of three batches.
    sure = 0.2 - 1.959964 * 0.01 * np.sqrt(2 / 3)
    assert found["score"][0] == pytest.approx(sure * np.sqrt(2 / 3), rel=1e-4)
    assert list(found["score"][1:]) == [0, 0]
    assert found["batch"][0] in {"b0", "b1"}
    assert list(found["rms_move"]) == pytest.approx([0.2 * np.sqrt(2 / 3), 0.6 * np.sqrt(2 / 3), 0])


def test_one_batch_ranks_genes_by_its_own_moves():
    effects = drawn(2, 5, 40)
    rows = table(effects, batches=["b3"]).set_index("gene")
    found = moved_genes(effects, batches=["b3"])
    assert set(found["batch"]) == {"b3"}
    own = rows.loc[found["gene"]]
    np.testing.assert_allclose(found["move"], own["move"], atol=1e-6)
    np.testing.assert_allclose(found["move_lower"], own["move_lower"], atol=1e-6)
    np.testing.assert_allclose(found["move_upper"], own["move_upper"], atol=1e-6)
    sure = np.maximum(np.maximum(own["move_lower"], -own["move_upper"]), 0).to_numpy()
    assert (found["score"] >= sure - 1e-6).all()


def test_blocks_and_choices_make_the_same_table(monkeypatch):
    effects = drawn(4, 3, 11)
    whole, genes = table(effects), moved_genes(effects)
    monkeypatch.setattr(effect_tables, "BLOCK_VALUES", 7)
    blocks = list(effect_rows(effects))
    assert [len(block) for block in blocks] == [6] * 5 + [3]
    pd.testing.assert_frame_equal(pd.concat(blocks, ignore_index=True), whole)
    pd.testing.assert_frame_equal(moved_genes(effects), genes)
    some = table(effects, batches=["b2", "b0"], genes=["g7", "g1", "g7"])
    assert list(zip(some["gene"], some["batch"], strict=True)) == [
        ("g7", "b2"), ("g7", "b0"), ("g1", "b2"), ("g1", "b0"),
    ]  # fmt: skip
    wanted = whole.set_index(["gene", "batch"]).loc[
        list(zip(some["gene"], some["batch"], strict=True))
    ]
    np.testing.assert_array_equal(some["move"], wanted["move"])


def test_what_is_not_there_is_told():
    effects = drawn()
    for call, error, message in (
        (
            lambda: table(effects, batches=["b11"]),
            DataError,
            r"The model has no batch 'b11'\. There are: 'b0', .* Did you mean 'b1'\? Choose one with b",
        ),
        (lambda: table(effects, genes=["CD8"]), DataError, r"no gene 'CD8'\. There are: 'g0', "),
        (lambda: moved_genes(effects, batches=["x"]), DataError, r"no batch 'x'\. There are"),
        (
            lambda: table(effects, genes=[]),
            ConfigError,
            r"genes must name at least one gene; got no",
        ),
        (
            lambda: table(effects, level=95),
            ConfigError,
            r"between 0 and 1, such as 0\.95; got 95\.",
        ),
        (
            lambda: output_effects(trained("fe")),
            ConfigError,
            r"Model 'fe' has no random effects\. Choose one of those that have: 'me', 're'\.",
        ),
    ):
        with pytest.raises(error, match=message):
            call()

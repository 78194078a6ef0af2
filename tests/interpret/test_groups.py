"""Tests between groups of donors: right figures, donors as the unit, and few false discoveries."""

from __future__ import annotations

import itertools
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret import groups as module
from medl_scale.interpret.donor_tests import adjusted, compare_donors
from medl_scale.interpret.donors import DonorMoments, donor_moments
from medl_scale.interpret.groups import compare_groups
from medl_scale.interpret.rank_test import EXACT_UP_TO, rank_test

FEW = r"With 2 and 3 donors the smallest possible p of a rank test is 0\.2: nothing can be sig"


def cells(seed=0, n_first=5, n_second=6, n_features=4, *, donor_sd=0.6, shift=0.0, sizes=(4, 30)):
    """Values of cells, and the donor and group of each."""
    rng = np.random.default_rng(seed)
    n_donors = n_first + n_second
    donor = np.repeat(np.arange(n_donors), rng.integers(*sizes, n_donors))
    second = np.arange(n_donors) >= n_first
    effect = donor_sd * rng.normal(size=(n_donors, n_features)) + shift * second[:, None]
    values = effect[donor] + rng.normal(size=(len(donor), n_features))
    names = np.array([f"d{i:02}" for i in range(n_donors)])
    return values, names[donor], np.where(second, "ill", "healthy")[donor]


def restricted(y, donor, second):
    """Estimate, s.e. and variances of the mixed model, by dense matrices and a scalar search."""
    z = (donor[:, None] == np.unique(donor)).astype(float)
    x = np.column_stack([np.ones(len(y)), second])
    df = len(y) - 2

    def fit(theta):
        v = np.eye(len(y)) + theta * z @ z.T
        w = np.linalg.inv(v)
        xwx = x.T @ w @ x
        beta = np.linalg.solve(xwx, x.T @ w @ y)
        rest = y - x @ beta
        s2 = rest @ w @ rest / df
        deviance = np.linalg.slogdet(v)[1] + np.linalg.slogdet(xwx)[1] + df * np.log(s2)
        return deviance, beta[1], np.sqrt(s2 * np.linalg.inv(xwx)[1, 1]), theta * s2, s2

    grid = np.append(0, np.logspace(-3, 2, 26))
    best = int(np.argmin([fit(theta)[0] for theta in grid]))
    if best == 0:
        return fit(0.0)
    ends = grid[best - 1], grid[min(best + 1, 26)]
    found = minimize_scalar(
        lambda t: fit(t)[0], bounds=ends, method="bounded", options={"xatol": 1e-9}
    )
    return fit(found.x)


def satterthwaite(donor, second, between, within):
    """Degrees of freedom of the groups' difference, from dense matrices and differences."""
    z = (donor[:, None] == np.unique(donor)).astype(float)
    x = np.column_stack([np.ones(len(donor)), second]).astype(float)
    parts = [z @ z.T, np.eye(len(donor))]

    def inverses(variances):
        w = np.linalg.inv(variances[0] * parts[0] + variances[1] * parts[1])
        return w, np.linalg.inv(x.T @ w @ x)

    at = np.array([between, within])
    w, covariance = inverses(at)
    p = w - w @ x @ covariance @ x.T @ w
    information = [[0.5 * np.trace(p @ a @ p @ b) for b in parts] for a in parts]
    step = 1e-5 * np.eye(2)
    gradient = [(inverses(at + h)[1][1, 1] - inverses(at - h)[1][1, 1]) / 2e-5 for h in step]
    return 2 * covariance[1, 1] ** 2 / (gradient @ np.linalg.inv(information) @ gradient)


@pytest.mark.parametrize("donor_sd", [0.0, 0.2, 0.6, 3.0])
def test_the_mixed_model_is_that_of_dense_matrices(donor_sd):
    values, donor, group = cells(3, n_features=2, donor_sd=donor_sd, shift=0.5, sizes=(2, 11))
    found = compare_groups(values, donor, group)
    for feature, y in enumerate(values.T):
        _, estimate, se, between, within = restricted(y, donor, group == "ill")
        row = found.loc[feature]
        np.testing.assert_allclose([row["estimate"], row["se"]], [estimate, se], rtol=1e-4)
        assert row["donor_share"] == pytest.approx(between / (between + within), abs=1e-4)
        df = min(9, satterthwaite(donor, group == "ill", between, within))
        assert row["df"] == pytest.approx(df, rel=2e-3)
        assert row["p_mixed"] == pytest.approx(2 * stats.t.sf(abs(estimate / se), df), rel=2e-3)
        low, high = stats.t.interval(0.95, df, estimate, se)
        np.testing.assert_allclose([row["lower"], row["upper"]], [low, high], rtol=1e-3, atol=1e-4)


def test_the_mixed_model_is_that_of_statsmodels():
    lm = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    values, donor, group = cells(5, donor_sd=1.0, shift=1.0)
    found = compare_groups(values, donor, group)
    x = np.column_stack([np.ones(len(donor)), group == "ill"]).astype(float)
    for feature, y in enumerate(values.T):
        fit = lm.MixedLM(y, x, groups=donor).fit(reml=True)
        between, within = float(np.asarray(fit.cov_re).item()), fit.scale
        row = found.loc[feature]
        assert row["estimate"] == pytest.approx(fit.fe_params[1], rel=1e-4)
        assert row["donor_share"] == pytest.approx(between / (between + within), rel=1e-3)
        # Theirs also counts how unsure the variances are.
        assert row["se"] == pytest.approx(fit.bse_fe[1], rel=0.02)


def test_equal_numbers_of_cells_or_one_a_donor_give_the_t_test_of_the_means():
    for sizes in ((20, 21), (1, 2)):
        values, donor, group = cells(7, donor_sd=2.0, sizes=sizes)
        found = compare_groups(values, donor, group)
        names = np.unique(donor)
        means = np.stack([values[donor == name].mean(axis=0) for name in names])
        wanted = stats.ttest_ind(means[5:], means[:5], axis=0)
        np.testing.assert_allclose(found["p_mixed"], wanted.pvalue, rtol=1e-5)
        np.testing.assert_allclose(found["estimate"], found["difference"], rtol=1e-9)
        pooled = np.sqrt(
            (means[5:].var(axis=0, ddof=1) * 5 + means[:5].var(axis=0, ddof=1) * 4) / 9
        )
        cohen = (means[5:].mean(axis=0) - means[:5].mean(axis=0)) / pooled
        np.testing.assert_allclose(found["hedges_g"], cohen * (1 - 3 / (4 * 9 - 1)), rtol=2e-3)


def test_cells_that_repeat_their_donor_count_as_one():
    values, donor, group = cells(2, sizes=(1, 2))
    once = compare_groups(values, donor, group)
    many = compare_groups(*(np.repeat(part, 50, axis=0) for part in (values, donor, group)))
    np.testing.assert_allclose(many["p_mixed"], once["p_mixed"], rtol=1e-6)
    np.testing.assert_array_equal(many["p_ranks"], once["p_ranks"])


def all_divisions(values, n_second):
    """Exact p of a rank sum, and the least p, from every division of the donors."""
    ranks = stats.rankdata(values)
    sums = np.array([sum(chosen) for chosen in itertools.combinations(ranks, n_second)])
    tails = [min(np.mean(sums <= own), np.mean(sums >= own)) for own in sums]
    own = ranks[-n_second:].sum()
    return min(1, 2 * min(np.mean(sums <= own), np.mean(sums >= own))), min(1, 2 * min(tails))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 5), st.integers(2, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_rank_tests_count_all_divisions_of_the_donors(n_first, n_second, n_values, seed):
    values = (
        np.random.default_rng(seed).integers(0, n_values, (n_first + n_second, 3)).astype(float)
    )
    found = rank_test(values[:n_first], values[n_first:])
    assert found.exact
    for feature in range(3):
        p, least = all_divisions(values[:, feature], n_second)
        assert found.p[feature] == pytest.approx(p)
        assert found.least_p[feature] == pytest.approx(least)
    u = stats.mannwhitneyu(values[n_first:], values[:n_first], axis=0).statistic
    np.testing.assert_allclose(found.probability, u / (n_first * n_second))


def test_rank_tests_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for n_first, n_second in ((12, 5), (3, 2), (25, 25), (30, 40)):
        first, second = rng.normal(size=(n_first, 20)), rng.normal(0.8, 1, (n_second, 20))
        exact = n_first + n_second <= EXACT_UP_TO
        found = rank_test(first, second)
        assert found.exact is exact
        method = "exact" if exact else "asymptotic"
        wanted = stats.mannwhitneyu(second, first, axis=0, method=method).pvalue
        np.testing.assert_allclose(found.p, wanted, rtol=1e-9)
        assert (found.least_p <= found.p).all()
    rounded = np.round(first), np.round(second)
    wanted = stats.mannwhitneyu(rounded[1], rounded[0], axis=0, method="asymptotic").pvalue
    np.testing.assert_allclose(rank_test(*rounded).p, wanted, rtol=1e-9)


def test_the_papers_counts_of_donors_and_cells_stand_beside_every_p():
    values, donor, group = cells(1, 5, 10)
    found = compare_groups(values, donor, group, features=["CD3E", "LYZ", "HBB", "MPO"], level=0.9)
    assert list(found["feature"]) == ["CD3E", "LYZ", "HBB", "MPO"]
    assert set(found["first"]) == {"healthy"}
    assert set(found["second"]) == {"ill"}
    assert set(found["n_first"]) == {5}
    assert set(found["n_second"]) == {10}
    assert set(found["n_cells"]) == {len(donor)}
    np.testing.assert_allclose(found["least_p_ranks"], 2 / 3003)
    for p, q in (("p_ranks", "q_ranks"), ("p_mixed", "q_mixed")):
        np.testing.assert_allclose(found[q], stats.false_discovery_control(found[p]))
    np.testing.assert_allclose(found["difference"], found["mean_second"] - found["mean_first"])
    turned = compare_groups(values, donor, group, between=("ill", "healthy"), level=0.9)
    for name in ("difference", "hedges_g", "estimate"):
        np.testing.assert_allclose(turned[name], -found[name])
    np.testing.assert_allclose(turned["probability"], 1 - found["probability"])
    for name in ("p_ranks", "p_mixed", "q_ranks", "q_mixed", "se"):
        np.testing.assert_allclose(turned[name], found[name], rtol=1e-8)


def test_cells_may_come_in_any_order_and_in_blocks(monkeypatch):
    values, donor, group = cells(4)
    whole = compare_groups(values, donor, group)
    order = np.random.default_rng(0).permutation(len(donor))
    monkeypatch.setattr(module, "_BLOCK_VALUES", 40)
    parts = compare_groups(values[order].astype(np.float32), donor[order], group[order])
    for name in ("difference", "se", "p_mixed", "donor_share"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4)
    np.testing.assert_array_equal(parts["p_ranks"], whole["p_ranks"])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 40), st.floats(-1e6, 1e6))
def test_moments_of_parts_merge_to_those_of_the_whole(seed, cut, offset):
    rng = np.random.default_rng(seed)
    values, codes = offset + rng.normal(size=(40, 3)), rng.integers(0, 4, 40)
    whole = donor_moments(values, codes, 5)
    merged = donor_moments(values[:cut], codes[:cut], 5).merge(
        donor_moments(values[cut:], codes[cut:], 5)
    )
    np.testing.assert_array_equal(merged.n, whole.n)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-6, atol=1e-6)
    for code in range(4):
        own = values[codes == code]
        if len(own):
            np.testing.assert_allclose(whole.squares[code], own.var(axis=0) * len(own), atol=1e-6)


def crossed(seed, *, n_sources=20, n_donors=9, source_sd=5.0, shift=0.0):
    """Every source cell under every donor, as projections are; 4 donors healthy."""
    rng = np.random.default_rng(seed)
    donor, source = (part.ravel() for part in np.indices((n_donors, n_sources)))
    own = source_sd * rng.normal(size=(n_sources, 3))
    donors = 0.5 * rng.normal(size=(n_donors, 3)) + shift * (np.arange(n_donors) >= 4)[:, None]
    values = own[source] + donors[donor] + rng.normal(size=(len(donor), 3))
    return values, donor, np.where(donor >= 4, "ill", "healthy"), source


def test_what_projections_of_one_cell_share_is_taken_out():
    values, donor, group, source = crossed(0)
    found = compare_groups(values, donor, group, sources=source)
    cubes = values.reshape(9, 20, 3)
    means = cubes.mean(axis=1)
    residual = cubes - means[:, None] - cubes.mean(axis=0) + cubes.mean(axis=(0, 1))
    error = np.square(residual).sum(axis=(0, 1)) / (8 * 19)
    apart = 4 * means[4:].var(axis=0, ddof=1) + 3 * means[:4].var(axis=0, ddof=1)
    between = apart / 7 - error / 20
    assert (between > 0).all()
    # Balanced, so that REML is the analysis of variance.
    np.testing.assert_allclose(found["donor_share"], between / (between + error), rtol=1e-5)
    np.testing.assert_allclose(
        found["p_mixed"], stats.ttest_ind(means[4:], means[:4], axis=0).pvalue, rtol=1e-6
    )
    # Without it the cells' own differences pass for noise within donors.
    blind = compare_groups(values, donor, group)
    assert (blind["se"] > 1.3 * found["se"]).all()
    np.testing.assert_array_equal(blind["p_ranks"], found["p_ranks"])
    with pytest.raises(DataError, match=r"20 x 9 = 180; found 179 rows of 179 pairs\. Project all"):
        compare_groups(values[1:], donor[1:], group[1:], sources=source[1:])


def discoveries(seed, *, n_families, n_features, n_true=0, n_first=12, n_second=8):
    """q-values of many families of features, and which features differ."""
    values, donor, group = cells(
        seed, n_first, n_second, n_families * n_features, donor_sd=0.5, sizes=(3, 25)
    )
    differs = np.tile(np.arange(n_features) < n_true, n_families)
    values[np.ix_(group == "ill", differs)] += 1.2
    found = compare_groups(values, donor, group)
    naive = stats.ttest_ind(values[group == "ill"], values[group != "ill"], axis=0).pvalue
    p = {"ranks": found["p_ranks"], "mixed": found["p_mixed"], "cells": naive}
    return {
        name: np.stack(
            [adjusted(np.asarray(part)) for part in np.split(np.asarray(all_p), n_families)]
        )
        for name, all_p in p.items()
    }, differs.reshape(n_families, n_features)


@pytest.mark.parametrize(
    ("n_families", "n_features"),
    [(150, 20), pytest.param(1500, 40, marks=pytest.mark.slow)],
)
def test_simulated_nulls_keep_the_false_discovery_rate(n_families, n_features):
    # With nothing to discover, the rate is the share of families with any discovery.
    q, _ = discoveries(11, n_families=n_families, n_features=n_features)
    noise = 3 * np.sqrt(0.05 * 0.95 / n_families)
    for name in ("ranks", "mixed"):
        assert (q[name] <= 0.05).any(axis=1).mean() <= 0.05 + noise, name
    # Taking cells for replicates, as one would without this module, does not.
    assert (q["cells"] <= 0.05).any(axis=1).mean() > 0.9


def test_true_differences_are_found_and_few_others():
    q, differs = discoveries(12, n_families=60, n_features=30, n_true=6)
    for name in ("ranks", "mixed"):
        called = q[name] <= 0.05
        share = (called & ~differs).sum(axis=1) / np.maximum(called.sum(axis=1), 1)
        assert share.mean() <= 0.07, name
        assert called[differs].mean() > 0.5, name


def test_features_that_do_not_vary_are_left_out_with_the_reason():
    values, donor, group = cells(6, n_features=5)
    values[:, 1] = 0.1
    values[:, 3] = np.where(group == "ill", 0.3, 0.1)
    found = compare_groups(values, donor, group)
    assert list(found["reason"]) == [
        "",
        "the same in all donors",
        "",
        "does not vary within the groups",
        "",
    ]
    for name in ("p_ranks", "q_ranks", "p_mixed", "q_mixed", "hedges_g", "estimate", "donor_share"):
        assert np.isnan(found[name][1]), name
    assert np.isnan(found["p_mixed"][3])
    assert found["p_ranks"][3] == pytest.approx(2 / 462)
    kept = [0, 2, 4]
    alone = compare_groups(values[:, kept], donor, group)
    np.testing.assert_allclose(found["p_mixed"][kept], alone["p_mixed"])
    np.testing.assert_allclose(found["q_mixed"][kept], alone["q_mixed"])


def test_few_donors_are_told_what_they_can_show():
    values, donor, group = cells(0, 2, 3)
    with pytest.warns(UserWarning, match=FEW):
        found = compare_groups(values, donor, group)
    np.testing.assert_allclose(found["least_p_ranks"], 0.2)
    assert (found["p_ranks"] >= 0.2 - 1e-12).all()
    assert found["p_mixed"].notna().all()
    values, donor, group = cells(0, 1, 9)
    with pytest.raises(
        DataError, match=r"2 donors in each group; 'healthy' has 1 \(1 in 'healthy', 9 in"
    ):
        compare_groups(values, donor, group)


def test_sketches_of_donors_are_compared_without_cells():
    values, donor, group = cells(8)
    names, codes = np.unique(donor, return_inverse=True)
    moments = donor_moments(values, codes, len(names) + 1)
    group_of = dict(zip(donor, group, strict=True)) | {"empty": "ill"}
    found = compare_donors(
        moments, [*names, "empty"], group_of, between=("healthy", "ill"), features=list("abcd")
    )
    wanted = compare_groups(values, donor, group)
    np.testing.assert_allclose(found.drop(columns="feature").select_dtypes("number"),
                               wanted.drop(columns="feature").select_dtypes("number"))  # fmt: skip
    assert DonorMoments.none(2, 3).merge(DonorMoments.none(2, 3)).n.tolist() == [0, 0]


def test_fifty_donors_and_three_thousand_features_take_seconds():
    values, donor, group = cells(0, 25, 25, 3000, sizes=(10, 20))
    started = time.process_time()
    compare_groups(values.astype(np.float32), donor, group)
    assert time.process_time() - started < 20


def test_bad_input_is_told():
    values, donor, group = cells()
    with_nan = values.copy()
    with_nan[17, 2] = np.nan
    both = group.copy()
    both[0] = "ill"
    three = np.where(donor == "d10", "relapse", group)
    no_group = group.astype(object)
    no_group[3] = None
    for call, error, message in (
        (lambda: compare_groups(values[0], donor, group), DataError, r"a matrix, .* shape is \(4,\)"),
        (lambda: compare_groups(donor[:, None], donor, group), DataError, r"real numbers; its dtype is <U3"),
        (lambda: compare_groups(with_nan, donor, group), DataError, r"must be finite; row 17 holds NaN"),
        (lambda: compare_groups(values, donor[1:], group), DataError, r"donors must name every cell"),
        (lambda: compare_groups(values, donor, no_group), DataError, r"groups is missing .* for 1 of"),
        (lambda: compare_groups(values, donor, both), DataError,
         r"belong to one group; 1 belong to several: d00 in healthy, ill\. Give their samples"),
        (lambda: compare_groups(values, donor, three), ConfigError,
         r"two groups; it has 3: 'healthy', 'ill', 'relapse'\. Choose two with between="),
        (lambda: compare_groups(values, donor, group, between=("healthy", "AML")), ConfigError,
         r"two of the groups 'healthy', 'ill'; got \('healthy', 'AML'\)"),
        (lambda: compare_groups(values, donor, group, features=["a"]), ConfigError, r"4 columns, but 1 names"),
        (lambda: compare_groups(values, donor, group, level=2), ConfigError, r"between 0 and 1.*got 2\."),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = compare_groups(values, donor, three, between=("healthy", "ill"))
    assert set(chosen["n_second"]) == {5}

"""How true cells under other batches are: what the README quotes, and no worse.

These fit models for minutes and carry `slow`. `python -m benchmarks.bench_what_if` prints the figures.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from benchmarks.bench_what_if import (
    BATCHES,
    LABELS,
    PROBED,
    Sizes,
    draw_combinations,
    fit_me,
    hold_out,
    shift_correlation,
    simulated_run,
    true_means,
    truth_coverage,
    unseen,
)

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")


def small_atlas() -> ad.AnnData:
    """A prepared AnnData in all that `hold_out` reads: 5 parts of 40 cells."""
    rng = np.random.default_rng(0)
    obs = {LABELS: rng.choice(["B", "T"], 200), BATCHES: rng.choice(["x", "y", "z"], 200)}
    adata = ad.AnnData(np.arange(200, dtype=np.float32)[:, None], obs=obs)
    adata.uns["medl_scale"] = {
        "labels_key": LABELS, "batch_key": BATCHES, "part_bounds": np.arange(0, 201, 40),
    }  # fmt: skip
    return adata


@pytest.mark.filterwarnings("ignore:Transforming to str index")
def test_held_out_cells_are_all_in_the_part_that_tests_and_no_cell_is_lost():
    adata = small_atlas()
    held = hold_out(adata, [("T", "y"), ("B", "x")])
    bounds = held.uns["medl_scale"]["part_bounds"]
    is_held = [
        pair in {("T", "y"), ("B", "x")}
        for pair in zip(held.obs[LABELS], held.obs[BATCHES], strict=True)
    ]
    assert sum(is_held[: bounds[1]]) == sum(is_held) > 40
    assert sorted(held.X[:, 0]) == list(range(200))
    # The others stay in their parts.
    for part in range(5):
        rows = np.arange(bounds[part], bounds[part + 1])
        others = rows[~np.array(is_held)[rows]]
        assert (held.X[others, 0] // 40 == part).all()
    assert (adata.uns["medl_scale"]["part_bounds"] == np.arange(0, 201, 40)).all()


@pytest.mark.slow  # a fit of some 40 epochs, and draws from the truth
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [2])
def test_shifts_are_near_the_truth_and_calibrated_intervals_hold_it_as_often_as_they_say(
    tmp_path, seed
):
    from medl_scale.pipeline.calibrating import calibration_of
    from medl_scale.pipeline.held_out import held_out_residuals

    sizes = Sizes()
    run = simulated_run(tmp_path, sizes, seed, max_epochs=60)
    truth = true_means(run, sizes, seed)
    found = held_out_residuals(run, model="me", fold=0, split="test")
    assert shift_correlation(found, truth) >= 0.9
    learnt = calibration_of(run)
    asked = [(kind, level) for kind in ("projection", "difference") for level in (0.8, 0.95)]
    factors = {(kind, level): learnt.factor(level, kind) for kind, level in asked}
    widened = truth_coverage(found, truth, factors)
    alone = truth_coverage(found, truth, dict.fromkeys(asked, 1.0))
    print(widened, alone)
    for kind, level in asked:
        assert widened[kind, level] == pytest.approx(level, abs=0.05)
        # What the calibration is for.
        assert alone[kind, level] < level - 0.2


@pytest.mark.slow  # prepares and fits the AML set
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("held_out", ["probe", "1"])
def test_unseen_combinations_of_aml_are_told_better_than_by_a_two_way_shift(
    shared_data, tmp_path, held_out
):
    import medl_scale

    atlas = tmp_path / "atlas.zarr"
    keys = {"batch_key": BATCHES, "labels_key": LABELS}
    data = shared_data / "aml_vangalen_d0.h5ad"
    medl_scale.prepare(data, atlas, **keys, n_top_genes=2916, progress=False)
    adata = ad.read_zarr(atlas)
    chosen = PROBED if held_out == "probe" else draw_combinations(adata, int(held_out))
    held = hold_out(adata, chosen)
    run = fit_me(held, tmp_path / "run", seed=0)
    check = run.check_what_if(atlas=held, progress=False)
    told = check.pairs.loc[~check.pairs["seen"], ["label", "target"]]
    assert set(told.itertuples(index=False, name=None)) <= set(chosen)
    found = unseen(check)
    print(found)
    assert found["n_pairs"] >= 25
    assert found["wins"] >= 0.6
    assert found["of_shift"] <= 0.9
    assert found["error"] < found["error_batch_shift"]

"""Is what a cell would express in another batch true? On real cells held out, and where truth is known.

    python -m benchmarks.bench_what_if [--data aml_vangalen_d0.h5ad] [--seeds 0 1] [--held-out probe 1]

Real: combinations of a type and a donor are kept from training, `me` is fitted with default settings,
and cells of the type from other donors, as if from that donor, are compared with the donor's own. All
the combination's cells are compared with; what was trained on is not. `probe` holds out ten combinations
chosen once by hand; a number draws ten others.

Simulated: predicted shifts of expected expression against true ones, and how often intervals hold them,
as the posterior has them and calibrated on validation cells.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.figures import Figure, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.interpret.check import WhatIfCheck
    from medl_scale.pipeline.held_out import HeldOutResiduals
    from medl_scale.pipeline.run import Run

    type Combinations = Sequence[tuple[str, str]]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "aml_vangalen_d0.h5ad"
BATCHES, LABELS = "donor", "cell_type_coarse"
PROBE = "probe"
PROBED = (
    ("T", "AML328"), ("T", "BM3"), ("NK", "AML210A"), ("HSC", "AML1012"), ("HSC", "AML707B"),
    ("Mono", "BM3"), ("Mono", "AML1012"), ("Prog", "AML210A"), ("GMP", "AML329"),
    ("ProMono", "AML371"),
)  # fmt: skip
"""Combinations held out, as (type, donor)."""
LEAST_HELD_OUT = 50
LEAST_WINS = 0.6
MOST_OF_SHIFT = 0.9
LEAST_CORRELATION = 0.9
LEVELS = (0.8, 0.95)


class Sizes(NamedTuple):
    """A simulated atlas."""

    n_cells: int = 8000
    n_genes: int = 400
    n_batches: int = 8
    n_labels: int = 5


def draw_combinations(adata: AnnData, seed: int) -> Combinations:
    """Return ten combinations of a type and a batch with cells enough, none of the probe's."""
    counts = adata.obs.groupby([LABELS, BATCHES], observed=True).size()
    possible = [one for one in counts[counts >= LEAST_HELD_OUT].index if one not in PROBED]
    chosen = np.random.default_rng(seed).choice(len(possible), 10, replace=False)
    return [possible[place] for place in sorted(chosen)]


def hold_out(adata: AnnData, combinations: Combinations) -> AnnData:
    """Return a prepared AnnData whose fold 0 trains on, and validates by, no cell of some combinations.

    All their cells are moved to the part that tests.
    """
    manifest = adata.uns["medl_scale"]
    bounds = np.asarray(manifest["part_bounds"])
    part = np.searchsorted(bounds, np.arange(adata.n_obs), side="right") - 1
    pairs = zip(adata.obs[manifest["labels_key"]], adata.obs[manifest["batch_key"]], strict=True)
    part[[pair in set(combinations) for pair in pairs]] = 0
    moved = adata[np.argsort(part, kind="stable")].copy()
    sizes = np.bincount(part, minlength=len(bounds) - 1)
    moved.uns["medl_scale"]["part_bounds"] = np.concatenate([[0], np.cumsum(sizes)])
    return moved


def fit_me(adata: AnnData, folder: Path, *, seed: int, **settings: int) -> Run:
    """Return a run of `me` with default settings."""
    import medl_scale

    return medl_scale.fit(
        adata, output=folder, models=("me",), seed=seed, evaluate=False, progress=False, **settings
    )


def unseen(check: WhatIfCheck) -> dict[str, float]:
    """Return share of wins and mean errors on combinations that were not trained on."""
    pairs = check.pairs[~check.pairs["seen"]]
    shift = pairs["error_two_way_shift"]
    return {
        "wins": float((pairs["error"] < shift).mean()),
        "of_shift": float(pairs["error"].mean() / shift.mean()),
        "error": float(pairs["error"].mean()),
        "correlation": float(pairs["correlation"].mean()),
        **{f"error_{name}": float(pairs[f"error_{name}"].mean())
           for name in ("two_way_shift", "batch_shift", "two_way_profile")},
        "noise_floor": float(pairs["noise_floor"].mean()),
        "n_pairs": len(pairs),
        "seen_error": float(check.pairs.loc[check.pairs["seen"], "error"].mean()),
    }  # fmt: skip


def real_figures(
    folder: Path, data: Path, held_out: Sequence[str], seeds: Sequence[int]
) -> list[Figure]:
    """Return how unseen combinations are predicted."""
    import anndata

    import medl_scale

    atlas = folder / "atlas.zarr"
    keys = {"batch_key": BATCHES, "labels_key": LABELS}
    medl_scale.prepare(data, atlas, **keys, n_top_genes=2916, progress=False)
    adata = anndata.read_zarr(atlas)
    figures = []
    for which in held_out:
        chosen = PROBED if which == PROBE else draw_combinations(adata, int(which))
        held = hold_out(adata, chosen)
        for seed in seeds:
            run = fit_me(held, folder / f"run_{which}_{seed}", seed=seed)
            found = unseen(run.check_what_if(atlas=held, progress=False))
            details = {name: round(value, 3) for name, value in found.items()}
            details["held_out"] = "; ".join(f"{label} of {batch}" for label, batch in chosen)
            what = f"{data.stem}, held out: {which}, seed {seed}"
            figures += [
                Figure(
                    benchmark="what_if",
                    what=f"{what}: unseen pairs better than the two-way shift",
                    measured=details["wins"],
                    unit="of pairs",
                    at_least=LEAST_WINS,
                    details=details,
                ),
                Figure(
                    benchmark="what_if",
                    what=f"{what}: mean error on unseen pairs",
                    measured=details["of_shift"],
                    unit="x the two-way shift's",
                    at_most=MOST_OF_SHIFT,
                    details=details,
                ),
            ]
    return figures


def true_means(run: Run, sizes: Sizes, seed: int, n_drawn: int = 5000) -> NDArray[np.float64]:
    """Return (n_labels, n_batches, n_vars) expected expression, in the model's units and order.

    By drawing cells from the truth: the logarithm of a normalised count has no closed expectation.
    """
    from medl_scale.store.atlas import describe
    from medl_scale.store.ground_truth import LIBRARY_LOG_SD, ground_truth

    _, n_genes, n_batches, n_labels = sizes
    truth = ground_truth(n_genes=n_genes, n_batches=n_batches, n_labels=n_labels, seed=seed)
    atlas, vocabulary = describe(run.atlas_path or ""), run.model("me").vocabulary

    def numbers(names: Sequence[str]) -> list[int]:
        return [int(name.rsplit("_", 1)[1]) - 1 for name in names]

    genes = numbers(vocabulary.var_names)
    rng = np.random.default_rng(0)
    means = np.empty((len(atlas.label_levels), len(atlas.batch_levels), len(genes)))
    for k, label in enumerate(numbers(atlas.label_levels)):
        for b, batch in enumerate(numbers(atlas.batch_levels)):
            library = truth.batch_library[batch] * np.exp(
                LIBRARY_LOG_SD * rng.normal(size=(n_drawn, 1))
            )
            rate = truth.batch_scale[batch] * truth.type_profile[label] + truth.batch_shift[batch]
            shape = n_drawn, n_genes
            counts = rng.poisson(
                library * rate * rng.gamma(truth.dispersion, 1 / truth.dispersion, shape)
            )
            totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
            means[k, b] = np.log1p(counts * (atlas.target_sum / totals)).mean(axis=0)[genes]
    return means * vocabulary.transform.scale


def shift_correlation(found: HeldOutResiduals, truth: NDArray[np.float64]) -> float:
    """Return the mean over moves of the correlation over genes of predicted and true shifts."""
    pairs = found.pairs
    true = truth[pairs.labels, pairs.targets] - truth[pairs.labels, pairs.sources]
    told = found.predicted - found.own
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(told, true, strict=True)]))


def truth_coverage(
    found: HeldOutResiduals, truth: NDArray[np.float64], factors: dict[tuple[str, float], float]
) -> dict[tuple[str, float], float]:
    """Return how often intervals hold expected expression, by kind and level, times given factors."""
    from medl_scale.interpret.calibration import Residuals, coverage

    pairs = found.pairs
    target, own = truth[pairs.labels, pairs.targets], truth[pairs.labels, pairs.sources]
    errors = {
        "projection": (found.predicted - target, found.projection.posterior_sd),
        "difference": (found.predicted - found.own - (target - own), found.difference.posterior_sd),
    }
    known = {kind: Residuals(error, sd, np.zeros_like(sd)) for kind, (error, sd) in errors.items()}
    return {
        (kind, level): coverage(known[kind], level, factor)
        for (kind, level), factor in factors.items()
    }


def simulated_run(folder: Path, sizes: Sizes, seed: int, **settings: int) -> Run:
    """Return a run of `me` on a simulated atlas, all of whose genes are kept."""
    import medl_scale

    n_cells, n_genes, n_batches, n_labels = sizes
    medl_scale.simulate(
        folder / "counts.zarr", n_cells=n_cells, n_genes=n_genes, n_batches=n_batches,
        n_labels=n_labels, seed=seed,
    )  # fmt: skip
    keys = {"batch_key": "batch", "labels_key": "cell_type"}
    medl_scale.prepare(
        folder / "counts.zarr", folder / "atlas.zarr", **keys, n_top_genes=None, progress=False
    )
    return medl_scale.fit(
        folder / "atlas.zarr", output=folder / "run", models=("me",), evaluate=False,
        write_latents=False, progress=False, **settings,
    )  # fmt: skip


def simulated_figures(folder: Path, sizes: Sizes, seed: int, **settings: int) -> list[Figure]:
    """Return how near the truth predictions are, and how often intervals hold it."""
    from medl_scale.pipeline.calibrating import calibration_of
    from medl_scale.pipeline.held_out import held_out_residuals

    run = simulated_run(folder, sizes, seed, **settings)
    truth = true_means(run, sizes, seed)
    found = held_out_residuals(run, model="me", fold=0, split="test")
    learnt = calibration_of(run)
    what = f"simulated, seed {seed}, {len(found.predicted)} moves"
    figures = [
        Figure(
            benchmark="what_if",
            what=f"{what}: predicted and true shift",
            measured=round(shift_correlation(found, truth), 3),
            unit="correlation",
            at_least=LEAST_CORRELATION,
        )
    ]
    asked = [(kind, level) for kind in ("projection", "difference") for level in LEVELS]
    widened = truth_coverage(found, truth, {one: learnt.factor(one[1], one[0]) for one in asked})
    own = truth_coverage(found, truth, dict.fromkeys(asked, 1.0))
    figures += [
        Figure(
            benchmark="what_if",
            what=f"{what}: {level:.0%} intervals of a {kind} hold the truth",
            measured=round(widened[kind, level], 3),
            unit="of genes x moves",
            details={
                "by_the_posterior_alone": round(own[kind, level], 3),
                "factor": round(learnt.factor(level, kind), 2),
            },
        )
        for kind, level in asked
    ]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="counts with donors and types")
    parser.add_argument("--held-out", nargs="+", default=[PROBE, "1"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--simulated-seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        sizes, settings = (
            (Sizes(600, 80, 4, 3), {"max_epochs": 2}) if options.quick else (Sizes(), {})
        )
        for seed in [1] if options.quick else options.simulated_seeds:
            figures += simulated_figures(Path(folder, f"simulated_{seed}"), sizes, seed, **settings)
        if not options.quick and options.data.exists():
            figures += real_figures(Path(folder), options.data, options.held_out, options.seeds)
    tell(figures, "Cells as if from other batches", with_goals=not options.quick)


if __name__ == "__main__":
    main()

"""Draw what scoring 10,000 sampled cells does to silhouettes: docs/images/sampling_bias.{png,csv}.

    python -m benchmarks.figure_sampling_bias            # some minutes on 2 cores
    python -m benchmarks.figure_sampling_bias --quick    # tiny: does it run?

For four kinds of synthetic latents (`benchmarks.latents`) the silhouette of all cells is compared with
those of repeated draws, for draws of several sizes. The labels of `mixed` and `null` are batches that
share one space, as after integration: with them a draw is biased and not only noisy, because the
nearest of many equally near batches is told by noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.latents import make_latent
from medl_scale.evaluate.silhouettes.silhouette import silhouette_score
from medl_scale.store.atomic import atomic_file

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "sampling_bias"
CASES = (
    ("celltype", 19, "19 cell types"),
    ("re", 147, "147 batches, apart"),
    ("mixed", 147, "147 batches, mixed"),
    ("null", 147, "147 batches, perfectly mixed"),
)
PUBLISHED = 10_000


def measure(n: int, d: int, sizes: list[int], n_draws: int) -> pd.DataFrame:
    """Return the silhouette of all cells and of every draw: kind, size, draw, value, error."""
    rows = []
    for kind, n_labels, _ in CASES:
        latent, labels = make_latent(kind, n, d, n_labels, seed=0)
        full = silhouette_score(latent, labels)
        rows.append((kind, n, 0, full.value, full.error))
        print(f"{kind}: {full!r}", file=sys.stderr, flush=True)
        for size in sizes:
            for draw in range(n_draws):
                random = np.random.default_rng([draw, size])
                chosen = random.choice(n, size, replace=False)
                score = silhouette_score(latent[chosen], labels[chosen])
                rows.append((kind, size, draw, score.value, score.error))
    return pd.DataFrame(rows, columns=["kind", "cells", "draw", "value", "error"])


def draw(table: pd.DataFrame, n: int, d: int, path: Path) -> None:
    """Draw every case: bias over the size of a draw, one point a draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(CASES), figsize=(12, 3.4), sharey=True, layout="constrained")
    for axis, (kind, _, title) in zip(axes, CASES, strict=True):
        own = table[table["kind"] == kind]
        full = float(own.loc[own["draw"].eq(0) & own["cells"].eq(n), "value"].iloc[0])
        draws = own[own["cells"] < n]
        bias = draws["value"] - full
        axis.axhline(0, color="0.4", linewidth=1)
        axis.scatter(draws["cells"], bias, s=9, color="#d95f02", alpha=0.35, linewidths=0)
        means = bias.groupby(draws["cells"]).mean()
        axis.plot(means.index, means, color="#d95f02", marker="o", markersize=5)
        at = means.get(PUBLISHED)
        if at is not None:
            axis.annotate(
                f"{at:+.3f}", (PUBLISHED, at), xytext=(9, -12), textcoords="offset points",
                ha="left", fontsize=9,
            )  # fmt: skip
        axis.set_title(f"{title}\nall {n:,} cells: {full:.3f}", fontsize=10)
        axis.set_xscale("log")
        axis.set_xlabel("cells drawn")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean silhouette of a draw\nless that of all cells")
    figure.suptitle(f"Silhouettes of sampled cells ({d}-dimensional latents)", fontsize=11)
    for suffix, options in ((".png", {"dpi": 150}),):
        with atomic_file(path.with_suffix(suffix)) as scratch:
            figure.savefig(scratch, format=suffix[1:], **options)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=2)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="path without a suffix")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    n, sizes, n_draws = options.cells, [2_500, PUBLISHED, 40_000, 160_000], options.draws
    if options.quick:
        n, sizes, n_draws = 5_000, [500, 1_000], 3
    options.output.parent.mkdir(parents=True, exist_ok=True)
    table = measure(n, options.dimensions, sizes, n_draws)
    with atomic_file(options.output.with_suffix(".csv")) as scratch:
        table.to_csv(scratch, index=False)
    draw(table, n, options.dimensions, options.output)


if __name__ == "__main__":
    main()

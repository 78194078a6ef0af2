"""Cells of an atlas as if they came from every batch: how long, and how much memory.

    python -m benchmarks.bench_project

300 cells under 147 batches at 3,000 genes by the command line, in a process of its own: imports, reading
and writing included. The model is the default `me`, trained for one epoch, which decodes as fast as any.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figure, tell
from benchmarks.processes import medl_scale

MOST_S = 10.0
MOST_BYTES = 1.5 * 2**30
GIB = 2**30


class Sizes(NamedTuple):
    """What is projected, from how large an atlas."""

    n_chosen: int = 300
    n_batches: int = 147
    n_genes: int = 3000
    n_cells: int = 6000


def fitted_run(folder: Path, sizes: Sizes) -> Path:
    """Return a run with a trained `me`."""
    counts, atlas, run = folder / "counts.zarr", folder / "atlas.zarr", folder / "run"
    medl_scale(
        "simulate", counts, "--cells", sizes.n_cells, "--genes", sizes.n_genes,
        "--batches", sizes.n_batches, "--labels", 10,
    )  # fmt: skip
    keys = ("--batch-key", "batch", "--labels-key", "cell_type", "--n-top-genes", 0)
    medl_scale("prepare", counts, "--output", atlas, *keys, "--min-cells", 1)
    medl_scale(
        "fit", atlas, "--models", "me", "--max-epochs", 1, "--no-evaluate", "--output", run
    )  # fmt: skip
    return run


def measure(folder: Path, sizes: Sizes, *, quick: bool) -> list[Figure]:
    """Return time and peak memory, plain and with posterior draws."""
    run = fitted_run(folder, sizes)
    names = folder / "names.txt"
    step = sizes.n_cells // sizes.n_chosen
    chosen = range(0, step * sizes.n_chosen, step)
    width = len(str(sizes.n_cells - 1))
    names.write_text("\n".join(f"cell_{cell:0{width}d}" for cell in chosen))
    figures = []
    what = f"{sizes.n_chosen} cells x {sizes.n_batches} batches x {sizes.n_genes:,} genes"
    for suffix, more in ((".zarr", ()), (".h5ad", ()), (".zarr", ("--draws", 10))):
        if more and not quick:
            # Costs as many times more; a tenth of the cells tells as much.
            names.write_text("\n".join(names.read_text().splitlines()[::10]))
        cost = medl_scale(
            "project", run, "--cells", names, "--as-batch", "all", "--overwrite", *more,
            "--output", folder / f"out{suffix}",
        )  # fmt: skip
        label = f"{what}, {suffix}" if not more else "a tenth of the cells, 10 draws"
        details = {"cpu_s": round(cost.cpu_s, 1)}
        figures += [
            Figure(
                benchmark="project",
                what=label,
                measured=round(cost.wall_s, 2),
                unit="s",
                at_most=None if more else MOST_S,
                details=details,
            ),
            Figure(
                benchmark="project",
                what=f"{label}, peak",
                measured=round(cost.peak_bytes / GIB, 3),
                unit="GiB",
                at_most=None if more else MOST_BYTES / GIB,
                details=details,
            ),
        ]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()
    sizes = Sizes(5, 6, 100, 300) if options.quick else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), sizes, quick=options.quick)
    tell(figures, "As-if projections", with_goals=not options.quick)


if __name__ == "__main__":
    main()

"""Peak memory of `prepare` and `fit` on a small atlas and on one ten times its size.

    python -m benchmarks.bench_memory

Each command runs in a process of its own and the kernel tells its peak resident set, shared
libraries included. Caching is off: with it, `fit` holds as many decoded rows as its budget allows.
`fit` trains ME for one epoch and encodes all cells.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.figures import Figure, tell
from benchmarks.processes import Cost, medl_scale, simulated_atlas

MOST_GROWTH = 1.3
MOST_BYTES = 3 * 2**30
GIB = 2**30


def measure(folder: Path, n_cells: int, n_genes: int, hidden: list[int]) -> dict[str, Cost]:
    """Return what `prepare` and `fit` cost on a simulated atlas, which is removed again."""
    folder.mkdir()
    atlas, prepare = simulated_atlas(folder, n_cells, n_genes)
    settings = folder / "fit.toml"
    settings.write_text(f"[fit.model]\nhidden = {hidden}\n")
    fit = medl_scale(
        "fit", atlas, "--models", "me", "--max-epochs", 1, "--cache-memory", 0, "--no-evaluate",
        "--config", settings, "--output", folder / "run",
    )  # fmt: skip
    shutil.rmtree(folder)
    return {"prepare": prepare, "fit": fit}


def figures_of(name: str, small: Cost, large: Cost, sizes: list[int], more: dict) -> list[Figure]:
    """Return growth and peak of one command."""
    costs = {
        f"{size:,}_cells": {
            "peak_mib": round(cost.peak_bytes / 2**20),
            "wall_s": round(cost.wall_s, 1),
            "cpu_s": round(cost.cpu_s, 1),
        }
        for size, cost in zip(sizes, (small, large), strict=True)
    }
    return [
        Figure(
            benchmark="memory",
            what=f"{name}, peak on {sizes[1]:,} cells",
            measured=round(large.peak_bytes / small.peak_bytes, 3),
            unit=f"x that on {sizes[0]:,}",
            at_most=MOST_GROWTH,
            details=costs | more,
        ),
        Figure(
            benchmark="memory",
            what=f"{name}, peak on {sizes[1]:,} cells",
            measured=round(large.peak_bytes / GIB, 3),
            unit="GiB",
            at_most=MOST_BYTES / GIB,
            details=more,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--cells", type=int, nargs=2, default=[100_000, 1_000_000], metavar=("SMALL", "LARGE")
    )
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        default=[512, 132],
        help="widths of the network; narrow ones make the steps cheap (512 132)",
    )
    parser.add_argument("--scratch", type=Path, help="folder for the atlases; some 8 GB")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    sizes, n_genes, hidden = sorted(options.cells), options.genes, options.hidden
    if options.quick:
        sizes, n_genes, hidden = [1_000, 3_000], 200, [16, 8]
    scratch = Path(tempfile.mkdtemp(prefix="medl-bench-", dir=options.scratch))
    try:
        small, large = (measure(scratch / str(n), n, n_genes, hidden) for n in sizes)
    finally:
        shutil.rmtree(scratch)
    more = {"genes": n_genes, "hidden": hidden}
    figures = [
        figure
        for name in small
        for figure in figures_of(name, small[name], large[name], sizes, more)
    ]
    tell(figures, "Peak memory, caching off", with_goals=not options.quick)


if __name__ == "__main__":
    main()

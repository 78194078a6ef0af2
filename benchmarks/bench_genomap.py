"""Genomap layouts: speed and objective beside the package's, and how good and how stable maps are.

    python -m benchmarks.bench_genomap                       # with the package: some ten minutes
    python -m benchmarks.bench_genomap --iterations 0        # without it: one minute

Cells are those of an .h5ad of counts with the columns `donor` and `cell_type_coarse` (`--data`), or
genes in modules. The layouts that are compared learn from the same 300 cells and are scored on others;
the maps of two halves of all cells are learnt within donors.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.figures import Figure, tell
from medl_scale.interpret.genomap import correlations_of, learn_layout
from medl_scale.interpret.genomap.ring import assign_rings, ring_objective, rings_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "aml_vangalen_d0.h5ad"
N_CELLS = 300
PUBLISHED_ITERATIONS = 100
RANK = 50


class Cells(NamedTuple):
    """Log-normalised cells and which of them layouts learn from."""

    values: NDArray[np.float32]
    batches: NDArray[np.int64]
    chosen: NDArray[np.int64]
    held_out: NDArray[np.int64]


def read_cells(path: Path, n_genes: int) -> Cells:
    """Return the cells of a file: 300 drawn evenly from its types, and variable genes seen in them."""
    import anndata
    import pandas as pd
    import scanpy

    adata = anndata.read_h5ad(path)
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    scanpy.pp.highly_variable_genes(adata, flavor="seurat", n_top_genes=2000)
    types, _ = pd.factorize(adata.obs["cell_type_coarse"])
    chosen = choose(types)
    order = np.argsort(-adata.var["dispersions_norm"].fillna(-np.inf).to_numpy(), kind="stable")
    is_seen = np.asarray((adata.X[chosen] > 0).sum(axis=0)).ravel() >= 3
    genes = order[is_seen[order]][:n_genes]
    batches, _ = pd.factorize(adata.obs["donor"])
    return with_held_out(adata.X[:, genes].toarray(), batches, chosen)


def make_cells(n_genes: int, n_modules: int = 30) -> Cells:
    """Return cells in which genes of a module go together."""
    random = np.random.default_rng(0)
    factors = random.standard_normal((3000, n_modules))
    genes = np.arange(n_genes)
    # Modules of a handful of programmes, so that there is a large scale to agree on too.
    own = factors[:, genes % n_modules] + factors[:, genes % 5]
    values = (0.5 * own + random.standard_normal((3000, n_genes))).astype(np.float32)
    return with_held_out(values, np.arange(3000) % 5, np.arange(N_CELLS))


def choose(types: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw cells evenly from all types, and the rest from all cells."""
    random = np.random.default_rng(42)
    n_types = int(types.max()) + 1
    parts = []
    for code in range(n_types):
        of_type = np.flatnonzero(types == code)
        parts.append(random.choice(of_type, min(N_CELLS // n_types, of_type.size), replace=False))
    drawn = np.concatenate(parts)
    others = np.setdiff1d(np.arange(types.size), drawn)
    return np.concatenate([drawn, random.choice(others, N_CELLS - drawn.size, replace=False)])


def with_held_out(
    values: NDArray[np.float32], batches: NDArray[np.int64], chosen: NDArray[np.int64]
) -> Cells:
    """Add up to 3,000 cells that were not chosen."""
    others = np.setdiff1d(np.arange(len(values)), chosen)
    return Cells(values, batches, chosen, np.random.default_rng(1).permutation(others)[:3000])


def reconstructed(cells: Cells) -> NDArray[np.float32]:
    """Return standardised held-out cells by their leading components, as a decoder would give them."""
    values = cells.values[cells.held_out]
    scaled = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    left, sizes, right = np.linalg.svd(scaled, full_matrices=False)
    return (left[:, :RANK] * sizes[:RANK]) @ right[:RANK]


def moran(values: NDArray[np.float32], pixels: NDArray[np.int64], side: int) -> float:
    """Return the mean Moran's I of cells as images, over pixels side by side or above each other."""
    images = np.empty_like(values)
    images[:, pixels] = values
    images = images.reshape(-1, side, side)
    images = images - images.mean(axis=(1, 2), keepdims=True)
    across = (images[:, :, :-1] * images[:, :, 1:]).sum(axis=(1, 2))
    down = (images[:, :-1] * images[:, 1:]).sum(axis=(1, 2))
    return float(np.mean((across + down) / (2 * side * (side - 1) * images.var(axis=(1, 2)))))


def layouts(cells: Cells, side: int, iterations: int) -> list[Figure]:
    """Compare layouts of the same 300 cells."""
    values = cells.values[cells.chosen]
    what = f"{N_CELLS} cells x {side * side:,} genes"
    rings = rings_of((side, side), side * side)
    started = time.process_time()
    correlations = correlations_of(values)
    ring_of_gene = assign_rings(correlations, rings)
    seconds = time.process_time() - started
    objective = ring_objective(correlations, rings, ring_of_gene)
    shown = reconstructed(cells)
    names = [str(gene) for gene in range(side * side)]
    started = time.process_time()
    map2d = learn_layout(correlations, names)
    map_seconds = time.process_time() - started
    ours = moran(shown, map2d.pixels, side)
    chance = np.random.default_rng(0).permutation(rings.of_pixel)
    below = ring_objective(correlations, rings, chance) - objective
    figures = [
        _figure(f"rings, {what}", seconds, "CPU seconds"),
        _figure(f"rings, {what}: below chance", below, "of E", details={"E": objective}),
        _figure(f"map2d, {what}", map_seconds, "CPU seconds"),
        _figure(f"map2d, {what}: held out", ours, "Moran's I"),
    ]
    if not iterations:
        return figures
    pixels, their_seconds = package_layout(values, side, iterations)
    their_objective = ring_objective(correlations, rings, rings.of_pixel[pixels])
    scaled = their_seconds * PUBLISHED_ITERATIONS / iterations
    speed = {"package_s": round(their_seconds, 1), "iterations": iterations, "ours_s": seconds}
    theirs = moran(shown, pixels, side)
    return [
        *figures,
        _figure(
            f"rings, {what}: speed", scaled / seconds, "x package", at_least=100, details=speed
        ),
        _figure(
            f"rings, {what}: below the package",
            their_objective - objective,
            "of E",
            at_least=0.0,
            details={"E": objective, "package_E": their_objective},
        ),
        _figure(f"map2d, {what}: held out", ours / theirs, "x package", at_least=3.0),
    ]


def package_layout(
    values: NDArray[np.float32], side: int, iterations: int
) -> tuple[NDArray[np.int64], float]:
    """Return the package's pixel of each gene, row by row, and its CPU seconds."""
    from genomap.genomap import construct_genomap_returnT

    scaled = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    started = time.process_time()
    _, plan = construct_genomap_returnT(
        scaled.astype(np.float64), side, side, epsilon=0.0, num_iter=iterations
    )
    seconds = time.process_time() - started
    columns, rows = np.divmod(plan.argmax(axis=1), side)  # its images are column by column
    return rows * side + columns, seconds


def halves(cells: Cells, side: int) -> Figure:
    """Return how well maps of two halves of the cells agree in where genes lie."""
    from scipy.spatial.distance import pdist

    order = np.random.default_rng(7).permutation(len(cells.values))
    names = [str(gene) for gene in range(side * side)]
    distances = []
    for half in np.array_split(order, 2):
        correlations = correlations_of(cells.values[half], cells.batches[half])
        layout = learn_layout(correlations, names)
        distances.append(pdist(np.stack([layout.rows, layout.columns], axis=1)))
    agreement = float(np.corrcoef(*distances)[0, 1])
    what = f"map2d, half v half, {side * side:,} genes: distances"
    return _figure(what, agreement, "correlation", at_least=0.6)


def _figure(what: str, measured: float, unit: str, **more: object) -> Figure:
    """Return a figure of this benchmark."""
    return Figure(benchmark="genomap", what=what, measured=measured, unit=unit, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="counts (.h5ad)")
    parser.add_argument("--side", type=int, default=54, help="of the grid")
    parser.add_argument(
        "--iterations",
        type=int,
        default=None,
        help="of the package; 0 leaves it out (100 where it is installed)",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()

    if options.quick:
        side, iterations = 12, 0
    else:
        from importlib.util import find_spec

        side, iterations = options.side, options.iterations
        if iterations is None:
            iterations = PUBLISHED_ITERATIONS if find_spec("genomap") else 0
    has_data = options.data.exists() and not options.quick
    cells = read_cells(options.data, side * side) if has_data else make_cells(side * side)
    small = make_cells(36)
    learn_layout(correlations_of(small.values), [str(gene) for gene in range(36)])  # compiles
    assign_rings(correlations_of(small.values), rings_of((6, 6), 36))
    with threadpool_limits(1):
        figures = [*layouts(cells, side, iterations), halves(cells, side)]
    tell(figures, "Genomaps on one core", with_goals=not options.quick)


if __name__ == "__main__":
    main()

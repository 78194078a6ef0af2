"""Simulated atlases: cells drawn from a known truth and written block by block.

The model is in `store.ground_truth`, the layout on disk in `store.rows`.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from medl_scale.config import check_at_least
from medl_scale.errors import ConfigError, OutputExistsError
from medl_scale.progress import SilentProgress
from medl_scale.seeds import Purpose, generator
from medl_scale.store.atomic import atomic_directory, atomic_file
from medl_scale.store.ground_truth import (
    LIBRARY_LOG_SD,
    PARAMETERS_PLACE,
    GroundTruth,
    ground_truth,
)
from medl_scale.store.rows import RowBlock, RowWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medl_scale.progress import Progress

    type FloatArray = NDArray[np.float32]

__all__ = ["simulate"]

# Place of the cells' generators under Purpose.SIMULATE; blocks add their number.
_CELLS_PLACE = PARAMETERS_PLACE + 1
# Cells drawn from one generator. Part of what a seed means: changing it changes every atlas.
_BLOCK = 1024
# More than the chunk caches of all arrays of a file.
_RESERVE_BYTES = 16 * 2**20
_MAX_COUNT = np.iinfo(np.uint16).max
_MOST_DENSE = 0.25
"""Share of counts that are not zero, at the very most: some 7 % in fact."""


def simulate(
    output: str | os.PathLike[str],
    *,
    n_cells: int,
    n_genes: int = 2000,
    n_batches: int = 12,
    n_labels: int = 8,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a simulated atlas, block by block.

    `X` holds counts (CSR, uint16), `obs` has `batch`, `cell_type` and `library_size`; cells lie
    batch after batch. Types differ in frequency and some are missing from some batches. The truth
    is kept: `type_profile`, `batch_scale` and `batch_shift` in `varm` (columns in the order of the
    categories), `dispersion` in `var`, the rest in `uns["simulation"]`.

    Parameters
    ----------
    output
        A path ending in `.zarr` (Zarr v3) or `.h5ad`.
    n_cells, n_genes, n_batches, n_labels
        Sizes; at least 2 cells a batch. Memory does not grow with `n_cells`.
    seed
        The same seed and sizes give the same atlas.
    overwrite
        Whether an existing output may be replaced.
    progress
        Where to report to; nowhere by default.

    Raises
    ------
    ConfigError
        If a size or the suffix of `output` makes no sense.
    OutputExistsError
        If `output` exists and `overwrite` is false.
    StoreError
        If writing fails, for instance because the disk is full.
    """
    check_at_least("n_genes", n_genes, 1)
    check_at_least("n_batches", n_batches, 1)
    check_at_least("n_labels", n_labels, 1)
    check_at_least("seed", seed, 0)
    if n_cells < 2 * n_batches or n_cells < n_labels:
        raise ConfigError(
            f"{n_batches} batches and {n_labels} cell types need at least "
            f"{max(2 * n_batches, n_labels)} cells; got {n_cells}. Ask for more cells."
        )
    with _open_output(Path(output), overwrite=overwrite) as root:
        truth = ground_truth(n_genes=n_genes, n_batches=n_batches, n_labels=n_labels, seed=seed)
        writer = RowWriter(
            root,
            _names("gene", n_genes),
            levels={"batch": _names("batch", n_batches), "cell_type": _names("type", n_labels)},
            numbers=["library_size"],
            index_dtype=np.int32 if n_cells * n_genes * _MOST_DENSE < 2**31 else np.int64,
        )
        with (progress or SilentProgress()).step("Simulating", n_cells) as advance:
            for block in _blocks(truth, n_cells, seed):
                writer.append(block)
                advance(block.row_sizes.size)
        writer.finish(
            var={"dispersion": truth.dispersion},
            varm={
                "type_profile": truth.type_profile.T,
                "batch_scale": truth.batch_scale.T,
                "batch_shift": truth.batch_shift.T,
            },
            uns={
                "simulation": {
                    "seed": seed,
                    "batch_library": truth.batch_library,
                    "batch_shares": truth.batch_shares,
                    "type_shares": truth.type_shares,
                }
            },
        )


@contextmanager
def _open_output(output: Path, *, overwrite: bool) -> Iterator[Any]:
    """Yield the root group of a store that takes the place of `output` when the block ends well."""
    import h5py
    import zarr

    if output.suffix == ".zarr":
        with atomic_directory(output, overwrite=overwrite) as scratch:
            yield zarr.open_group(scratch, mode="w", zarr_format=3)
    elif output.suffix == ".h5ad":
        if output.exists() and not overwrite:
            raise OutputExistsError(
                f"{output} exists already. Choose another output or overwrite it."
            )
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(output) as scratch,
            h5py.File(scratch, "w") as root,
            _room_to_close(scratch),
        ):
            yield root
    else:
        raise ConfigError(
            f"A simulated atlas is written as '.zarr' or '.h5ad'; got {output.name!r}. "
            "Give the output one of these suffixes."
        )


@contextmanager
def _room_to_close(scratch: Path) -> Iterator[None]:
    """Hold some room on the disk while the block writes HDF5, and give it back after.

    HDF5 ends the process when it cannot write what it holds while it closes a file.
    """
    reserve = scratch.with_name(f"{scratch.name}-reserve")
    try:
        with reserve.open("wb") as file:
            file.write(bytes(_RESERVE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        yield
    finally:
        reserve.unlink(missing_ok=True)


def _blocks(truth: GroundTruth, n_cells: int, seed: int) -> Iterator[RowBlock]:
    """Yield the cells in order; every block has a generator of its own."""
    n_genes = truth.dispersion.size
    batch_ends = np.cumsum(_batch_sizes(truth.batch_shares, n_cells))
    cumulative_shares = np.cumsum(truth.type_shares, axis=1, dtype=np.float64)
    # Pages of these buffers that no count reaches are never touched, so they cost no memory.
    data = np.empty(_BLOCK * n_genes, dtype=np.uint16)
    indices = np.empty(_BLOCK * n_genes, dtype=np.int32)
    width = len(str(n_cells - 1))
    for block, start in enumerate(range(0, n_cells, _BLOCK)):
        rng = generator(seed, Purpose.SIMULATE, _CELLS_PLACE, block)
        rows = np.arange(start, min(start + _BLOCK, n_cells))
        batch = np.searchsorted(batch_ends, rows, side="right").astype(np.int32)
        cell_type = _draw_types(rng, truth.type_shares, cumulative_shares, batch_ends, rows, batch)
        deviation = LIBRARY_LOG_SD * rng.standard_normal(rows.size, dtype=np.float32)
        library = truth.batch_library[batch] * np.exp(deviation)
        row_sizes = np.empty(rows.size, dtype=np.int64)
        nnz = _draw_counts(
            rng,
            library,
            batch,
            cell_type,
            truth.type_profile,
            truth.batch_scale,
            truth.batch_shift,
            truth.dispersion,
            data,
            indices,
            row_sizes,
        )
        yield RowBlock(
            data=data[:nnz].copy(),
            indices=indices[:nnz].copy(),
            row_sizes=row_sizes,
            names=np.array([f"cell_{row:0{width}d}" for row in rows], dtype=object),
            codes={"batch": batch, "cell_type": cell_type},
            numbers={"library_size": library},
        )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _draw_counts(
    rng: np.random.Generator,
    library: FloatArray,
    batch: NDArray[np.int32],
    cell_type: NDArray[np.int32],
    type_profile: FloatArray,
    batch_scale: FloatArray,
    batch_shift: FloatArray,
    dispersion: FloatArray,
    data: NDArray[np.uint16],
    indices: NDArray[np.int32],
    row_sizes: NDArray[np.int64],
) -> int:
    """Draw the counts of some cells into `data` and `indices`; return how many are not zero.

    Each count is the quantile of one uniform number. A count is positive with probability
    1 - (1 + mean / dispersion)^-dispersion <= mean, so most zeros cost one comparison.
    """
    nnz = 0
    for i in range(library.size):
        profile = type_profile[cell_type[i]]
        scale = batch_scale[batch[i]]
        shift = batch_shift[batch[i]]
        first = nnz
        for g in range(dispersion.size):
            mean = np.float64(library[i] * (scale[g] * profile[g] + shift[g]))
            upper = rng.random()
            if upper >= mean:
                continue
            theta = np.float64(dispersion[g])
            probability = np.exp(-theta * np.log1p(mean / theta))
            left = 1.0 - upper - probability
            if left <= 0.0:
                continue
            count = 0
            ratio = mean / (mean + theta)
            while left > 0.0 and count < _MAX_COUNT:
                count += 1
                probability *= ratio * (count - 1 + theta) / count
                left -= probability
                if probability < 1e-18 and count > mean:
                    break
            data[nnz] = count
            indices[nnz] = g
            nnz += 1
        row_sizes[i] = nnz - first
    return nnz


def _draw_types(
    rng: np.random.Generator,
    type_shares: FloatArray,
    cumulative_shares: NDArray[np.float64],
    batch_ends: NDArray[np.int64],
    rows: NDArray[np.int64],
    batch: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Draw the type of each cell, (m,); the first cells of a batch show each of its types once."""
    uniform = rng.random(rows.size) * cumulative_shares[batch, -1]
    below = cumulative_shares[batch] <= uniform[:, None]
    types: NDArray[np.int32] = below.sum(axis=1).astype(np.int32)
    place = rows - np.concatenate([[0], batch_ends])[batch]
    for i in np.flatnonzero(place < type_shares.shape[1]):
        present = np.flatnonzero(type_shares[batch[i]])
        if place[i] < present.size:
            # Turned by the batch, so that small batches together show every type.
            types[i] = present[(place[i] + batch[i]) % present.size]
    return types


def _batch_sizes(shares: FloatArray, n_cells: int) -> NDArray[np.int64]:
    """Split `n_cells` in proportion to `shares`, with at least two cells a batch."""
    wanted = shares.astype(np.float64) / shares.sum(dtype=np.float64) * (n_cells - 2 * shares.size)
    sizes: NDArray[np.int64] = np.floor(wanted).astype(np.int64)
    missing = n_cells - 2 * shares.size - int(sizes.sum())
    sizes[np.argsort(sizes - wanted, kind="stable")[:missing]] += 1
    return sizes + 2


def _names(kind: str, n: int) -> list[str]:
    """Return `n` names whose alphabetical order is that of their numbers."""
    width = len(str(n))
    return [f"{kind}_{i:0{width}d}" for i in range(1, n + 1)]

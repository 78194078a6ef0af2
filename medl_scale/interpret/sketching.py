"""The one pass that makes a sketch: latents put in order of their groups, decoded group by group."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.interpret.group_moments import group_moments
from medl_scale.interpret.grouping import grouped_latents
from medl_scale.interpret.sketch import Sketch
from medl_scale.interpret.sketch_files import SketchAxes, sketch_bytes, write_sketch

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from medl_scale.interpret.folded import FoldedDecoder
    from medl_scale.progress import Progress

__all__ = ["make_sketch"]

CHUNK_ROWS = 2048
"""Cells decoded at once: their activations and, where they are few, their expression."""


def make_sketch(
    path: str | os.PathLike[str],
    axes: SketchAxes,
    decoder: FoldedDecoder,
    blocks: Iterable[tuple[slice, NDArray[np.float32]]],
    groups: NDArray[np.integer[Any]],
    *,
    target_codes: Sequence[int],
    overwrite: bool = False,
    progress: Progress,
) -> Sketch:
    """Decode every cell under every target batch and keep the moments of each group.

    Parameters
    ----------
    path
        Where the sketch goes; a folder.
    axes
        What the numbers belong to.
    decoder
        Of a model whose latent does not depend on the batch.
    blocks
        Rows of the atlas and their latents, (m, n_latent) float32; every row once, in any order.
    groups
        (n_obs,) of each row: place of its label * number of source batches + place of its batch;
        -1 where it is left out.
    target_codes
        (n_targets,) batches of the decoder, in the order of `axes.targets`.

    Raises
    ------
    ConfigError
        If the disk has no room for it.
    DataError
        If the blocks do not hold every row once.
    OutputExistsError, StoreError
        If it cannot be written.

    Notes
    -----
    Memory is that of a few matrices of (targets or `CHUNK_ROWS`) x genes, whatever the number of
    cells; their latents lie in a scratch file on the disk of `path`.
    """
    target = Path(path)
    _, n_sources, _, _ = axes.shape
    _check_room(target, axes, decoder.n_latent)
    with (
        write_sketch(target, axes, overwrite=overwrite) as (folder, put),
        grouped_latents(blocks, groups, axes.n_cells.size, decoder.n_latent, folder) as latents,
        progress.step("Sketching", int(axes.n_cells.sum())) as advance,
    ):
        for group in np.flatnonzero(latents.counts).tolist():
            n_cells = int(latents.counts[group])
            chunks = partial(latents.chunks, group, CHUNK_ROWS)
            put(*divmod(group, n_sources), group_moments(decoder, chunks, n_cells, target_codes))
            advance(n_cells)
    return Sketch(target)


def _check_room(target: Path, axes: SketchAxes, n_latent: int) -> None:
    """Raise if the disk cannot hold the sketch and the scratch file of its latents."""
    place = target.absolute().parent
    while not place.exists():
        place = place.parent
    needed = sketch_bytes(axes) + int(axes.n_cells.sum()) * n_latent * 4
    free = shutil.disk_usage(place).free
    if needed > free:
        n_labels, n_sources, n_targets, n_genes = axes.shape
        raise ConfigError(
            f"A sketch of {n_labels} types x {n_sources} x {n_targets} batches x {n_genes:,} genes "
            f"takes up to {needed / 1e9:,.1f} GB; {place} has {free / 1e9:,.1f} GB free. Choose "
            "another output, or fewer target batches."
        )

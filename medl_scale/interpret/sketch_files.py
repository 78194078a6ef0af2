"""A sketch on disk: two Zarr arrays of moments, a table of counts, and the names of their axes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import zarr

from medl_scale.errors import RunError, StoreError
from medl_scale.store.atomic import atomic_directory
from medl_scale.store.seal import broken_files, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from medl_scale.interpret.group_moments import GroupMoments

    type Put = Callable[[int, int, GroupMoments], None]

__all__ = ["SketchAxes", "read_axes", "read_moments", "sketch_bytes", "write_sketch"]

_KIND = "medl_scale_sketch"
_FORMAT = 1
_MOMENTS = ("mean", "variance")


@dataclass(frozen=True, eq=False)
class SketchAxes:
    """What the numbers of a sketch belong to."""

    labels: tuple[str, ...]
    sources: tuple[str, ...]
    """Batches that cells come from."""
    targets: tuple[str, ...]
    """Batches that cells are decoded under."""
    genes: tuple[str, ...]
    n_cells: NDArray[np.int64]
    """(n_labels, n_sources)."""
    gene_sd: NDArray[np.float32]
    """(n_genes,) s.d. of each gene in the train split, log-normalised."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Run, model and fold."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Labels, sources, targets, genes."""
        return len(self.labels), len(self.sources), len(self.targets), len(self.genes)


def sketch_bytes(axes: SketchAxes) -> int:
    """Return the most bytes that the moments can take on disk; groups without cells take none."""
    return int(np.count_nonzero(axes.n_cells)) * len(axes.targets) * len(axes.genes) * 8


@contextmanager
def write_sketch(path: Path, axes: SketchAxes, *, overwrite: bool) -> Iterator[tuple[Path, Put]]:
    """Open a sketch for writing; it is at `path` when the block ends well, else nothing changes.

    The value of the context is a folder on the same disk, and a function that writes the moments of
    one label and source. Groups that are never written take no room, and read as NaN.

    Raises
    ------
    OutputExistsError
        If `path` exists and `overwrite` is false.
    StoreError
        If writing fails, for instance because the disk is full.
    """
    with atomic_directory(path, overwrite=overwrite) as folder:
        attributes = {
            "kind": _KIND,
            "format": _FORMAT,
            "labels": list(axes.labels),
            "sources": list(axes.sources),
            "targets": list(axes.targets),
            "genes": list(axes.genes),
            "provenance": dict(axes.provenance),
        }
        root = zarr.create_group(folder, zarr_format=3, attributes=attributes)
        root.create_array("n_cells", data=axes.n_cells)
        root.create_array("gene_sd", data=axes.gene_sd)
        arrays = {
            name: root.create_array(
                name,
                shape=axes.shape,
                chunks=(1, 1, *axes.shape[2:]),
                dtype=np.float32,
                fill_value=np.nan,
                dimension_names=("label", "source", "target", "gene"),
            )
            for name in _MOMENTS
        }

        def put(label: int, source: int, moments: GroupMoments) -> None:
            for name, values in zip(_MOMENTS, moments, strict=True):
                arrays[name][label, source] = values

        yield folder, put
        seal(folder)


def read_axes(path: Path) -> SketchAxes:
    """Return what the numbers of a sketch belong to, after seeing that no file is missing.

    Raises
    ------
    RunError
        If `path` holds no sketch.
    StoreError
        If files of it are missing or too short.
    """
    if not (path / "zarr.json").is_file():
        raise RunError(f"There is no sketch at {path}. Make one of a run first.")
    root = zarr.open_group(path, mode="r", zarr_format=3)
    about = cast("dict[str, Any]", root.attrs.asdict())
    if about.get("kind") != _KIND or about.get("format") != _FORMAT:
        raise RunError(
            f"{path} is not a sketch of format {_FORMAT}: its kind is {about.get('kind')!r}, format "
            f"{about.get('format')!r}. Make the sketch again."
        )
    broken = broken_files(path)
    if broken:
        raise StoreError(
            f"The sketch {path} is truncated: {len(broken):,} of its files are missing or too short, "
            f"such as {broken[0]}. Copy it again, or make it again."
        )
    return SketchAxes(
        labels=tuple(about["labels"]),
        sources=tuple(about["sources"]),
        targets=tuple(about["targets"]),
        genes=tuple(about["genes"]),
        n_cells=np.asarray(cast("Any", root["n_cells"])[...], np.int64),
        gene_sd=np.asarray(cast("Any", root["gene_sd"])[...], np.float32),
        provenance=about["provenance"],
    )


def read_moments(
    path: Path, name: Literal["mean", "variance"], label: int, source: int
) -> NDArray[np.float32]:
    """Return (n_targets, n_genes) float32 of one label and source; NaN where there is no cell."""
    array: Any = zarr.open_array(path / name, mode="r", zarr_format=3)
    return np.asarray(array[label, source], np.float32)

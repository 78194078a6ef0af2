"""The prepared atlas as the rest of the package sees it: a description, and its small columns.

Owns the manifest (`uns["medl_scale"]`), and tells a prepared atlas from anything else, whether it
lies on disk, at a URL or in memory. Writing one is left to `store.prepare`, reading rows to `stream`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import numpy as np

from medl_scale.config import InputUnits
from medl_scale.errors import AtlasError, ConfigError
from medl_scale.store.access import has_file
from medl_scale.store.elements import MANIFEST_KEY, DiskElements, Elements, MemoryElements
from medl_scale.store.places import is_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "Atlas",
    "AtlasRef",
    "Columns",
    "Split",
    "describe",
    "is_prepared",
    "manifest_of",
    "obs_names",
    "read_columns",
    "var_names",
]

type AtlasRef = str | os.PathLike[str] | AnnData
"""A prepared store at a path or a URL, or a prepared AnnData in memory."""

_FORMAT = 1
_UNLABELLED = -1


class Split(NamedTuple):
    """Rows of the store that train, validate and test in one fold."""

    train: tuple[slice, ...]
    val: slice
    test: slice


class Columns(NamedTuple):
    """What training needs to know of every cell besides its counts."""

    batch_codes: NDArray[np.int32]
    """(n_obs,), positions in `Atlas.batch_levels`."""
    label_codes: NDArray[np.int32]
    """(n_obs,), positions in `Atlas.label_levels`; -1 where unlabelled."""
    size_factors: NDArray[np.float32]
    """(n_obs,), the cell's total over all measured genes; 1 for log-normalised values."""


@dataclass(frozen=True)
class Atlas:
    """Description of a prepared atlas: picklable, with nothing open.

    Part p of the cross-validation holds the rows [part_bounds[p], part_bounds[p + 1]), shuffled.
    """

    path: str | None
    """Where it lies, a path or a URL; None for an AnnData in memory."""
    n_obs: int
    n_vars: int
    batch_key: str
    labels_key: str | None
    unlabeled_category: str
    batch_levels: tuple[str, ...]
    label_levels: tuple[str, ...]
    """Sorted, without `unlabeled_category`; empty without labels."""
    input_units: InputUnits
    target_sum: float
    part_bounds: tuple[int, ...]
    provenance: Mapping[str, Any]
    """Versions, inputs, configuration, date, and how many cells and genes were removed."""

    @property
    def n_folds(self) -> int:
        """Number of parts, hence of folds."""
        return len(self.part_bounds) - 1

    def split(self, fold: int) -> Split:
        """Return the rows of one fold: part `fold` tests, the next validates, the others train.

        Raises
        ------
        ConfigError
            If there is no such fold.
        """
        if not 0 <= fold < self.n_folds:
            raise ConfigError(
                f"fold must be one of 0 to {self.n_folds - 1}; got {fold!r}. "
                "Prepare the atlas with more folds, or choose one of these."
            )
        bounds = self.part_bounds
        parts = [slice(bounds[p], bounds[p + 1]) for p in range(self.n_folds)]
        following = (fold + 1) % self.n_folds
        around: tuple[slice, ...]
        if following > fold:
            around = (slice(0, bounds[fold]), slice(bounds[following + 1], self.n_obs))
        else:
            around = (slice(bounds[1], bounds[fold]),)
        train = tuple(rows for rows in around if rows.start < rows.stop)
        return Split(train=train, val=parts[following], test=parts[fold])


def describe(ref: AtlasRef) -> Atlas:
    """Read the manifest of a prepared atlas, and see that its matrix is whole.

    Raises
    ------
    AtlasError
        If `ref` is not a prepared atlas, or its manifest does not fit its matrix.
    StoreError
        If files of the store are missing or too short, or a URL cannot be reached.
    """
    return _describe(_elements(ref))


def is_prepared(ref: AtlasRef) -> bool:
    """Say whether `ref` carries the manifest of a prepared atlas.

    Raises
    ------
    StoreError
        If it is a URL that cannot be reached.
    """
    if isinstance(ref, str | os.PathLike):
        # An unfinished upload has a manifest, and no root.
        return has_file(ref, f"uns/{MANIFEST_KEY}/part_bounds/zarr.json") and (
            not is_url(ref) or has_file(ref, "zarr.json")
        )
    return "part_bounds" in (MemoryElements(ref).manifest() or {})


def read_columns(ref: AtlasRef) -> Columns:
    """Read the codes of batches and labels, and the size factors.

    Raises
    ------
    AtlasError
        If a column is missing, or holds levels that the manifest does not know.
    StoreError
        If the store is truncated.
    """
    elements = _elements(ref)
    atlas = _describe(elements)
    batch_codes = _codes(elements, atlas.batch_key, atlas.batch_levels, None)
    if np.any(batch_codes < 0):
        raise elements.changed(f"obs[{atlas.batch_key!r}] has missing values")
    label_codes = (
        np.full(atlas.n_obs, _UNLABELLED, np.int32)
        if atlas.labels_key is None
        else _codes(elements, atlas.labels_key, atlas.label_levels, atlas.unlabeled_category)
    )
    factors = elements.numbers("medl_size_factor").astype(np.float32)
    if not np.all(factors > 0):
        raise elements.changed("obs['medl_size_factor'] has values that are not positive")
    return Columns(batch_codes, label_codes, factors)


def obs_names(ref: AtlasRef) -> NDArray[np.object_]:
    """Return the names of the cells, (n_obs,) str, in the order of the atlas."""
    return _elements(ref).names("obs")


def var_names(ref: AtlasRef) -> NDArray[np.object_]:
    """Return the names of the genes, (n_vars,) str."""
    return _elements(ref).names("var")


def manifest_of(atlas: Atlas) -> dict[str, Any]:
    """Return what `uns["medl_scale"]` holds for `atlas`: strings, numbers and plain arrays."""
    return {
        "format": _FORMAT,
        "batch_key": atlas.batch_key,
        "labels_key": atlas.labels_key or "",
        "unlabeled_category": atlas.unlabeled_category,
        "batch_levels": np.asarray(atlas.batch_levels, dtype=str),
        "label_levels": np.asarray(atlas.label_levels, dtype=str),
        "input_units": atlas.input_units,
        "target_sum": float(atlas.target_sum),
        "part_bounds": np.asarray(atlas.part_bounds, dtype=np.int64),
        "provenance": json.dumps(atlas.provenance),
    }


def _elements(ref: AtlasRef) -> Elements:
    """Return the small elements of `ref`."""
    return DiskElements(ref) if isinstance(ref, str | os.PathLike) else MemoryElements(ref)


def _describe(elements: Elements) -> Atlas:
    """Return the description that a manifest holds, checked against the matrix."""
    place = elements.place
    manifest = elements.manifest()
    if manifest is None:
        raise AtlasError(
            f"{place} is not a prepared atlas: uns[{MANIFEST_KEY!r}] holds no manifest. "
            "Make one with `medl-scale prepare`."
        )
    n_obs, n_vars = elements.shape()
    try:
        version = int(manifest["format"])
        atlas = Atlas(
            path=elements.path if isinstance(elements, DiskElements) else None,
            n_obs=n_obs,
            n_vars=n_vars,
            batch_key=str(manifest["batch_key"]),
            labels_key=str(manifest["labels_key"]) or None,
            unlabeled_category=str(manifest["unlabeled_category"]),
            batch_levels=tuple(map(str, manifest["batch_levels"])),
            label_levels=tuple(map(str, manifest["label_levels"])),
            input_units=cast("InputUnits", str(manifest["input_units"])),
            target_sum=float(manifest["target_sum"]),
            part_bounds=tuple(map(int, manifest["part_bounds"])),
            provenance=json.loads(str(manifest["provenance"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AtlasError(
            f"The manifest of {place} cannot be read ({error!r}). Prepare the atlas again."
        ) from error
    if version != _FORMAT or atlas.input_units not in get_args(InputUnits):
        raise AtlasError(
            f"The manifest of {place} has format {version} and units {atlas.input_units!r}; this "
            f"version reads format {_FORMAT}. Update medl-scale, or prepare the atlas again."
        )
    if atlas.part_bounds[-1] != n_obs:
        raise elements.changed(
            f"its manifest describes {atlas.part_bounds[-1]:,} cells, its matrix has {n_obs:,}"
        )
    return atlas


def _codes(
    elements: Elements, key: str, levels: tuple[str, ...], unlabeled: str | None
) -> NDArray[np.int32]:
    """Return positions in `levels` of a column's values, -1 where `unlabeled` or missing."""
    column = elements.categorical(key)
    position = {level: code for code, level in enumerate(levels)}
    present = {column.levels[code] for code in np.unique(column.codes) if code >= 0}
    unknown = sorted(present - position.keys() - {unlabeled})
    if unknown:
        listed = ", ".join(repr(level) for level in unknown[:5])
        raise elements.changed(f"obs[{key!r}] has levels unknown to the manifest: {listed}")
    # One more entry than there are levels, so that code -1 (missing) gathers the last: -1.
    table = [position.get(level, _UNLABELLED) for level in column.levels] + [_UNLABELLED]
    codes: NDArray[np.int32] = np.array(table, np.int32)[column.codes]
    return codes

"""Where latents come from: in the attributes of their arrays, and as a copy for readers of AnnData."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from medl_scale.store.access import folders_in, read_file
from medl_scale.store.places import join

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PROVENANCE", "UNS_KEY", "copy_of_provenance", "latent_attributes"]

PROVENANCE = "medl_scale"
"""Attribute of a latent's array."""
UNS_KEY = "medl_scale_latents"
"""Key of the copy in uns."""


def copy_of_provenance(store: str, scratch: Path) -> Path:
    """Write what the attributes of all latents in `obsm` say as a group in `scratch`; return it."""
    from anndata.io import write_elem

    provenance = {}
    for key in folders_in(join(store, "obsm")):
        document = read_file(store, f"obsm/{key}/zarr.json") or b'{"attributes": {}}'
        attributes = json.loads(document)["attributes"]
        if PROVENANCE in attributes:
            provenance[key] = _readable(attributes[PROVENANCE])
    group = zarr.create_group(scratch / "uns", zarr_format=3)
    write_elem(group, UNS_KEY, provenance)
    return scratch / "uns" / UNS_KEY


def latent_attributes(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a latent's array."""
    return {
        "encoding-type": "array",
        "encoding-version": "0.2.0",
        PROVENANCE: _plain(provenance),
    }


def _plain(value: Mapping[str, Any]) -> Any:
    """Return `value` as JSON would read it back; paths, dates and the like become strings."""

    def simplify(item: Any) -> Any:
        return item.tolist() if isinstance(item, np.ndarray | np.generic) else str(item)

    return json.loads(json.dumps(dict(value), default=simplify))


def _readable(value: Any) -> Any:
    """Return `value` with lists that anndata cannot write as JSON text."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            return np.array(value, dtype=object)
        if value and all(type(item) in {int, float} for item in value):
            return np.array(value)
        return json.dumps(value)
    return value

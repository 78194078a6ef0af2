"""The atlas that a run was made from: where it lies, and whether it is the one its models know."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from medl_scale.errors import AtlasError, RunError
from medl_scale.store.atlas import is_prepared, var_names

if TYPE_CHECKING:
    from medl_scale.pipeline.run import Run
    from medl_scale.store.atlas import Atlas, AtlasRef
    from medl_scale.train.fitted import Vocabulary

__all__ = ["atlas_of", "check_fits"]


def atlas_of(run: Run, atlas: AtlasRef | None) -> AtlasRef:
    """Return where the cells of a run are.

    Parameters
    ----------
    atlas
        Where they are if not where the run was made.

    Raises
    ------
    RunError
        If they are not there.
    """
    ref = atlas if atlas is not None else run.atlas_path
    if ref is None:
        raise RunError(
            f"The run {run.path} was fitted on an AnnData in memory. Give it with atlas=adata."
        )
    if isinstance(ref, str | os.PathLike) and not is_prepared(ref):
        raise RunError(
            f"The run {run.path} was made from the atlas {ref}, which is not there. Name its new place "
            "with --atlas."
        )
    return ref


def check_fits(ref: AtlasRef, atlas: Atlas, vocabulary: Vocabulary, place: str) -> None:
    """Raise unless an atlas has a model's genes and batches, in its order.

    Raises
    ------
    AtlasError
        Counts what is missing, and names some.
    """
    genes = tuple(str(name) for name in var_names(ref))
    for what, found, expected in (
        ("genes", genes, vocabulary.var_names),
        ("batches", atlas.batch_levels, vocabulary.batch_levels),
    ):
        if found == expected:
            continue
        missing = sorted(set(expected) - set(found))
        shown = f", such as {', '.join(map(repr, missing[:3]))}" if missing else ""
        raise AtlasError(
            f"The {what} of {place} are not those of the run's model, in its order: it has "
            f"{len(found):,}, the model {len(expected):,}, of which {len(missing):,} are missing"
            f"{shown}. Give the atlas that the run was made from with --atlas."
        )

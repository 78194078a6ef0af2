"""The pictures people expect of a run, gathered for its report and written into its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medl_scale.config import MODELS_WITH_EFFECTS
from medl_scale.errors import DataError, MedlError, RunError
from medl_scale.interpret.dendrogram import dendrogram
from medl_scale.interpret.effect_distances import effect_distances
from medl_scale.pipeline.effects import run_effects
from medl_scale.pipeline.sketching import open_sketch
from medl_scale.pipeline.umaps import MAX_CELLS, umaps_of
from medl_scale.progress import SilentProgress
from medl_scale.report.confusion import confusion_map
from medl_scale.report.distances import distances_map
from medl_scale.report.heat_map import heat_map_svg, standalone
from medl_scale.report.heat_map_png import heat_map_png
from medl_scale.report.score_table import score_table
from medl_scale.report.umap_sheet import umap_sheet
from medl_scale.store.atlas import describe
from medl_scale.store.atomic import atomic_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.report.heat_map import HeatMap
    from medl_scale.report.umaps import UmapPicture
    from medl_scale.store.atlas import AtlasRef

__all__ = ["PICTURES_FOLDER", "Drawing", "Pictures", "gather_pictures", "write_pictures"]

type Kind = Literal["umaps", "confusions", "distances"]
"""What there may be none of; as the fields of `Pictures` are named."""

PICTURES_FOLDER = "pictures"
_TESTED = "test"


@dataclass(frozen=True, eq=False)
class Drawing:
    """A heat map with its words."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    shown: HeatMap

    @property
    def svg(self) -> str:
        """For a page, in the page's colours."""
        return heat_map_svg(self.shown)


@dataclass(frozen=True, eq=False)
class Pictures:
    """What there is to be seen of a run."""

    umaps: tuple[UmapPicture, ...]
    confusions: tuple[Drawing, ...]
    """One for each space and target that forests were asked, on test cells of all folds."""
    distances: tuple[Drawing, ...]
    """One for each model whose output has random effects."""
    summary: pd.DataFrame | None
    """Scores over folds."""
    batch_key: str | None
    missing: Mapping[Kind, str]
    """Why there are none, or not all, of a kind, and what would bring them."""


def gather_pictures(
    run: Run,
    *,
    atlas: AtlasRef | None = None,
    umaps: bool = True,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
    colour_by: Sequence[str] = (),
    progress: Progress | None = None,
) -> Pictures:
    """Return all pictures that a run gives.

    Parameters
    ----------
    run
        A run.
    atlas
        The run's atlas, if it was moved or is in memory.
    umaps
        Embed the latents, which takes most of the time.
    max_cells, seed, colour_by
        As for `pipeline.umaps.umaps_of`.
    progress
        Where to report to.

    Notes
    -----
    What cannot be drawn is told in `missing`, and the rest is drawn.
    """
    missing: dict[Kind, str] = {}
    found: list[UmapPicture] = []
    batch_key = None
    try:
        if umaps:
            found = umaps_of(
                run,
                atlas=atlas,
                max_cells=max_cells,
                seed=seed,
                colour_by=colour_by,
                progress=progress,
            )
    except MedlError as error:
        missing["umaps"] = f"There are no UMAPs. {error}"
    confusions: list[Drawing] = []
    summary = None
    try:
        scores = run.scores
        summary = None if scores.summary.empty else scores.summary
        confusions = _confusions(scores.confusion, run)
    except MedlError as error:
        missing["confusions"] = f"There is no confusion of cell types. {error}"
    distances: list[Drawing] = []
    without: list[str] = []
    for model in MODELS_WITH_EFFECTS:
        if model not in run.models:
            continue
        try:
            distances.append(_distances(run, model))
        except MedlError as error:
            without.append(f"There are no distances between batches by {model}. {error}")
    if not set(MODELS_WITH_EFFECTS) & set(run.models):
        without.append(
            "There are no distances between batches: no model of the run has random effects. Fit one "
            "with `medl-scale fit ATLAS --models me`."
        )
    if without:
        missing["distances"] = " ".join(without)
    ref = atlas if atlas is not None else run.atlas_path
    try:
        batch_key = None if ref is None else describe(ref).batch_key
    except (MedlError, OSError):
        # Without it, the table of scores only tells less about which end of a column is good.
        batch_key = None
    return Pictures(tuple(found), tuple(confusions), tuple(distances), summary, batch_key, missing)


def write_pictures(
    run: Run,
    pictures: Pictures | None = None,
    *,
    atlas: AtlasRef | None = None,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Path]:
    """Write pictures of a run into its folder `pictures`, which is replaced as a whole.

    Parameters
    ----------
    run
        A run.
    pictures
        What `gather_pictures` found; gathered here by default, with the other settings.

    Returns
    -------
    Paths of `umaps.png`, and, as PNG and SVG each, `scores`, `confusion_<space>` and
    `distances_<model>`, as far as there is something to draw.

    Raises
    ------
    StoreError
        If writing fails; the folder then is as it was.
    """
    shown = progress or SilentProgress()
    if pictures is None:
        pictures = gather_pictures(run, atlas=atlas, max_cells=max_cells, seed=seed, progress=shown)
        for sentence in pictures.missing.values():
            shown.note(sentence)
    folder = run.path / PICTURES_FOLDER
    drawings = (*pictures.confusions, *pictures.distances)
    with atomic_directory(folder, overwrite=True) as scratch:
        if pictures.umaps:
            (scratch / "umaps.png").write_bytes(umap_sheet(pictures.umaps))
        if pictures.summary is not None:
            for form in ("png", "svg"):
                picture = score_table(pictures.summary, form, batch_key=pictures.batch_key)
                (scratch / f"scores.{form}").write_bytes(picture)
        for drawing in drawings:
            (scratch / f"{drawing.name}.svg").write_text(standalone(drawing.svg), encoding="utf-8")
            (scratch / f"{drawing.name}.png").write_bytes(
                heat_map_png(drawing.shown, drawing.title)
            )
    return sorted(folder.iterdir())


def _confusions(table: pd.DataFrame, run: Run) -> list[Drawing]:
    """Return what forests confuse, for each target and space."""
    tested = table[table["split"] == _TESTED]
    if tested.empty:
        raise DataError(
            "No forest was asked for test cells. Ask with `medl-scale evaluate "
            f"{run.path} --metrics forest`; labels are needed, or --targets."
        )
    drawings: list[Drawing] = []
    targets = list(dict.fromkeys(tested["target"]))
    for target in targets:
        for space in dict.fromkeys(tested["space"]):
            own = tested[(tested["target"] == target) & (tested["space"] == space)]
            if own.empty:
                continue
            n, right = (
                int(own["n"].sum()),
                int(own.loc[own["truth"] == own["predicted"], "n"].sum()),
            )
            folds = own["fold"].nunique()
            stem = f"confusion_{space}" if target == targets[0] else f"confusion_{space}_{target}"
            title = f"{target} told from {space}"
            drawings.append(
                Drawing(
                    _file_stem(stem, [drawing.name for drawing in drawings]),
                    title,
                    f"{target} of {n:,} test cells{f' of {folds} folds' if folds > 1 else ''}, told from "
                    f"{space} by a random forest grown on the train cells: {right:,} rightly "
                    f"({100 * right / n:.1f} %). Rows are shares of the cells of one class, in per cent; the "
                    "outlined diagonal is what is told rightly.",
                    confusion_map(own, title=title),
                )
            )
    return drawings


def _distances(run: Run, model: str) -> Drawing:
    """Return how far batches are from each other by one model: by its sketch, else by its effects."""
    title = f"Distances between batches by {model}"
    try:
        sketch = open_sketch(run, model=model)
        found = sketch.distances()
        how = (
            "Root mean square, over genes, cell types and source batches, of how differently the same cells "
            f"look as if they came from the one and from the other batch ({model}'s sketch)"
        )
    except (RunError, DataError):
        # No sketch, or one of too few cells: the effects are always there.
        found = effect_distances(run_effects(run, model, None))
        how = (
            "Root mean square, over genes and cells, of how differently two batches move the same cell in "
            f"the output layer of {model}; hidden layers, and what differs between cell types, are not part "
            "of it"
        )
    tree = dendrogram(found)
    return Drawing(
        _file_stem(f"distances_{model}", []),
        title,
        f"{how}, in s.d. of the gene, at the posterior mean. Average linkage. Groups in the tree are a "
        "description: no test says that there are any.",
        distances_map(tree.distances, tree.names, tree.linkage, title=title),
    )


def _file_stem(name: str, taken: Sequence[str]) -> str:
    """Return a name that every file system takes, other than those taken."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name.replace(" + ", "_and_")).strip("._")[:100]
    same = {other.lower() for other in taken}
    stem, number = plain, 2
    while stem.lower() in same:
        stem, number = f"{plain}_{number}", number + 1
    return stem

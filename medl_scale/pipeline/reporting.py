"""`report`: gathers what a run holds, and writes it as one page."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medl_scale.config import MODELS_WITH_EFFECTS
from medl_scale.errors import MedlError
from medl_scale.pipeline.checking import CHECK_FILE, check_what_if
from medl_scale.pipeline.genomaps import run_layout
from medl_scale.pipeline.pictures import gather_pictures, write_pictures
from medl_scale.pipeline.preparing import as_progress
from medl_scale.pipeline.report_facts import data_facts, effect_facts, fit_facts, score_facts
from medl_scale.pipeline.run import Run
from medl_scale.pipeline.what_if import gather_viewer
from medl_scale.report.markup import Html, element, items, paragraph, phrase
from medl_scale.report.page import page_html, write_page
from medl_scale.report.sections.data import data_section
from medl_scale.report.sections.effects import effects_section
from medl_scale.report.sections.fits import curves_section, fits_section
from medl_scale.report.sections.missing import Missing
from medl_scale.report.sections.pictures import (
    Drawn,
    confusion_section,
    distances_section,
    umaps_section,
)
from medl_scale.report.sections.scores import ScoreFacts, best_latents, scores_section
from medl_scale.report.sections.what_if import (
    VIEWER_ID,
    check_in_brief,
    check_section,
    viewer_section,
)
from medl_scale.report.sections.words import footer, words_section
from medl_scale.report.viewer import viewer_html
from medl_scale.store.atomic import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from medl_scale.interpret.check import WhatIfCheck
    from medl_scale.pipeline.pictures import Pictures
    from medl_scale.progress import Progress
    from medl_scale.report.page import Section
    from medl_scale.report.sections.data import DataFacts
    from medl_scale.report.sections.fits import FitFacts
    from medl_scale.report.umaps import UmapPicture
    from medl_scale.store.atlas import AtlasRef

__all__ = ["REPORT_FILE", "report"]

REPORT_FILE = "report.html"


def report(
    run: Run | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    atlas: AtlasRef | None = None,
    umaps: bool = True,
    check: bool = True,
    viewer: bool = True,
    seed: int = 0,
    progress: bool | Progress = True,
) -> Path:
    """Write what a run holds as one page that needs no network.

    Parameters
    ----------
    run
        A run, or its folder.
    output
        `.html`; `report.html` in the run's folder by default. A report that is there is replaced.
    atlas
        The run's atlas, if it was moved or is in memory. What takes cells is left out of the report
        where they are not found, and the report says so.
    umaps, check, viewer
        What takes most of the time, to be left out: the UMAPs; the check of the what-if; its viewer.
    seed
        Of everything that is drawn at random.
    progress
        Show progress, or where to report to.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ConfigError
        If the output does not end in `.html`.
    RunError, StoreError
        If the folder holds no run, is damaged, or the page cannot be written.

    Examples
    --------
    >>> medl_scale.report("runs/atlas")
    PosixPath('runs/atlas/report.html')
    """
    opened = run if isinstance(run, Run) else Run(run)
    path = Path(output) if output is not None else opened.path / REPORT_FILE
    shown = as_progress(progress)
    again = f"medl-scale report {opened.path}"

    data, fits, scores = data_facts(opened, atlas), fit_facts(opened), score_facts(opened)
    with _layout_aside(opened, atlas, wanted=viewer):
        checked = (
            _check(opened, atlas, seed, shown)
            if check
            else Missing("The check was left out when this report was written.", again)
        )
        pictures = gather_pictures(opened, atlas=atlas, umaps=umaps, seed=seed, progress=shown)
        _keep_pictures(opened, pictures, shown)
    asked = (
        _viewer(opened, atlas, seed, shown)
        if viewer
        else Missing("The viewer was left out when this report was written.", again)
    )
    sections: list[Section] = [
        data_section(data),
        fits_section(fits),
        scores_section(scores),
        umaps_section(_umaps(pictures, umaps=umaps, again=again)),
        confusion_section(_drawn(pictures, "confusions")),
        curves_section(fits),
        effects_section(effect_facts(opened)),
        distances_section(_drawn(pictures, "distances")),
        check_section(checked),
        viewer_section(asked),
        words_section(version("medl-scale")),
    ]
    page = page_html(
        f"Report of the run {opened.path.resolve().name}",
        _lead(data, fits, scores, checked, has_viewer=isinstance(asked, Html)),
        sections,
        footer(version("medl-scale"), time.strftime("%Y-%m-%d %H:%M")),
    )
    return write_page(page, path)


@contextmanager
def _layout_aside(run: Run, atlas: AtlasRef | None, *, wanted: bool) -> Iterator[None]:
    """Learn the viewer's layout beside other work: it takes long, and mostly one core."""
    if not wanted or not set(MODELS_WITH_EFFECTS) & set(run.models):
        yield
        return
    with ThreadPoolExecutor(1) as aside:
        # What keeps it from being learnt, the viewer meets again and tells.
        aside.submit(_layout_on_one_core, run, atlas)
        yield


def _layout_on_one_core(run: Run, atlas: AtlasRef | None) -> None:
    """Learn the layout without threads that would wait, spinning, for the cores of other work."""
    from threadpoolctl import threadpool_limits

    # A limit of OpenMP's holds for the thread that sets it.
    with threadpool_limits(1, user_api="openmp"):
        run_layout(run, atlas=atlas, progress=False)


def _keep_pictures(run: Run, pictures: Pictures, progress: Progress) -> None:
    """Leave the pictures in the run too; a page is written even where there is no room for them."""
    try:
        write_pictures(run, pictures, progress=progress)
    except MedlError as error:
        progress.note(f"The pictures are in the report, but not in the run's folder: {error}")


def _umaps(pictures: Pictures, *, umaps: bool, again: str) -> Sequence[UmapPicture] | Missing:
    """Return the UMAPs, or why there are none."""
    if not umaps:
        return Missing("The UMAPs were left out when this report was written.", again)
    return pictures.umaps or Missing(pictures.missing["umaps"])


def _drawn(pictures: Pictures, kind: Literal["confusions", "distances"]) -> list[Drawn] | Missing:
    """Return drawings for the page, or why there are none."""
    drawings = pictures.confusions if kind == "confusions" else pictures.distances
    found = [Drawn(one.title, one.caption, Html(one.svg)) for one in drawings]
    return found or Missing(pictures.missing[kind])


def _check(
    run: Run, atlas: AtlasRef | None, seed: int, progress: Progress
) -> WhatIfCheck | Missing:
    """Return how far the run's what-if can be trusted, and leave its pairs in the run."""
    try:
        found = check_what_if(run, atlas=atlas, seed=seed, progress=progress)
    except MedlError as error:
        return Missing(str(error))
    with atomic_file(run.path / CHECK_FILE) as scratch:
        found.pairs.to_csv(scratch, index=False, float_format="%.6g")
    return found


def _viewer(run: Run, atlas: AtlasRef | None, seed: int, progress: Progress) -> Html | Missing:
    """Return the viewer of the run's what-if."""
    try:
        return Html(viewer_html(gather_viewer(run, atlas=atlas, seed=seed, progress=progress)))
    except MedlError as error:
        return Missing(str(error))


def _lead(
    data: DataFacts,
    fits: FitFacts,
    scores: ScoreFacts | Missing,
    checked: WhatIfCheck | Missing,
    *,
    has_viewer: bool,
) -> Html:
    """Return the run in a few sentences."""
    models = dict.fromkeys(str(fit["model"]) for fit in fits.fits)
    folds = {fit["fold"] for fit in fits.fits}
    done = sum(fit["state"] == "done" for fit in fits.fits)
    of_folds = f"{len(folds)} folds" if len(folds) > 1 else f"fold {min(folds)}"
    first = paragraph(
        f"{', '.join(models)} on {data.n_obs:,} cells and {data.n_vars:,} genes of {data.n_batches:,} "
        f"batches, {of_folds}: {done} of {len(fits.fits)} fits are finished.",
        class_="lead",
    )
    said: list[object] = []
    if not isinstance(scores, Missing):
        said += best_latents(scores)
    if not isinstance(checked, Missing):
        brief = check_in_brief(checked)
        said += (
            [] if brief is None else [phrase(brief, " ", element("a", "More", href="#check"), ".")]
        )
    n_warnings = sum(len(messages) for messages in fits.warnings.values())
    if n_warnings:
        said.append(
            phrase(
                f"{n_warnings} warning{'s' if n_warnings > 1 else ''} of the fits: ",
                element("a", "read them", href="#fits"),
                ".",
            )
        )
    if has_viewer:
        said.append(
            element("a", "Ask what a cell would look like in another batch.", href=f"#{VIEWER_ID}")
        )
    return phrase(first, element("div", items(said), class_="brief") if said else "")

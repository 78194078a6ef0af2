"""What follows training: curves, scores, effects and the report. None of it may cost a fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from medl_scale.errors import MedlError

if TYPE_CHECKING:
    from distributed import Client  # noqa: TID251 - what users have in their hands

    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef

__all__ = ["draw_curves", "score", "write_effects", "write_report"]

LEAST_EVALUATION_S = 600.0


def draw_curves(run: Run) -> None:
    """Leave a picture of the training curves in the run."""
    from medl_scale.report.curves import losses_of, training_curves

    history = run.history
    if not history.empty:
        training_curves(losses_of(history), run.path / "curves.png")


def score(
    run: Run,
    ref: AtlasRef,
    progress: Progress,
    *,
    client: Client | None,
    seconds: float,
) -> None:
    """Score what was fitted; what keeps it from that is told, and costs no fit."""
    from medl_scale.pipeline.evaluating import evaluate

    try:
        evaluate(
            run,
            atlas=ref,
            max_seconds=max(LEAST_EVALUATION_S, seconds),
            seed=run.config.train.seed,
            client=client,
            progress=progress,
        )
    except MedlError as error:
        warnings.warn(
            f"The latents were not scored: {error} Score them with `medl-scale evaluate {run.path}`.",
            UserWarning,
            stacklevel=3,
        )


def write_report(run: Run, ref: AtlasRef, progress: Progress) -> None:
    """Leave a page on the run in it; what keeps it from that is told, and costs no fit."""
    from medl_scale.pipeline.reporting import report

    try:
        report(run, atlas=ref, seed=run.config.train.seed, progress=progress)
    except Exception as error:  # noqa: BLE001 - fits may have taken days, a page takes a minute
        warnings.warn(
            f"No report was written: {error} Try again with `medl-scale report {run.path}`.",
            UserWarning,
            stacklevel=3,
        )


def write_effects(run: Run, progress: Progress) -> None:
    """Leave the tables of random effects in the run; what keeps it from that costs no fit."""
    from medl_scale.pipeline.effect_files import write_run_effects

    try:
        write_run_effects(run, progress=progress)
    except MedlError as error:
        warnings.warn(
            f"The random effects were not written: {error} Write them with `medl-scale effects "
            f"{run.path} -o effects.csv`.",
            UserWarning,
            stacklevel=3,
        )

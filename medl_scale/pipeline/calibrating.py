"""How far a run's credible intervals must be widened, learnt from its validation cells and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medl_scale.errors import ConfigError, DataError, StoreError
from medl_scale.interpret.calibration import Calibration, OwnIntervals, calibrate
from medl_scale.pipeline.held_out import held_out_residuals
from medl_scale.pipeline.run_files import fit_folder
from medl_scale.store.atomic import atomic_file
from medl_scale.train.fitted import MODEL_FILE

if TYPE_CHECKING:
    from medl_scale.config import ProjectConfig
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef
    from medl_scale.train.fitted import FittedNetwork

__all__ = ["CALIBRATION_FILE", "calibration_of", "intervals_of"]

CALIBRATION_FILE = "calibration.json"


def intervals_of(
    run: Run, model: FittedNetwork, fold: int, config: ProjectConfig, atlas: AtlasRef
) -> Calibration | OwnIntervals:
    """Return how wide the intervals of a projection are, as its settings ask.

    Raises
    ------
    ConfigError
        If calibrated ones are asked for with `switch="decoder"` of a model that switches both sides.
    DataError
        If calibrated ones are asked for, and labels or cells do not suffice.
    """
    if config.intervals == "model":
        return OwnIntervals()
    try:
        if model.network.encoder_effects and config.switch == "decoder":
            raise ConfigError(
                "Intervals of 're' are calibrated with both sides switched; got switch='decoder'. Use "
                "switch='both', or intervals='model'."
            )
        return calibration_of(run, model=config.model, fold=fold, atlas=atlas)
    except (ConfigError, DataError) as error:
        if config.intervals == "calibrated":
            raise
        return OwnIntervals(str(error))


def calibration_of(
    run: Run,
    *,
    model: str = "me",
    fold: int | None = None,
    atlas: AtlasRef | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Return by how much a model's intervals are to be widened; made once and kept in the run.

    Parameters
    ----------
    run
        A run with the finished model.
    model
        `me` or `re`.
    fold
        Whose model and validation cells; the run's first by default.
    atlas
        The run's atlas, if it was moved or is in memory.
    seed
        Of the draw of moves, where there are more than 300, and of the posterior draws.
    progress
        Where to report to.

    Raises
    ------
    DataError
        If the atlas has no labels, or too few validation cells.
    ConfigError, RunError, AtlasError
        If the model has no random effects, is not finished, or the atlas is not the run's.
    """
    number = run.folds[0] if fold is None else fold
    folder = fit_folder(run.path, model, number)
    path = folder / CALIBRATION_FILE
    if path.exists() and path.stat().st_mtime_ns >= (folder / MODEL_FILE).stat().st_mtime_ns:
        return Calibration.read(path)
    found = held_out_residuals(
        run, model=model, fold=number, atlas=atlas, seed=seed, progress=progress
    )
    calibration = Calibration(
        model=model,
        fold=number,
        split="validation",
        n_pairs=len(found.projection.error),
        n_groups=found.n_groups,
        projection=calibrate(found.projection),
        difference=calibrate(found.difference),
    )
    try:
        with atomic_file(path) as scratch:
            calibration.write(scratch)
    except (StoreError, PermissionError):
        # A run that may only be read is calibrated every time.
        pass
    return calibration

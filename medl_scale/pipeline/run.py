"""What users ask of a run: its models, their effects, and cells as if they came from other batches.

Reading what a fit left is in `run_files`; how each question is answered is in the module of its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medl_scale.pipeline.preparing import as_progress
from medl_scale.pipeline.run_files import (
    ENVIRONMENT_FILE,
    ERROR_FILE,
    HISTORY_FILE,
    SETTINGS_FILE,
    RunFiles,
    fit_folder,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from medl_scale.config import (
        ComparedTest,
        ComparedValues,
        IntervalSource,
        LayoutMethod,
        ProjectedUnits,
        ScoredSplit,
        SwitchedSides,
    )
    from medl_scale.interpret.check import WhatIfCheck
    from medl_scale.interpret.sketch import Sketch
    from medl_scale.pipeline.cells import Cells
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef

__all__ = ["ENVIRONMENT_FILE", "ERROR_FILE", "HISTORY_FILE", "SETTINGS_FILE", "Run", "fit_folder"]


class Run(RunFiles):
    """A folder that `fit` wrote; it can be moved, and serves new cells without the atlas.

    Parameters
    ----------
    path
        The run's folder.

    Raises
    ------
    RunError
        If the folder holds no run.
    """

    def posterior(
        self, model: str, batch: str, layer: str | None = None, *, fold: int | None = None
    ) -> Any:
        """Return the posterior of one batch's random effects.

        Parameters
        ----------
        model
            `me` or `re`.
        batch
            Name of a batch.
        layer
            `encoder0`, `decoder0`, ...; by default the output layer, whose effects are per gene.
        fold
            Whose model; the run's first fold by default.

        Returns
        -------
        `tfp.distributions.Independent` with event shape (2, width): scales, then shifts.

        Raises
        ------
        ConfigError
            If the model has no random effects, or no such layer or batch.
        """
        from medl_scale.pipeline.effects import batch_posterior

        return batch_posterior(self, model, fold, batch, layer)

    def effects(
        self,
        model: str = "me",
        *,
        fold: int | None = None,
        batches: Sequence[str] | None = None,
        genes: Sequence[str] | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Return the output layer's random effects, one row per gene and batch.

        See `pipeline.effects.effect_table`.
        """
        from medl_scale.pipeline.effects import effect_table

        return effect_table(self, model, fold, batches=batches, genes=genes, level=level)

    def moved_genes(
        self,
        model: str = "me",
        *,
        fold: int | None = None,
        batches: Sequence[str] | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Return all genes, those first that batches surely move most.

        See `pipeline.effects.moved_gene_table`.
        """
        from medl_scale.pipeline.effects import moved_gene_table

        return moved_gene_table(self, model, fold, batches=batches, level=level)

    def embed(
        self,
        adata: str | os.PathLike[str] | AnnData,
        *,
        models: tuple[str, ...] | None = None,
        fold: int | None = None,
        layer: str | None = None,
        progress: bool | Progress = True,
    ) -> AnnData:
        """Return latents of new cells.

        See `pipeline.embedding.embed`.
        """
        from medl_scale.pipeline.embedding import embed

        return embed(
            self,
            adata,
            models=models,
            fold=self.folds[0] if fold is None else fold,
            layer=layer,
            progress=as_progress(progress),
        )

    def project(
        self,
        cells: Cells,
        as_batch: str | Sequence[str],
        *,
        model: str = "me",
        fold: int | None = None,
        units: ProjectedUnits = "lognorm",
        draws: int = 0,
        level: float = 0.95,
        intervals: IntervalSource = "auto",
        switch: SwitchedSides = "both",
        with_reconstructions: bool = True,
        seed: int = 0,
        atlas: AtlasRef | None = None,
        max_bytes: int | None = None,
        progress: bool | Progress = True,
    ) -> AnnData:
        """Return cells of the run's atlas as if they came from other batches.

        See `pipeline.projecting.project`.
        """
        from medl_scale.config import ProjectConfig
        from medl_scale.pipeline.projecting import project

        config = ProjectConfig(
            model=model,
            fold=fold,
            units=units,
            draws=draws,
            level=level,
            intervals=intervals,
            switch=switch,
            with_reconstructions=with_reconstructions,
            seed=seed,
            max_bytes=max_bytes,
        )
        return project(self, cells, as_batch, config, atlas=atlas, progress=as_progress(progress))

    def sketch(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        model: str = "me",
        fold: int | None = None,
        as_batch: Sequence[str] | None = None,
        split: ScoredSplit = "all",
        atlas: AtlasRef | None = None,
        overwrite: bool = False,
        progress: bool | Progress = True,
    ) -> Sketch:
        """Decode every cell of the atlas under every batch, and keep means and variances.

        See `pipeline.sketching.sketch`; `open_sketch` returns what was made before.
        """
        from medl_scale.pipeline.sketching import sketch

        return sketch(
            self,
            output,
            model=model,
            fold=fold,
            as_batch=as_batch,
            split=split,
            atlas=atlas,
            overwrite=overwrite,
            progress=progress,
        )

    def open_sketch(self, *, model: str = "me", fold: int | None = None) -> Sketch:
        """Return the sketch that `sketch` left in this run; see `pipeline.sketching.open_sketch`."""
        from medl_scale.pipeline.sketching import open_sketch

        return open_sketch(self, model=model, fold=fold)

    def genomap(
        self,
        cells: Cells,
        as_batch: str | Sequence[str],
        outputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        model: str = "me",
        method: LayoutMethod = "map2d",
        fold: int | None = None,
        n_labelled: int = 10,
        atlas: AtlasRef | None = None,
        progress: bool | Progress = True,
    ) -> pd.DataFrame:
        """Draw cells as images, as measured and as if of other batches; return the genes that move.

        See `pipeline.genomaps.draw_genomaps`.
        """
        from medl_scale.pipeline.genomaps import draw_genomaps

        return draw_genomaps(
            self,
            cells,
            as_batch,
            outputs,
            model=model,
            method=method,
            fold=fold,
            n_labelled=n_labelled,
            atlas=atlas,
            progress=progress,
        )

    def check_what_if(
        self,
        *,
        model: str | None = None,
        fold: int | None = None,
        min_cells: int = 20,
        seed: int = 0,
        atlas: AtlasRef | None = None,
        progress: bool | Progress = True,
    ) -> WhatIfCheck:
        """Compare projections of test cells with what the target batches' own test cells show.

        See `pipeline.checking.check_what_if`.
        """
        from medl_scale.pipeline.checking import check_what_if

        return check_what_if(
            self,
            atlas=atlas,
            model=model,
            fold=fold,
            min_cells=min_cells,
            seed=seed,
            progress=progress,
        )

    def report(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        umaps: bool = True,
        check: bool = True,
        viewer: bool = True,
        seed: int = 0,
        atlas: AtlasRef | None = None,
        progress: bool | Progress = True,
    ) -> Path:
        """Write what the run holds as one page, `report.html`; see `pipeline.reporting.report`."""
        from medl_scale.pipeline.reporting import report

        return report(
            self,
            output,
            atlas=atlas,
            umaps=umaps,
            check=check,
            viewer=viewer,
            seed=seed,
            progress=progress,
        )

    def compare(
        self,
        groups: str,
        between: tuple[str, str],
        *,
        cells: Cells | None = None,
        of: ComparedValues = "as_if",
        test: ComparedTest = "mixed",
        model: str = "me",
        fold: int | None = None,
        switch: SwitchedSides = "both",
        level: float = 0.95,
        atlas: AtlasRef | None = None,
        progress: bool | Progress = True,
    ) -> pd.DataFrame:
        """Test every gene for a difference between two groups of donors; donors are the unit.

        See `pipeline.comparing.compare`.
        """
        from medl_scale.pipeline.comparing import compare

        return compare(
            self,
            groups,
            between,
            cells=cells,
            of=of,
            test=test,
            model=model,
            fold=fold,
            switch=switch,
            level=level,
            atlas=atlas,
            progress=progress,
        )

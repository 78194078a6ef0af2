"""The public `evaluate`: score the latents of a run, an atlas or any AnnData, and write the table."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pandas as pd

from medl_scale.config import METRIC_GROUPS, EvaluateConfig
from medl_scale.distribute.blocks import map_on_client
from medl_scale.distribute.clusters import as_cluster_config, open_workers
from medl_scale.errors import ConfigError
from medl_scale.evaluate.battery import Cells, Options, score_latent
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.budget import Budget
from medl_scale.evaluate.inputs import encode_labels
from medl_scale.pipeline.classifying import classify_fold, confusion_of, split_of, verdicts_of
from medl_scale.pipeline.preparing import as_progress
from medl_scale.pipeline.scores import COLUMNS, Scores, write_scores
from medl_scale.pipeline.subjects import find_subject
from medl_scale.settings import build
from medl_scale.store.places import local_path

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from distributed import Client  # noqa: TID251 - what users have in their hands
    from numpy.typing import NDArray

    from medl_scale.distribute.clusters import ClusterConfig
    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.forests.classification import Answer
    from medl_scale.evaluate.score import Score
    from medl_scale.pipeline.run import Run
    from medl_scale.pipeline.subjects import Fold, Subject
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef

__all__ = ["evaluate"]

# The most figures that a latent has besides forests.
FIGURES_PER_LATENT = 18


def evaluate(
    source: str | os.PathLike[str] | AnnData | Run,
    *,
    config: EvaluateConfig | None = None,
    atlas: AtlasRef | None = None,
    output: str | os.PathLike[str] | None = None,
    client: Client | None = None,
    cluster: ClusterConfig | str | os.PathLike[str] | None = None,
    progress: bool | Progress = True,
    **settings: Any,
) -> Scores:
    """Score latents on all their cells, with the error of every figure.

    Parameters
    ----------
    source
        A run (its latents, per fold, on the test split), or a prepared atlas or any AnnData on disk or
        in memory (its `obsm`, on all cells).
    config
        All settings at once; `settings` go on top.
    atlas
        The run's atlas, if it was moved or is in memory.
    output
        Where the table goes, as CSV; `scores.csv` in the run, or `<name>_scores.csv` beside the AnnData.
        A table that is there is replaced. Nothing is written for an AnnData in memory unless named.
    client
        Dask workers to share the work; the current client by default, if there is one. Figures are the
        same without.
    cluster
        A running cluster to join, or one to start; as in `fit`.
    progress
        Show progress, or where to report to.
    settings
        Fields of `config.EvaluateConfig`: `evaluate(run, metrics="scib", max_seconds=600)`.

    Returns
    -------
    Scores

    Raises
    ------
    DataError
        If a column or latent is missing (those there are get listed), or holds missing values.
    ConfigError, RunError, AtlasError, StoreError
        If settings or data cannot be used.
    ClusterError
        If there are no workers to be had, or they have other packages.
    WorkerLostError
        If workers die again and again.

    Examples
    --------
    >>> medl_scale.evaluate("runs/atlas").summary
    >>> medl_scale.evaluate(adata, batch_key="donor", labels_key="cell_type", use_rep="X_harmony")
    """
    shown = as_progress(progress)
    config = _with_settings(config or EvaluateConfig(), settings)
    subject = find_subject(source, config, atlas)
    path = local_path(output, "A table") if output is not None else subject.default_output
    # GPUs are this process's: what workers share are blocks of CPU work.
    with open_workers(
        as_cluster_config(cluster),
        client=client,
        n_workers=config.workers,
        with_gpus=False,
        progress=shown,
    ) as workers:
        blocks = map_here if workers.client is None else map_on_client(workers.client)
        scores = _Evaluation(subject, config, blocks, workers.n_threads, shown).run(path)
    if path is not None:
        write_scores(scores, path)
    return scores


def _with_settings(config: EvaluateConfig, settings: Mapping[str, Any]) -> EvaluateConfig:
    """Return settings with fields laid on top; one name may stand for a list of one."""
    values = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config)
    } | dict(settings)
    for name in ("metrics", "use_rep", "targets"):
        if isinstance(values.get(name), str):
            values[name] = (values[name],)
    return build(EvaluateConfig, values, place="evaluate")


class _Evaluation:
    """The figures of one subject on their way into a table."""

    def __init__(
        self,
        subject: Subject,
        config: EvaluateConfig,
        blocks: BlockMap,
        n_threads: int,
        progress: Progress,
    ) -> None:
        self.subject = subject
        self.config = config
        self.blocks = blocks
        self.n_threads = n_threads
        self.progress = progress
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        chosen = config.chosen()
        if config.protocol == "paper":
            chosen = chosen & {*METRIC_GROUPS["published"], *METRIC_GROUPS["forest"]}
            if not chosen:
                raise ConfigError(
                    "The papers' protocol has the metrics "
                    f"{', '.join((*METRIC_GROUPS['published'], *METRIC_GROUPS['forest']))} only."
                )
        self.chosen = chosen
        n_latents = sum(len(fold.spaces) for fold in subject.folds)
        self.budget = Budget(config.max_seconds, n_latents * FIGURES_PER_LATENT)

    def run(self, path: Path | None) -> Scores:
        """Make all figures."""
        if self.subject.labels_key is None:
            self.notes.append(
                "No labels_key: figures of cell types are left out. Name their column with --labels-key."
            )
        self._score_latents()
        answers = self._classify() if self.chosen & set(METRIC_GROUPS["forest"]) else []
        verdicts = tuple(verdicts_of(answers))
        self.notes += self._missing()
        for note in self.notes:
            self.progress.note(note)
        # None where there is no figure, which for numbers is NaN.
        numbers = dict.fromkeys(("value", "error", "confidence", "seconds"), float)
        table = pd.DataFrame(self.rows, columns=COLUMNS).astype(numbers)
        return Scores(table, verdicts, tuple(self.notes), path, confusion_of(answers))

    def _score_latents(self) -> None:
        """Make all figures but those of forests."""
        metrics = self.chosen - set(METRIC_GROUPS["forest"])
        if not metrics:
            return
        config, subject = self.config, self.subject
        options = Options(
            metrics=metrics,
            tol=config.tol,
            confidence=config.confidence,
            seed=config.seed,
            backend=config.backend,
            map_blocks=self.blocks,
            with_paper=config.protocol == "paper",
        )
        columns = {"batch": subject.batch_key, "label": subject.labels_key}
        batches, labels = (self._codes(key) for key in columns.values())
        for fold in subject.folds:
            for space in fold.spaces:
                with self.progress.step(
                    _step(space.name, fold, subject), None, "figures"
                ) as advance:
                    cells = Cells(
                        space.read()[fold.scored],
                        None if batches is None else batches[fold.scored],
                        None if labels is None else labels[fold.scored],
                        subject.is_labelled[fold.scored],
                    )
                    for figure in score_latent(cells, options, self.budget):
                        of = str(columns[figure.of])
                        self._add(space.name, fold, subject.split, figure.metric, of, figure.score,
                                  figure.reason)  # fmt: skip
                        advance(1)

    def _classify(self) -> list[Answer]:
        """Ask the forests, and the controls."""
        answers: list[Answer] = []
        for fold in self.subject.folds:
            found, notes = classify_fold(
                self.subject,
                fold,
                self.config,
                self.budget,
                self.blocks,
                self.n_threads,
                self.progress,
            )
            self.notes += [note for note in notes if note not in self.notes]
            for answer in found:
                split = split_of(answer)
                for metric, score in answer.result.scores().items():
                    if metric in self.chosen:
                        self._add(answer.space, fold, split, metric, answer.target, score)
            answers += found
        return answers

    def _missing(self) -> list[str]:
        """Return which figures there are not, and why, once for all latents."""
        missing: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row["value"] is None:
                missing.setdefault((row["metric"], row["of"]), []).append(row["method"])
        return [
            f"{metric} of {of}, {len(reasons)} times: {reasons[0]}."
            for (metric, of), reasons in missing.items()
        ]

    def _codes(self, key: str | None) -> NDArray[np.int32] | None:
        """Return a column as codes."""
        if key is None:
            return None
        column = self.subject.columns[key]
        return encode_labels(column, len(column), name=f"obs[{key!r}]").codes

    def _add(
        self,
        space: str,
        fold: Fold,
        split: str,
        metric: str,
        of: str,
        score: Score | None,
        reason: str = "",
    ) -> None:
        """Add a row."""
        self.rows.append(
            {
                "space": space,
                "fold": fold.number,
                "split": split,
                "metric": metric,
                "of": of,
                "value": None if score is None else score.value,
                "error": None if score is None else score.error,
                "kind": None if score is None else score.kind,
                "confidence": None if score is None else score.confidence,
                "n": len(fold.scored) if score is None else score.n,
                "method": reason if score is None else score.method,
                "seconds": None if score is None else round(score.seconds, 3),
            }
        )


def _step(name: str, fold: Fold, subject: Subject) -> str:
    """Return how the progress bar calls the scoring of a latent."""
    return f"{name} fold {fold.number}" if len(subject.folds) > 1 else name

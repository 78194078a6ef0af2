"""medl-scale: mixed-effects autoencoders that separate what a cell is from the batch it came from.

`prepare` makes a prepared atlas of raw counts, `fit` trains models on it and writes their latents into
it, `evaluate` scores latents, `report` writes a page on a run, and `Run` reads back what a fit left. The names load when they are first
used. `evaluate` is also the package of metrics as functions: `medl_scale.evaluate.silhouette_score`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from medl_scale import evaluate, report

if TYPE_CHECKING:
    from pathlib import Path

    from medl_scale.pipeline import Run, fit, info, open_sketch, prepare
    from medl_scale.pipeline.scores import Scores
    from medl_scale.store.simulate import simulate

__all__ = ["Run", "__version__", "evaluate", "fit", "info", "open_sketch", "prepare", "report",
           "simulate"]  # fmt: skip

__version__ = "0.1.0"


class _Evaluate(ModuleType):
    """The package of metrics, called: scores a run, an atlas, or any AnnData."""

    def __call__(self, source: Any, **options: Any) -> Scores:
        """Score latents; see `medl_scale.pipeline.evaluating.evaluate`."""
        from medl_scale.pipeline.evaluating import evaluate as score

        return score(source, **options)


class _Report(ModuleType):
    """The package of pages and pictures, called: writes a page on a run."""

    def __call__(self, run: Any, output: Any = None, **options: Any) -> Path:
        """Write a page on a run; see `medl_scale.pipeline.reporting.report`."""
        from medl_scale.pipeline.reporting import report as write

        return write(run, output, **options)


# Users type both `medl_scale.evaluate(run)` and `medl_scale.evaluate.ari(...)`, and there is one name.
evaluate.__class__ = _Evaluate
report.__class__ = _Report


def __getattr__(name: str) -> Any:
    if name in {"Run", "fit", "info", "open_sketch", "prepare"}:
        import medl_scale.pipeline

        return getattr(medl_scale.pipeline, name)
    if name == "simulate":
        from medl_scale.store.simulate import simulate

        return simulate
    raise AttributeError(f"module 'medl_scale' has no attribute {name!r}")

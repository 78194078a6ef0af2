"""medl-scale: mixed-effects autoencoders that separate what a cell is from the batch it came from.

`prepare` makes a prepared atlas of raw counts, `fit` trains models on it and writes their latents into
it, and `Run` reads back what a fit left. The names load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medl_scale.pipeline import Run, fit, info, prepare
    from medl_scale.store.simulate import simulate

__all__ = ["Run", "__version__", "fit", "info", "prepare", "simulate"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in {"Run", "fit", "info", "prepare"}:
        import medl_scale.pipeline

        return getattr(medl_scale.pipeline, name)
    if name == "simulate":
        from medl_scale.store.simulate import simulate

        return simulate
    raise AttributeError(f"module 'medl_scale' has no attribute {name!r}")

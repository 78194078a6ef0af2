"""Ways to find the silhouettes of sorted cells, and which of them fits the data and the time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import numpy as np

from medl_scale.config import Backend, check_choice
from medl_scale.errors import ConfigError
from medl_scale.evaluate.backend import choose_backend, on_chosen
from medl_scale.evaluate.blocks import map_here
from medl_scale.evaluate.silhouettes.brute import brute_samples
from medl_scale.evaluate.silhouettes.pruned import pruned_samples, silhouettes_of
from medl_scale.evaluate.silhouettes.subclusters import build_subclusters
from medl_scale.evaluate.silhouettes.two_phase import check_wanted, two_phase
from medl_scale.seeds import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medl_scale.evaluate.blocks import BlockMap
    from medl_scale.evaluate.score import Kind
    from medl_scale.evaluate.silhouettes.exact import ExactResult
    from medl_scale.evaluate.silhouettes.layout import Clusters
    from medl_scale.evaluate.silhouettes.subclusters import SubClusters

__all__ = ["METHODS", "Found", "Options", "SilhouetteOptions", "find_silhouettes"]

Method = Literal["auto", "gridded", "pruned", "brute", "two_phase"]
METHODS = get_args(Method)
BACKENDS = get_args(Backend)

PATIENCE_S = 300.0
"""What `auto` takes for its time where none is given."""
_GRIDDED_TOL = 1e-3
_TWO_PHASE_TOL = 1e-4
_FEW_CELLS = 4_000
"""So few are summed before anything else could be set up."""
_GRIDDED_FROM = 50_000
"""Up to so many cells in the plane, exact silhouettes take no longer than grids."""
_BRUTE_SHARE = 0.3
"""Where bounds spare no more of the pairs, taking each pair once is faster."""
_PILOT_CELLS = 256
# What GPUs reach at least; they are asked only where this says that they finish in time.
_GPU_PAIRS_PER_S = 1e12
_GPU_VALUES_PER_S = 50 * 2.5e11


class SilhouetteOptions(TypedDict, total=False):
    """Options of all silhouettes; see `silhouette_samples`."""

    method: Method
    tol: float | None
    confidence: float
    max_seconds: float | None
    backend: Backend
    seed: int
    map_blocks: BlockMap


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all silhouettes, checked."""

    method: Method = "auto"
    tol: float | None = None
    confidence: float = 0.99
    max_seconds: float | None = None
    backend: Backend = "auto"
    seed: int = 0
    map_blocks: BlockMap = map_here

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("backend", self.backend, BACKENDS)
        check_wanted(1.0 if self.tol is None else self.tol, self.confidence, self.max_seconds)
        if self.backend == "gpu" and self.method in ("gridded", "two_phase"):
            raise ConfigError(
                f"method must be 'auto', 'pruned' or 'brute' on a GPU; got {self.method!r} with "
                "backend='gpu'. Pass backend='cpu' for it."
            )

    def for_share(self, share: float) -> Options:
        """Return the options of one of several scores that share the time."""
        if self.max_seconds is None and self.method != "auto":
            return self
        return replace(self, max_seconds=max((self.max_seconds or PATIENCE_S) * share, 1e-3))


@dataclass(frozen=True, eq=False)
class Found:
    """Silhouettes in the order of the sorted cells, and their mean."""

    values: NDArray[np.float64]
    bounds: NDArray[np.float64]
    """(n,) proven bounds on the errors of `values`."""
    value: float
    error: float
    kind: Kind
    method: str


def find_silhouettes(clusters: Clusters, options: Options, *, absolute: bool = False) -> Found:
    """Return the silhouettes of all cells, by the method asked for or the one that fits.

    Parameters
    ----------
    clusters
        The cells.
    options
        What was asked for.
    absolute
        Whether absolute values of the silhouettes are wanted.

    Raises
    ------
    ConfigError
        If the method cannot take these cells.
    MedlError
        If a GPU is asked for and none answers.
    """
    if options.method == "gridded":
        return _gridded(clusters, options, absolute=absolute)
    if options.method == "two_phase":
        return _two_phase(clusters, options, None, options.max_seconds, absolute=absolute)

    def on_gpu() -> Found:
        from medl_scale.evaluate.gpu.silhouette import gpu_samples

        return _exact(gpu_samples(clusters, map_blocks=options.map_blocks), absolute=absolute)

    def on_cpu() -> Found:
        if options.method == "auto":
            return _automatic(clusters, options, absolute=absolute)
        if options.method == "brute":
            return _brute(clusters, options, absolute=absolute)
        return _pruned(clusters, options, None, absolute=absolute)

    if options.method == "auto" and options.backend == "auto":
        rate = _GPU_PAIRS_PER_S if clusters.d <= 3 else _GPU_VALUES_PER_S / clusters.d
        # Asked even so, because MEDL_REQUIRE_GPU wants to know.
        choose_backend(options.backend, what="silhouettes")
        if clusters.n**2 / rate > (options.max_seconds or PATIENCE_S):
            return on_cpu()
    return on_chosen(on_gpu, on_cpu, asked=options.backend, what="silhouettes")


def _automatic(clusters: Clusters, options: Options, *, absolute: bool) -> Found:
    """Return silhouettes as exactly as the time allows, and say why so."""
    started = time.perf_counter()
    budget = options.max_seconds or PATIENCE_S
    if clusters.n <= _FEW_CELLS:
        return _because(_brute(clusters, options, absolute=absolute), "few cells")
    if clusters.d == 2 and clusters.n > _GRIDDED_FROM:
        return _because(_gridded(clusters, options, absolute=absolute), "d = 2")
    sub = build_subclusters(clusters, seed=options.seed)
    expected, share = _pilot(clusters, sub, options.seed)
    is_mixed = share > _BRUTE_SHARE
    if is_mixed:
        # All pairs, but each of them once.
        expected *= 0.5 / share
    why = f"exact takes about {expected:.2g} of {budget:.3g} s"
    if expected <= budget:
        if is_mixed:
            return _because(_brute(clusters, options, absolute=absolute), why)
        return _because(_pruned(clusters, options, sub, absolute=absolute), why)
    left = None
    if options.max_seconds is not None:
        left = max(options.max_seconds - (time.perf_counter() - started), 1e-3)
    return _because(_two_phase(clusters, options, sub, left, absolute=absolute), why)


def _pilot(clusters: Clusters, sub: SubClusters, seed: int) -> tuple[float, float]:
    """Return the seconds that pruning will take here, and the pairs it will sum, by a few cells."""
    rng = generator(seed, Purpose.QUERY_SAMPLE, 1)
    rows = np.sort(rng.choice(clusters.n, _PILOT_CELLS, replace=False))
    silhouettes_of(rows[:1], clusters, sub)  # compiles
    started = time.perf_counter()
    found = silhouettes_of(rows, clusters, sub)
    return (time.perf_counter() - started) / _PILOT_CELLS * clusters.n, found.share


def _brute(clusters: Clusters, options: Options, *, absolute: bool) -> Found:
    """Return exact silhouettes from all pairs."""
    return _exact(brute_samples(clusters, map_blocks=options.map_blocks), absolute=absolute)


def _gridded(clusters: Clusters, options: Options, *, absolute: bool) -> Found:
    """Return silhouettes from fields on grids."""
    from medl_scale.evaluate.silhouettes.gridded.silhouettes import gridded_samples

    if clusters.d != 2:
        raise ConfigError(
            f"method 'gridded' wants a latent of 2 dimensions; this has {clusters.d}. "
            "Pass method='pruned', or 'two_phase' for very many cells."
        )
    tol = _GRIDDED_TOL if options.tol is None else options.tol
    found = gridded_samples(clusters, tol=tol, map_blocks=options.map_blocks)
    values = np.abs(found.values) if absolute else found.values
    error = float(found.bounds.mean())
    return Found(values, found.bounds, float(values.mean()), error, "certified", found.method)


def _two_phase(
    clusters: Clusters,
    options: Options,
    sub: SubClusters | None,
    max_seconds: float | None,
    *,
    absolute: bool,
) -> Found:
    """Return guesses for all cells, and their mean corrected by a sample."""
    found = two_phase(
        clusters,
        tol=_TWO_PHASE_TOL if options.tol is None else options.tol,
        confidence=options.confidence,
        max_seconds=max_seconds,
        seed=options.seed,
        subclusters=sub,
        absolute=absolute,
        map_blocks=options.map_blocks,
    )
    return Found(
        found.values, found.bounds, found.value, found.half_width, found.kind, found.method
    )


def _pruned(
    clusters: Clusters, options: Options, sub: SubClusters | None, *, absolute: bool
) -> Found:
    """Return exact silhouettes from the labels that can be nearest."""
    if sub is None:
        sub = build_subclusters(clusters, seed=options.seed)
    found = pruned_samples(clusters, sub, map_blocks=options.map_blocks)
    return _exact(found, absolute=absolute)


def _exact(found: ExactResult, *, absolute: bool) -> Found:
    """Return silhouettes that are exact but for rounding."""
    values = np.abs(found.values) if absolute else found.values
    error = float(found.errors.mean())
    return Found(values, found.errors, float(values.mean()), error, "exact", found.method)


def _because(found: Found, why: str) -> Found:
    """Return what was found, saying why the method was chosen."""
    return replace(found, method=f"{found.method}; auto: {why}")

"""Who computes a figure, the CPU or a GPU: the one place that chooses, and tells when it has to go back.

CuPy and cuML are imported only where a GPU is asked for, or `auto` is and they are installed. With
MEDL_REQUIRE_GPU=1 in the environment nothing that may run on a GPU runs on the CPU in silence.
"""

from __future__ import annotations

import os
import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

from medl_scale.config import Backend, check_choice
from medl_scale.errors import ConfigError, MedlError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Library", "choose_backend", "gpu_problem", "on_chosen", "require_gpu"]

Library = Literal["cupy", "cuml"]
REQUIRE = "MEDL_REQUIRE_GPU"
OLDEST_CUML = (26, 8)
"""Before it forests stopped at depth 16, and overflowed where there are many classes."""
_INSTALL = "pip install 'medl-scale[cu12]'"
_told: set[str] = set()


def choose_backend(
    asked: Backend, *, what: str, library: Library = "cupy"
) -> Literal["cpu", "gpu"]:
    """Return where something is computed.

    Parameters
    ----------
    asked
        `auto` is `gpu` where the library can be used on a device, else `cpu`.
    what
        What is computed, such as `silhouettes`; errors name it.
    library
        What computes it on a GPU.

    Raises
    ------
    MissingExtraError
        If `gpu` is asked for and the library is missing or too old.
    ConfigError
        If `asked` is unknown; if `gpu` is asked for and no device answers; if `auto` would be `cpu`
        although MEDL_REQUIRE_GPU is set.
    """
    check_choice("backend", asked, get_args(Backend))
    if asked == "cpu":
        return "cpu"
    problem = gpu_problem(library)
    if problem is None:
        return "gpu"
    if asked == "gpu":
        raise type(problem)(f"backend='gpu' was asked for {what}: {problem}") from problem
    if require_gpu():
        raise ConfigError(
            f"{REQUIRE} is set, but {what} would be computed on the CPU: {problem} Or unset "
            f"{REQUIRE}, or pass backend='cpu'."
        ) from problem
    return "cpu"


def on_chosen[T](
    gpu: Callable[[], T],
    cpu: Callable[[], T],
    *,
    asked: Backend,
    what: str,
    library: Library = "cupy",
) -> T:
    """Compute something where `choose_backend` says, and on the CPU if `auto` chose a GPU that fails.

    Parameters
    ----------
    gpu, cpu
        Each computes it, from the start.
    asked, what, library
        As for `choose_backend`.

    Raises
    ------
    ConfigError
        If the GPU fails although MEDL_REQUIRE_GPU is set.

    Notes
    -----
    Failures are what CUDA and its libraries raise: too little memory, a lost device, a library that
    cannot be loaded. They are told in a warning, once for each reason. Where `gpu` was asked for,
    they are raised.
    """
    if choose_backend(asked, what=what, library=library) == "cpu":
        return cpu()
    try:
        return gpu()
    except Exception as error:
        if asked == "gpu" or not _is_gpu_failure(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        if require_gpu():
            raise ConfigError(
                f"{REQUIRE} is set, but the GPU failed at {what} ({reason}). Free its memory or "
                f"repair it; or unset {REQUIRE}, or pass backend='cpu'."
            ) from error
    told = f"{what}: {reason}"
    if told not in _told:
        _told.add(told)
        warnings.warn(
            f"The GPU failed at {what} ({reason}); the CPU computes it now, more slowly. Pass "
            "backend='cpu' to go there at once.",
            UserWarning,
            stacklevel=2,
        )
    return cpu()


def require_gpu() -> bool:
    """Say whether MEDL_REQUIRE_GPU asks that no GPU be given up in silence."""
    return os.environ.get(REQUIRE, "").strip().lower() not in ("", "0", "false", "no")


def gpu_problem(library: Library = "cupy") -> MissingExtraError | ConfigError | None:
    """Return why a library cannot be used on a GPU here, or None if it can."""
    missing = _missing(library)
    if missing is not None:
        return MissingExtraError(missing)
    try:
        import cupy

        n_devices = cupy.cuda.runtime.getDeviceCount()
    except ImportError as error:
        return MissingExtraError(
            f"CuPy is installed but cannot be imported ({error}). Install one that fits this "
            f"machine's CUDA: `{_INSTALL}`."
        )
    except RuntimeError as error:
        return ConfigError(
            f"no CUDA device answers ({error}). See whether `nvidia-smi` lists one, and whether "
            "CUDA_VISIBLE_DEVICES hides it."
        )
    if n_devices == 0:
        return ConfigError(
            "there is no CUDA device. See whether `nvidia-smi` lists one, and whether "
            "CUDA_VISIBLE_DEVICES hides it."
        )
    return None


def _missing(library: Library) -> str | None:
    """Return what is to be installed first, or None."""
    if find_spec("cupy") is None:
        return f"CuPy is not installed. Install it with `{_INSTALL}`."
    if library == "cupy":
        return None
    if find_spec("cuml") is None:
        return f"cuML is not installed. Install it with `{_INSTALL}`."
    found = _cuml_version()
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST_CUML:
        oldest = ".".join(f"{number:02}" for number in OLDEST_CUML)
        return (
            f"cuML {oldest} or later is needed, whose forests are those of scikit-learn in depth; "
            f"{found or 'an unknown version'} is installed. Update it with `{_INSTALL}`."
        )
    return None


def _cuml_version() -> str:
    """Return the version of cuML, whatever its package is called, or an empty text."""
    for name in ("cuml-cu12", "cuml-cu13", "cuml"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _is_gpu_failure(error: Exception) -> bool:
    """Say whether an error comes from the GPU, its driver or its libraries, and not from us."""
    if isinstance(error, MedlError):
        return False
    origin = type(error).__module__.partition(".")[0]
    if origin in ("cupy", "cupy_backends", "cuml", "rmm", "pylibraft", "nvforest"):
        return True
    # Libraries in C++ tell of failures by these built-in errors.
    return isinstance(error, MemoryError | RuntimeError | ImportError)

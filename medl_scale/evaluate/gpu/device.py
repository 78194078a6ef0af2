"""What runs the silhouette kernel: a GPU through CuPy, or whatever else has the same few methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, override

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from medl_scale.evaluate.gpu.plan import Kernel

__all__ = ["CudaDevice", "Device", "kernel_source"]


class Device(ABC):
    """Where arrays lie and the kernel runs."""

    xp: ModuleType
    """NumPy, or what stands for it."""

    @property
    @abstractmethod
    def n_processors(self) -> int:
        """Multiprocessors, each of which runs several blocks at a time."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return how much memory can still be taken."""

    @abstractmethod
    def launch(self, kernel: Kernel, grid: tuple[int, int], arguments: Sequence[Any]) -> None:
        """Start the kernel; its arguments are arrays of this device and NumPy scalars."""

    @abstractmethod
    def to_host(self, values: Any) -> NDArray[Any]:
        """Return an array as NumPy's, when all that was started has ended."""


class CudaDevice(Device):
    """The current CUDA device."""

    def __init__(self) -> None:
        import cupy

        self.xp = cupy

    @property
    @override
    def n_processors(self) -> int:
        return int(self.xp.cuda.Device().attributes["MultiProcessorCount"])

    @override
    def free_bytes(self) -> int:
        # What CuPy keeps for the next array is not free to the driver, but to us.
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free) + int(self.xp.get_default_memory_pool().free_bytes())

    @override
    def launch(self, kernel: Kernel, grid: tuple[int, int], arguments: Sequence[Any]) -> None:
        _compiled(kernel)(grid, (kernel.threads,), tuple(arguments))

    @override
    def to_host(self, values: Any) -> NDArray[Any]:
        return np.asarray(self.xp.asnumpy(values))


def kernel_source() -> str:
    """Return the kernel's source in CUDA C++."""
    return files(__package__).joinpath("silhouette.cu").read_text(encoding="utf-8")


@cache
def _compiled(kernel: Kernel) -> Any:
    """Return the kernel's function; CuPy compiles it at its first call on a device, and keeps it."""
    import cupy

    module = cupy.RawModule(code=kernel_source(), options=kernel.options)
    return module.get_function("mean_distances")

"""What this machine has to offer: cores and GPUs, without starting any library that uses them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["count_cores", "visible_gpus"]

_DRIVER = Path("/proc/driver/nvidia/gpus")
_ASK_S = 20.0


def count_cores() -> int:
    """Return how many cores this process may use, control groups included."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def visible_gpus() -> tuple[str, ...]:
    """Return the NVIDIA GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` would name them.

    That variable is honoured, up to the first name that CUDA does not take. Without it all GPUs count
    that the driver tells of; none where there is no driver.
    """
    n_gpus = _count_gpus()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None or n_gpus == 0:
        return tuple(map(str, range(n_gpus)))
    found: list[str] = []
    for name in names.split(","):
        text = name.strip()
        # CUDA ignores what follows an invalid name, such as the -1 that hides all.
        if not text.startswith(("GPU-", "MIG-")) and not (text.isdecimal() and int(text) < n_gpus):
            break
        found.append(text)
    return tuple(found)


def _count_gpus() -> int:
    """Return how many GPUs the driver tells of."""
    if shutil.which("nvidia-smi"):
        try:
            told = subprocess.run(
                ["nvidia-smi", "--list-gpus"],
                capture_output=True,
                text=True,
                timeout=_ASK_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return 0
        # GPUs stand at the margin, their parts are indented.
        return sum(line.startswith("GPU ") for line in told.stdout.splitlines())
    return len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0

"""Commands of `medl-scale` in processes of their own, and what they cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Cost", "medl_scale", "simulated_atlas"]


class Cost(NamedTuple):
    """What a process took from its start to its end, imports included."""

    wall_s: float
    cpu_s: float
    """All threads together."""
    peak_bytes: int
    """Most memory held at once (resident set), by the process or one of its children."""


def medl_scale(*arguments: object) -> Cost:
    """Run a command quietly and return its cost.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails; what it wrote to standard error is already there.
    """
    start = "import sys; from medl_scale.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, *map(str, arguments), "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    # The kernel's own account of this one process: it misses no short peak, as sampling does.
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def simulated_atlas(folder: Path, n_cells: int, n_genes: int) -> tuple[Path, Cost]:
    """Simulate counts of 19 batches and prepare them with all genes.

    Returns
    -------
    The prepared atlas, and what `prepare` cost.
    """
    counts, atlas = folder / "counts.zarr", folder / "atlas.zarr"
    sizes = ("--cells", n_cells, "--genes", n_genes, "--batches", 19, "--labels", 10)
    medl_scale("simulate", counts, *sizes)
    keys = ("--batch-key", "batch", "--labels-key", "cell_type", "--n-top-genes", 0)
    return atlas, medl_scale("prepare", counts, "--output", atlas, *keys)

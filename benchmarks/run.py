"""Every benchmark, one after another: what, goal, measured, met or not.

    python -m benchmarks.run            # some 45 minutes; appends to benchmarks/history.jsonl
    python -m benchmarks.run --quick    # tiny sizes: does it run?

Each script runs in a process of its own. An unmet goal is told, not an error: on a busy machine it
says little. The exit code is 1 if a script failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.figures import Figure, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[1]
HISTORY = ROOT / "benchmarks" / "history.jsonl"
LOADER_CELLS_PER_CPU_S = 600_000
PREPARE_CELLS_PER_CORE_S = 8_000


class Script(NamedTuple):
    """One benchmark and how to read what it prints."""

    name: str
    quick: tuple[str, ...]
    read: Callable[[Sequence[str]], list[Figure]]


def own_figures(lines: Sequence[str]) -> list[Figure]:
    """Return figures as `figures.tell` prints them."""
    return [Figure.from_json(line) for line in lines]


def loader_figures(lines: Sequence[str]) -> list[Figure]:
    """Return the figures of `bench_loader` that have a goal, and how it scales with runs."""
    figures = []
    for record in map(json.loads, lines):
        what = record["what"]
        wanted = what.endswith(("loader", "loader, all cached", "annbatch, sparse"))
        if "cells_per_cpu_s" in record and wanted:
            goal = LOADER_CELLS_PER_CPU_S if what == "runs of 256: loader" else None
            figure = _figure("loader", what, record, "cells_per_cpu_s", "cells per CPU-s", goal)
            figures.append(figure)
        elif "median_ratio" in record:
            goal = 1.0 if what == "runs of 256: loader / annbatch, dense" else None
            figures.append(_figure("loader", what, record, "median_ratio", "x its speed", goal))
    return figures


def prepare_figures(lines: Sequence[str]) -> list[Figure]:
    """Return the figures of `bench_prepare`."""
    figures = []
    for record in map(json.loads, lines):
        what = f"{record['cells']:,} x {record['genes']:,} at {record['density']:.0%}"
        goal, unit = PREPARE_CELLS_PER_CORE_S, "cells/s per core"
        figures.append(_figure("prepare", what, record, "cells_per_core_s", unit, goal))
        beside = _figure("prepare", f"{what}: speed", record, "speed_over_scanpy", "x scanpy's")
        figures.append(beside)
    return figures


SCRIPTS = (
    Script("loader", ("--cells", "5000", "--rounds", "1", "--run-sizes", "256"), loader_figures),
    Script("step", ("--quick",), own_figures),
    Script(
        "prepare", ("--cells", "8000", "--genes", "1000", "--top-genes", "300"), prepare_figures
    ),
    Script("fit", ("--quick",), own_figures),
    Script("workers", ("--quick",), own_figures),
    Script("ranks", ("--quick",), own_figures),
    Script("memory", ("--quick",), own_figures),
    Script("silhouette_exact", ("--quick",), own_figures),
    Script("gridded", ("--quick",), own_figures),
    Script("two_phase", ("--quick",), own_figures),
    Script("lisi", ("--quick",), own_figures),
    Script("forest", ("--quick",), own_figures),
    Script("project", ("--quick",), own_figures),
    Script("sketch", ("--quick",), own_figures),
    Script("genomap", ("--quick",), own_figures),
    Script("what_if", ("--quick",), own_figures),
)


def run(script: Script, *, quick: bool) -> list[Figure]:
    """Run a script and return its figures; what it writes to standard error passes through."""
    command = [sys.executable, "-m", f"benchmarks.bench_{script.name}"]
    command += script.quick if quick else ()
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return script.read(ended.stdout.splitlines())


def circumstances() -> dict[str, Any]:
    """Return when, of what and where figures are."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        # Beside the number of cores it tells whether others were at work.
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    names = [script.name for script in SCRIPTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no goals, no history")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--history", type=Path, help="where to append; none with --quick")
    options = parser.parse_args()
    history = options.history or (None if options.quick else HISTORY)

    figures: list[Figure] = []
    failed = []
    for script in SCRIPTS:
        if script.name not in options.only:
            continue
        when = circumstances()
        print(f"bench_{script.name}, load {when['load']} ...", file=sys.stderr, flush=True)
        try:
            found = run(script, quick=options.quick)
        except subprocess.CalledProcessError:
            failed.append(script.name)
            continue
        if history is not None:
            with history.open("a") as file:
                file.writelines(figure.to_json(**when) + "\n" for figure in found)
        figures += found
    tell(figures, "All benchmarks", with_goals=not options.quick)
    if failed:
        raise SystemExit(f"Failed, see above: {', '.join(failed)}.")


def _figure(
    benchmark: str,
    what: str,
    record: dict[str, Any],
    key: str,
    unit: str,
    at_least: float | None = None,
) -> Figure:
    """Return one number of a record, with the others as details."""
    details = {name: value for name, value in record.items() if name not in {key, "what"}}
    return Figure(
        benchmark=benchmark,
        what=what,
        measured=record[key],
        unit=unit,
        at_least=at_least,
        details=details,
    )


def _commit() -> str:
    """Return the commit, with a plus sign if files differ from it; `unknown` outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return ended.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    """Return the processor's name, as Linux or else Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

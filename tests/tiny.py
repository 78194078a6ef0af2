"""A tiny atlas, a run on it, and the command line: what tests of whole commands share."""

from __future__ import annotations

import fcntl
import functools
import io
import json
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medl_scale.cli import main

if TYPE_CHECKING:
    import pytest

N_CELLS, N_GENES, N_BATCHES, N_LABELS = 600, 80, 4, 3
FIT = ("--max-epochs", "2", "--minibatch-size", "128", "--threads", "1", "--no-evaluate")
MODELS = ("me", "fe", "re", "pca")
KEYS = {"X_medl_me", "X_medl_fe", "X_medl_re", "X_pca", "X_pca_batch_centred"}
TO_ATLAS = ("--batch-key", "batch", "--labels-key", "cell_type", "--min-cells", "1")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Made(NamedTuple):
    """What the first commands of a user make, and what they printed."""

    raw: Path
    atlas: Path
    run: Path
    fit: Ended


def medl(*args: object) -> Ended:
    """Run the command line in this process, with warnings as users have them."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            main([str(arg) for arg in args])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


def medl_process(*args: object, cwd: Path | None = None) -> Ended:
    """Run the command line in a process of its own."""
    command = [Path(sys.executable).with_name("medl-scale"), *map(str, args)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Simulate, prepare and fit as a user does, once a session; tests leave the files as they are."""
    base = tmp_path_factory.getbasetemp()
    # The processes of one test session have folders beside each other, and share what is made.
    return _made_in((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny")


@functools.cache
def _made_in(folder: Path) -> Made:
    """Make the files in a folder, unless another process has."""
    printed = folder / "fit.json"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            folder.mkdir()
            printed.write_text(json.dumps(_make(folder)))
    fit = Ended(*json.loads(printed.read_text()))
    return Made(folder / "raw.h5ad", folder / "atlas.zarr", folder / "runs" / "atlas", fit)


def _make(folder: Path) -> Ended:
    """Make the files; return how the fit ended."""
    sizes = ("--cells", N_CELLS, "--genes", N_GENES, "--batches", N_BATCHES, "--labels", N_LABELS)
    for ended in (
        medl("simulate", folder / "raw.h5ad", *sizes),
        medl("prepare", folder / "raw.h5ad", "-o", folder / "atlas.zarr", *TO_ATLAS),
        fit := medl_process(
            "fit", "atlas.zarr", "--models", ",".join(MODELS), *FIT, "--verbose", cwd=folder
        ),
    ):
        assert ended.code == 0, ended.err
    return fit

"""The command line: options into calls of the pipeline, results into tables, errors into exit codes.

app.py          the application: how it talks, what errors become
options.py      options that several commands share
cluster_options.py  options that name a cluster
preparing.py    simulate, prepare
fitting.py      fit
evaluating.py   evaluate
reporting.py    report
projecting.py   project
genomap.py      genomap
effects.py      effects
sketching.py    sketch
comparing.py    compare
describing.py   embed, info
tables.py       results as tables; those asked of batches in answers.py
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

from medl_scale.cli import (
    comparing,
    describing,
    effects,
    evaluating,
    fitting,
    genomap,
    preparing,
    projecting,
    reporting,
    sketching,
)
from medl_scale.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "app",
    "comparing",
    "describing",
    "effects",
    "evaluating",
    "fitting",
    "genomap",
    "main",
    "preparing",
    "projecting",
    "reporting",
    "sketching",
]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, on the process's arguments by default, and exit."""
    # What TensorFlow's Python side logs below errors is for those who develop with it.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        app(args=args, prog_name="medl-scale")

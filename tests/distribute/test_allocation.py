"""Processes on workers reuse the memory that they free."""

import os
import resource
import subprocess
import sys

import pytest

from medl_scale.distribute.clusters.local import local_client
from medl_scale.distribute.schedule import run_on_client
from medl_scale.distribute.tasks import Task

N_ARRAYS = 50
ARRAY_BYTES = 8 << 20
PAGE_BYTES = resource.getpagesize()
# Without reuse, each array is made of pages that the system has to clear first.
ALL_FRESH = N_ARRAYS * ARRAY_BYTES // PAGE_BYTES


def make():
    """Write to an array, and let go of it."""
    return len(b"1" * ARRAY_BYTES)


def fresh_pages(payload=None, report=None, ranks=None):
    """Return how many pages the system had to give for arrays of which one lives at a time."""
    make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(N_ARRAYS):
        make()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_tasks_reuse_memory_on_a_worker_and_in_a_gang():
    tasks = [Task("solo", None), Task("gang", None, n_ranks=2)]
    with local_client(2, 1) as client:
        outcomes = run_on_client(
            client, fresh_pages, tasks, n_workers=2, on_update=None, every_s=0.1
        )
        environments = client.run(_trim_threshold)
    # Dask's setting, which would make all of them fresh, as the next test shows.
    assert set(environments.values()) == {"65536"}
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert max(outcome.value for outcome in outcomes) < ALL_FRESH / 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize("keeps", [False, True])
def test_what_dask_sets_costs_fresh_pages_and_is_undone(keeps):
    script = (
        "from medl_scale.distribute.allocation import keep_freed_memory\n"
        "from tests.distribute.test_allocation import fresh_pages\n"
        f"if {keeps}: keep_freed_memory()\n"
        "print(fresh_pages())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={"MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    n_fresh = int(found.stdout)
    assert n_fresh < ALL_FRESH / 20 if keeps else n_fresh >= ALL_FRESH


def _trim_threshold():
    return os.environ["MALLOC_TRIM_THRESHOLD_"]

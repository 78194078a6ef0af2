import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from medl_scale.distribute.blocks import map_on_client
from medl_scale.distribute.clusters.local import local_client
from medl_scale.errors import WorkerLostError
from medl_scale.evaluate.blocks import map_here, row_blocks


def weighted_sum(weights, rows):
    time.sleep(0.02 * (rows.start % 3))
    return rows.start, float(weights[rows].sum()), os.getpid()


def die_once(marker, item):
    """Kill the worker that comes first to item 2."""
    if item == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item * 10


def die_always(marker, item):
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def refuse(shared, item):
    raise ValueError(f"cannot do {item}")


@pytest.fixture(scope="module")
def client():
    with local_client(2, 1) as client:
        yield client


def test_results_come_in_the_order_of_the_items_and_from_several_processes(client):
    weights = np.random.default_rng(0).random(1000)
    items = row_blocks(1000, 7)
    here = [result[:2] for result in map_here(weighted_sum, weights, items)]
    there = list(map_on_client(client)(weighted_sum, weights, items))
    assert [result[:2] for result in there] == here
    pids = {result[2] for result in there}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_blocks_are_few_at_a_time_so_that_results_do_not_pile_up(client):
    results = map_on_client(client)(weighted_sum, np.ones(1000), row_blocks(1000, 1))
    next(results)
    time.sleep(0.5)
    assert len(client.futures) <= 10
    results.close()


def test_a_block_whose_worker_is_killed_is_computed_again(tmp_path):
    with local_client(2, 1) as client:
        found = list(map_on_client(client)(die_once, str(tmp_path / "died"), range(6)))
    assert found == [0, 10, 20, 30, 40, 50]
    assert (tmp_path / "died").exists()


def test_a_block_that_always_kills_its_worker_is_given_up_and_nothing_stays_behind():
    before = set(psutil.Process().children(recursive=True))
    with (
        local_client(2, 1) as client,
        pytest.raises(WorkerLostError, match=r"Block \d of 4 was lost 3 times"),
    ):
        list(map_on_client(client)(die_always, None, range(4)))
    assert set(psutil.Process().children(recursive=True)) <= before


def test_what_a_block_raises_is_raised_here(client):
    with pytest.raises(ValueError, match="cannot do 0"):
        list(map_on_client(client)(refuse, None, range(3)))

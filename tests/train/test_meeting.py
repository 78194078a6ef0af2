"""Ranks that come, come late, or do not come."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from medl_scale.errors import RankLostError
from medl_scale.ranks import Ranks
from medl_scale.train.meeting import await_all
from tests.train.rank_process import free_ports


def addresses(n_ranks: int) -> tuple[str, ...]:
    return tuple(f"127.0.0.1:{port}" for port in free_ports(n_ranks))


def test_ranks_meet_in_any_order_and_leave_the_port_free():
    where = addresses(3)
    back: dict[int, float] = {}

    def come(rank: int, after_s: float) -> None:
        time.sleep(after_s)
        await_all(Ranks(rank, where), 20)
        back[rank] = time.monotonic()

    late = time.monotonic() + 0.6
    threads = [
        threading.Thread(target=come, args=(rank, after_s))
        for rank, after_s in ((2, 0.0), (0, 0.3), (1, 0.6))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(back) == [0, 1, 2]
    assert min(back.values()) >= late - 0.05
    host, port = where[0].split(":")
    socket.create_server((host, int(port))).close()


@pytest.mark.parametrize(
    ("rank", "told"),
    [
        (0, r"Rank 0 of 3 did not meet the others within 1 s, .*: rank 1, 2 did not come\. Look"),
        (2, r"Rank 2 of 3 did not meet the first within 1 s, the first being at 127.0.0.1:\d+: "),
    ],
)
def test_a_rank_that_waits_in_vain_says_for_whom(rank, told):
    started = time.monotonic()
    with pytest.raises(RankLostError, match=told):
        await_all(Ranks(rank, addresses(3)), 0.6)
    assert time.monotonic() - started < 5


def test_a_taken_port_is_told():
    where = addresses(2)
    host, port = where[0].split(":")
    with (
        socket.create_server((host, int(port))),
        pytest.raises(RankLostError, match=r"did not meet the others .* in use"),
    ):
        await_all(Ranks(0, where), 5)

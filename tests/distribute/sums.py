"""A cheap function for gangs: ranks add numbers over plain sockets, step by step, and keep a checkpoint.

It behaves as a fit does: the first rank reports and writes, all go on from the checkpoint, a peer that
goes is met as `RankLostError`, and one that is stopped is waited for, for ever.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

from medl_scale.errors import RankLostError
from medl_scale.store.atomic import atomic_file


def add_up(payload, report=None, ranks=None):
    """Return (total, number of ranks, first step, process, start time); payload is a dict.

    `folder`: where ranks leave their process numbers and the first its checkpoint; `n_steps`, `step_s`;
    `act`: what a rank does at step 3, `rank` says which; `after`: what the last does at the end.
    """
    folder = Path(payload["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    rank, n_ranks = (ranks.rank, ranks.world_size) if ranks else (0, 1)
    with atomic_file(folder / f"rank{rank}.pid") as scratch:
        scratch.write_text(f"{os.getpid()} {n_ranks}")
    checkpoint = folder / "checkpoint"
    first, total = map(int, checkpoint.read_text().split()) if checkpoint.exists() else (0, 0)
    peers = connect(ranks) if n_ranks > 1 else []
    started = time.time()
    try:
        for step in range(first, payload["n_steps"]):
            time.sleep(payload.get("step_s", 0.0))
            if step == 3 and rank == payload.get("rank", n_ranks - 1):
                act(payload.get("act"), folder)
            # Rank r adds the numbers r, r + n_ranks, ... below 12.
            total += all_sum(sum(range(rank, 12, n_ranks)), peers, is_first=rank == 0)
            if rank == 0:
                with atomic_file(checkpoint) as scratch:
                    scratch.write_text(f"{step + 1} {total}")
                if report is not None:
                    report()
    except ConnectionError as error:
        raise RankLostError(f"a peer is gone at step {step}") from error
    finally:
        for peer in peers:
            peer.close()
    if rank == n_ranks - 1:
        act(payload.get("after"), folder)
    return total, n_ranks, first, os.getpid(), started


def connect(ranks):
    """Return sockets to the other ranks for the first rank, else one to the first."""
    host, port = ranks.addresses[0].rsplit(":", 1)
    if not ranks.is_first:
        deadline = time.monotonic() + 10
        while True:
            try:
                return [socket.create_connection((host, int(port)))]
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    with socket.create_server((host, int(port))) as server:
        return [server.accept()[0] for _ in ranks.addresses[1:]]


def all_sum(number, peers, *, is_first):
    """Return the sum of the numbers of all ranks."""
    if is_first:
        number += sum(received(peer) for peer in peers)
    for peer in peers:
        peer.sendall(number.to_bytes(8))
    if not is_first:
        number = received(peers[0])
    return number


def received(peer):
    """Return the next number of a peer."""
    content = b""
    while len(content) < 8:
        some = peer.recv(8 - len(content))
        if not some:
            raise ConnectionResetError("closed")
        content += some
    return int.from_bytes(content)


def act(what, folder):
    """Do what a test asks for, once or always."""
    what, _, when = (what or "").partition(" ")
    if when == "once":
        if (folder / "acted").exists():
            return
        (folder / "acted").touch()
    match what:
        case "die":
            print("last words", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise ValueError("a real mistake")
        case "exit":
            os.write(1, b"half a line to standard output")
            os._exit(7)
        case "sleep":
            time.sleep(3600)
        case "grow":
            held = b"1" * (800 << 20)
            time.sleep(60)
            print(len(held))

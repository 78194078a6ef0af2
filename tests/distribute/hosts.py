"""Two hosts on one machine: network namespaces with a cable between them, and one file system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECTED_WITHIN_S = 10.0


@dataclass(frozen=True)
class Host:
    """A network namespace at one end of a cable."""

    name: str
    address: str
    """Known inside the two namespaces only."""

    def command(self, *command: object) -> list[str]:
        """Return what runs a command on this host."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    def processes(self) -> list[psutil.Process]:
        """Return all processes of this host, whoever started them."""
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            try:
                found.append(psutil.Process(int(pid)))
            except psutil.NoSuchProcess:
                continue
        return found

    def members(self) -> list[psutil.Process]:
        """Return the processes of gangs on this host."""
        return [one for one in self.processes() if _is_member(one)]

    def listening_ports(self) -> set[int]:
        """Return the ports at which processes of this host wait for others."""
        lines = subprocess.run(
            self.command("cat", "/proc/net/tcp", "/proc/net/tcp6"),
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        fields = [line.split() for line in lines]
        return {int(one[1].rsplit(":", 1)[1], 16) for one in fields if one[3] == "0A"}

    def cut(self) -> None:
        """Pull the cable: nothing comes and goes any more, and nobody is told."""
        _ip("-n", self.name, "link", "set", "cable", "down")


def why_not() -> str | None:
    """Return why there can be no such hosts here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.getuid() != 0:
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    try:
        with two_hosts():
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yield two hosts that reach each other; with the block, they go with all that runs on them."""
    hosts = tuple(
        Host(f"medl-{os.getpid()}-{end}", f"10.77.{os.getpid() % 256}.{number}")
        for number, end in enumerate("ab", start=1)
    )
    with ExitStack() as stack:
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_remove, host)
        first, second = hosts
        # Made inside: the machine's own interfaces and addresses stay as they are.
        _ip(
            "-n", first.name, "link", "add", "cable", "type", "veth",
            "peer", "name", "cable", "netns", second.name,
        )  # fmt: skip
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                _ip("-n", host.name, "link", "set", link, "up")
        _wait_until_connected(first, second)
        yield first, second


def _wait_until_connected(first: Host, second: Host) -> None:
    """Wait until a cable that was just plugged in carries something."""
    ends = time.monotonic() + _CONNECTED_WITHIN_S
    while "state UP" not in _ip("-n", first.name, "link", "show", "cable"):
        assert time.monotonic() < ends, f"{first.name} does not reach {second.name}"
        time.sleep(0.02)


def _remove(host: Host) -> None:
    """End what runs on a host, and the host."""
    processes = host.processes()
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)
    _ip("netns", "delete", host.name)


def _is_member(process: psutil.Process) -> bool:
    """Say whether a process is one of a gang."""
    try:
        return "medl_scale.distribute.member" in process.cmdline()
    except psutil.Error:
        return False


def _ip(*arguments: str) -> str:
    """Run `ip` and return what it prints."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    return done.stdout

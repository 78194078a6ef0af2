"""Joining a cluster that runs already: nothing of it is ended with us."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medl_scale.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from medl_scale.distribute.clusters.config import ClusterConfig

__all__ = ["current_client", "joined_client"]


@contextmanager
def joined_client(config: ClusterConfig) -> Iterator[Client]:
    """Yield a client of the running cluster that an address or a file names.

    Raises
    ------
    ConfigError
        If the file is none that a scheduler wrote.
    ClusterError
        If no scheduler answers in time.
    """
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    address = config.scheduler_address or _address_in(Path(str(config.scheduler_file)), config)
    with warnings.catch_warnings():
        # Differences are compared by us, and are errors.
        warnings.simplefilter("ignore", VersionMismatchWarning)
        try:
            _check_answers(address, config.timeout_s)
            client = Client(address, timeout=config.timeout_s, set_as_default=False)
        except ValueError as error:
            raise ConfigError(
                f"{address!r} is no address of a scheduler: {error}. Give one such as tcp://10.0.0.1:8786."
            ) from error
        except OSError as error:
            raise ClusterError(
                f"No scheduler answers at {address} within {config.timeout_s:g} s. See that it runs "
                "there (`dask scheduler`), that this machine may reach the port, and that both talk "
                "the same protocol (tcp:// or tls://)."
            ) from error
    with client:
        yield client


def current_client() -> Client | None:
    """Return the client that is Dask's default in this process, or None."""
    import sys

    # Whoever made one has imported it; we need not.
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        client: Client = default_client()
    except ValueError:
        return None
    return client if client.status == "running" else None


def _check_answers(address: str, timeout_s: float) -> None:
    """Raise unless something at an address speaks Dask's protocol.

    A client that is made of an address where nothing does hangs for twice its time-out when Python ends,
    and Dask itself waits for the first word of a server without limit.
    """
    from distributed.comm import connect, get_address_host_port, normalize_address, parse_address
    from distributed.security import Security

    full = normalize_address(address)
    if parse_address(full)[0] == "inproc":
        return
    get_address_host_port(full, strict=True)

    async def ask() -> None:
        connection = await connect(
            full, timeout=timeout_s, **Security().get_connection_args("client")
        )
        await connection.close()

    # The caller's thread may have an event loop that runs, as in a notebook.
    with ThreadPoolExecutor(1) as aside:
        asked = aside.submit(asyncio.run, asyncio.wait_for(ask(), timeout_s))
    try:
        asked.result()
    except OSError:
        raise
    except Exception as error:
        # Dask takes the first bytes of another protocol for a length, and asks for as much memory.
        raise ConnectionError("what answers there does not speak Dask's protocol") from error


def _address_in(path: Path, config: ClusterConfig) -> str:
    """Return the address in a scheduler's file, which it may be about to write."""
    ends = time.monotonic() + config.timeout_s
    while not path.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    try:
        text = path.read_text(encoding="utf-8")
        address: str = json.loads(text)["address"]
    except FileNotFoundError as error:
        raise ClusterError(
            f"The scheduler file {path} did not appear within {config.timeout_s:g} s. Start the "
            f"scheduler with `dask scheduler --scheduler-file {path}`, on a file system that both see."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a file that `dask scheduler --scheduler-file` wrote: it holds no address."
        ) from error
    return address

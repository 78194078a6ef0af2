"""Whether workers see the files that this process sees, before any work starts."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from medl_scale.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["check_readable", "check_shared_folder"]

# A network file system may show a new file late.
_SEEN_WITHIN_S = 10.0


def check_readable(client: Client, path: str) -> None:
    """Raise unless all workers can open a store, a folder on disk or a URL.

    Raises
    ------
    ClusterError
        With the worker and the path.
    """
    for address, problem in client.run(_cannot_read, path).items():
        if problem:
            raise ClusterError(
                f"Worker {address} cannot see {path}: {problem}. Put it where all workers see it at the "
                "same path, such as a shared file system or an s3:// URL."
            )


def check_shared_folder(client: Client, folder: Path, *, prefix: str) -> None:
    """Raise unless all workers write where this process does.

    The folder is made if need be, and removed again if a worker does not see it.

    Parameters
    ----------
    prefix
        Of the names of the files that are written, and removed again.

    Raises
    ------
    ClusterError
        With the worker and the folder.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"{prefix}{secrets.token_hex(8)}"
    try:
        mark.touch()
        told = client.run(_cannot_write, str(mark), _SEEN_WITHIN_S)
    finally:
        mark.unlink(missing_ok=True)
    for address, problem in told.items():
        if problem:
            for place in made:
                place.rmdir()
            raise ClusterError(
                f"Worker {address} cannot write the run's folder {folder}: {problem}. Choose an "
                "--output on a file system that all workers share."
            )


def _cannot_read(path: str) -> str | None:
    """Say why a store cannot be opened; runs on a worker."""
    if "://" not in path:
        try:
            # Listing tells more than existence: a stale mount exists too.
            next(Path(path).iterdir(), None)
        except OSError as error:
            return error.strerror or str(error)
        return None
    import fsspec

    try:
        system, place = fsspec.core.url_to_fs(path)
        return None if system.exists(place) else "nothing is there"
    except Exception as error:  # noqa: BLE001 - every kind of storage has errors of its own
        return f"{type(error).__name__}: {error}"


def _cannot_write(mark: str, within_s: float) -> str | None:
    """Say why a worker cannot write beside a file that the driver has made; runs on a worker."""
    path = Path(mark)
    ends = time.monotonic() + within_s
    while not path.exists():
        if time.monotonic() > ends:
            return "it does not see what was written there on the machine that started the run"
        if not path.parent.exists():
            return "No such folder"
        time.sleep(0.2)
    own = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    try:
        own.touch()
        own.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None

"""What lies at a place, on disk or at a URL: files, their sizes, Zarr groups and arrays.

Credentials and endpoints are fsspec's own matter (`FSSPEC_S3_ENDPOINT_URL`, `FSSPEC_CONFIG_DIR`,
`AWS_*`), so that every worker opens a URL by itself. Only this module and `store.remote` know fsspec.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import zarr

from medl_scale.errors import ConfigError, MedlError, MissingExtraError, StoreError
from medl_scale.store.places import as_place, is_url

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from zarr.storage import FsspecStore

__all__ = [
    "exists",
    "file_sizes",
    "filesystem",
    "folders_in",
    "has_file",
    "many_requests",
    "named_errors",
    "open_array",
    "open_group",
    "reaching",
    "read_file",
    "zarr_store",
]

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_REQUESTS_AT_ONCE = 64
# What decoding what is not whole raises.
_DAMAGE = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def exists(ref: str | os.PathLike[str]) -> bool:
    """Say whether there is anything at a place.

    Raises
    ------
    StoreError
        If a URL cannot be reached.
    """
    place = as_place(ref)
    if not is_url(place):
        return Path(place).exists()
    with named_errors(place):
        return _kind_at(*filesystem(place)) is not None


def has_file(ref: str | os.PathLike[str], name: str) -> bool:
    """Say whether a store has a file, or an object, of a name; raises as `exists`."""
    place = as_place(ref)
    if not is_url(place):
        return Path(place, name).is_file()
    with named_errors(place):
        system, root = filesystem(place)
        return _kind_at(system, f"{root}/{name}") == "file"


def read_file(ref: str | os.PathLike[str], name: str) -> bytes | None:
    """Return the content of a small file of a store, None where there is none; raises as `exists`."""
    place = as_place(ref)
    try:
        if not is_url(place):
            return Path(place, name).read_bytes()
        with reaching(place):
            system, root = filesystem(place)
            return bytes(system.cat_file(f"{root}/{name}"))
    except FileNotFoundError:
        return None


def file_sizes(ref: str | os.PathLike[str]) -> dict[str, int]:
    """Return the bytes of every file below a place, by its path from there; raises as `exists`."""
    place = as_place(ref)
    if not is_url(place):
        root = Path(place)
        return {
            file.relative_to(root).as_posix(): file.stat().st_size
            for file in sorted(root.rglob("*"))
            if file.is_file()
        }
    try:
        with reaching(place):
            system, base = filesystem(place)
            found = system.find(base, detail=True)
    except FileNotFoundError:
        return {}
    return {
        path.removeprefix(base).lstrip("/"): int(entry["size"])
        for path, entry in sorted(found.items())
    }


def folders_in(ref: str | os.PathLike[str]) -> list[str]:
    """Return the names of the Zarr arrays and groups right below a place; raises as `exists`."""
    place = as_place(ref)
    if not is_url(place):
        return sorted(file.parent.name for file in Path(place).glob("*/zarr.json"))
    inside = (name.split("/") for name in file_sizes(place))
    return sorted(parts[0] for parts in inside if len(parts) == 2 and parts[1] == "zarr.json")


def open_group(
    ref: str | os.PathLike[str], mode: Literal["r", "r+"] = "r", **options: Any
) -> zarr.Group:
    """Open a Zarr group, with the options of `zarr.open_group`; its errors are those of Zarr."""
    return zarr.open_group(zarr_store(ref, read_only=mode == "r"), mode=mode, **options)


def open_array(ref: str | os.PathLike[str]) -> zarr.Array[Any]:
    """Open a Zarr v3 array for reading; its errors are those of Zarr."""
    return zarr.open_array(zarr_store(ref), mode="r", zarr_format=3)


def zarr_store(ref: str | os.PathLike[str], *, read_only: bool = True) -> str | FsspecStore:
    """Return what Zarr opens at a place."""
    place = as_place(ref)
    if not is_url(place):
        return place
    from zarr.storage import FsspecStore

    with _named_kind(place):
        return FsspecStore.from_url(place, storage_options=_options(place), read_only=read_only)


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and its path there.

    Raises
    ------
    MissingExtraError
        If a package is missing; the message holds its install line.
    ConfigError
        If there is no such kind of storage.
    """
    from fsspec.core import url_to_fs

    with _named_kind(url):
        system, root = url_to_fs(url, **_options(url))
    return system, root.rstrip("/")


@contextmanager
def many_requests(ref: str | os.PathLike[str]) -> Iterator[None]:
    """Let Zarr ask for more objects at once where each answer takes long."""
    if not is_url(ref):
        yield
        return
    with zarr.config.set({"async.concurrency": _REQUESTS_AT_ONCE}):
        yield


@contextmanager
def named_errors(ref: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what reading a store raises into a `StoreError` that names it.

    It says whether a URL cannot be reached (endpoint, credentials) or what is there is damaged.
    """
    place = as_place(ref)
    try:
        with reaching(place):
            yield
    except MedlError:
        raise
    except _DAMAGE as error:
        raise StoreError(
            f"The store {place} cannot be read ({error!r}): it is truncated or damaged. "
            "Copy it again, or prepare it again."
        ) from error


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Turn what an unreachable URL raises into a `StoreError`, and let pass what other errors there are."""
    try:
        yield
    except (MedlError, FileNotFoundError):
        raise
    except Exception as error:  # every kind of storage has errors of its own
        told = isinstance(error, OSError) or not isinstance(error, _DAMAGE)
        if not is_url(place) or not told:
            raise
        raise StoreError(
            f"{place} cannot be reached ({type(error).__name__}: {error}). Check the URL, and the "
            "endpoint and credentials that fsspec finds: for S3, FSSPEC_S3_ENDPOINT_URL and AWS_*."
        ) from error


def _kind_at(system: Any, path: str) -> str | None:
    """Return `file` or `directory`, None for nothing; fsspec's own `exists` takes errors for that."""
    try:
        return str(system.info(path)["type"])
    except FileNotFoundError:
        return None


@contextmanager
def _named_kind(url: str) -> Iterator[None]:
    """Name the package that a kind of storage needs, or the kinds there are."""
    scheme = url.split("://")[0].split("::")[-1]
    try:
        yield
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        line = f"pip install 'medl-scale[{extra}]'" if extra else f"pip install 'fsspec[{scheme}]'"
        raise MissingExtraError(
            f"{url} needs a package that is not installed: {error}. Run `{line}` here and on all workers."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{url} is no URL that can be opened: {error}. Give a path, or a URL such as "
            "s3://bucket/atlas.zarr or gs://bucket/atlas.zarr."
        ) from error


def _options(url: str) -> dict[str, Any]:
    """Return the options of a file system that fsspec's configuration leaves to us."""
    if "::" in url:
        return {}
    from fsspec.config import conf

    # Other processes write to the same store: a listing that is kept would be out of date.
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("s3://", "s3a://")) and "config_kwargs" not in conf.get("s3", {}):
        options["config_kwargs"] = {"max_pool_connections": _REQUESTS_AT_ONCE}
    return options

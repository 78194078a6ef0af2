"""Memory that a step frees is kept for the next one."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Where glibc's own adjustment of both ends.
_MMAP_THRESHOLD = 32 << 20
_TRIM_THRESHOLD = 2 * _MMAP_THRESHOLD


def keep_freed_memory() -> None:
    """Let this process reuse large arrays, as processes do that Dask has not started.

    Dask starts its workers with `MALLOC_TRIM_THRESHOLD_`, with which the C library gives all large
    arrays back to the system when they are freed, and clears new pages for the next ones: a step of
    training takes a quarter longer. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)

"""Freed memory that stays with the process: small arrays cost less than the pages that the system gives anew."""

from __future__ import annotations

import ctypes
import os
import platform

LIMIT = 1 << 30
"""Bytes kept at most, unless told otherwise."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_memory(limit: int = LIMIT) -> bool:
    """Let the process keep up to `limit` bytes that arrays have freed, for the arrays made next; True where it will.

    Each step of training frees its arrays and makes as many again. By default much of their memory goes back to the
    system in between, which fills every page with zeros before it lends it again: a quarter of the time of small steps.
    This holds for the whole process until it ends. Only glibc (most of Linux) can; False elsewhere, and where the
    environment has settled the matter (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, MALLOC_MMAP_MAX_,
    GLIBC_TUNABLES). Raises `ValueError` unless `limit` is from 0 to 2^31 - 1.
    """
    if not 0 <= limit < 1 << 31:
        raise ValueError(f"limit must be from 0 to 2^31 - 1 bytes, got {limit}")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _VARIABLES):
        return False
    set_option = ctypes.CDLL(None).mallopt
    # an array with a mapping of its own, as large ones have by default, would go back whole each time
    return bool(set_option(_MMAP_MAX, 0) and set_option(_TRIM_THRESHOLD, limit))

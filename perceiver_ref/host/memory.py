"""What fits into this machine: asked before something large is made, so that it is a line and not a killed process."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from ..errors import InputError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SMALL = 1 << 28  # bytes that every machine has


@lru_cache(maxsize=1)
def available() -> int:
    """Bytes that this process may have: of the machine, of its container, of its own limit, the least."""
    found = [1 << 62]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in _LIMITS:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        found += [int(text)] if text.isdigit() else []
    try:
        import resource
    except ImportError:  # not on Windows
        pass
    else:
        own = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [own] if own != resource.RLIM_INFINITY else []
    return min(n for n in found if n > 0)


def require(what: str, size: int) -> None:
    """Raise `InputError` when `what`, of `size` bytes, does not fit into the memory that there is."""
    if size > _SMALL and size > available():
        raise InputError(f"{what} needs {gib(size)}, more than the {gib(available())} that there are")


def gib(size: int) -> str:
    """Bytes for a reader."""
    if size >= 1 << 70:
        return f"2^{size.bit_length() - 31} GiB"
    return f"{size / (1 << 30):,.1f} GiB"

"""What a run needs of memory, for its log."""

from __future__ import annotations

import sys

from ..autograd.backend import module


def used(backend: str = "numpy") -> int:
    """Bytes: the most that this process has had so far, or that its arrays hold on the device; 0 where unknown."""
    if backend == "cupy":
        return int(module("cupy").get_default_memory_pool().total_bytes())
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def shown(size: int) -> str:
    """Bytes for a line: "312 MiB", "1.4 GiB"."""
    mib = size / (1 << 20)
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"

"""The most memory that a call needs: of the process on the CPU, of the library's pool on a GPU."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int:
    """Bytes of this process in memory, after what was freed went back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS") or _largest()


def process_peak(held: int) -> Callable[[Callable[[], None]], int]:
    """A `Built.peak` for the CPU. The mark of the largest size is reset first, where the system allows it."""

    def peak(call: Callable[[], None]) -> int:
        resident()
        with suppress(OSError):
            _CLEAR.write_text("5")
        call()
        return max((_status("VmHWM") or _largest()) - held, 0)

    return peak


def cupy_peak(cupy: Any) -> Callable[[Callable[[], None]], int]:
    """A `Built.peak` of CuPy's memory pool: what arrays hold, without what the pool keeps for later."""

    class Count(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "bench.Count"
        now = most = 0

        def malloc_postprocess(self, **given: Any) -> None:
            self.now += given["mem_size"]
            self.most = max(self.most, self.now)

        def free_postprocess(self, **given: Any) -> None:
            self.now -= given["mem_size"]

    def peak(call: Callable[[], None]) -> int:
        gc.collect()
        with Count() as count:
            call()
        return int(count.most)

    return peak


def torch_peak(torch: Any, held: int) -> Callable[[Callable[[], None]], int]:
    """A `Built.peak` of PyTorch's allocator on a GPU, above what it held before any gradient was there."""

    def peak(call: Callable[[], None]) -> int:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        call()
        return max(int(torch.cuda.max_memory_allocated()) - held, 0)

    return peak


def available() -> int:
    """Bytes that can be had without swapping; 2^62 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) << 10
    return 1 << 62


def _status(key: str) -> int:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) << 10
    return 0


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

"""Company: processes that compute without a pause, beside which implementations take their turns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 64
"""Busy processes at most."""

_LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):  # whatever becomes of it
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def beside(number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Within this context so many other processes are busy; they end with it, or with this process."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += (subprocess.Popen([sys.executable, "-S", "-c", _LOOP, str(os.getpid())]) for _ in range(number))
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
